"""`horarium routine diff` and `horarium runs diff`: what is different between two ticks, or two runs."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Annotated, Any

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.reach import find_run, opened_ledger
from horarium.cli.rows import heading, pairs
from horarium.cli.start import JsonOption
from horarium.durations import words as duration_words
from horarium.evidence.sides import diff_runs, diff_ticks
from horarium.tickdiff import Change, Difference, Figure, StepPair, text_difference

VALUE_CHARS = 120
MARKS = {"same": " ", "added": "+", "removed": "-", "changed": "~"}
STYLES = {"+": "green", "-": "red", "~": "yellow"}
FIGURES = {"duration_ms": "took", "input_tokens": "tokens in", "output_tokens": "tokens out", "cost_micro_usd": "cost"}


def routine_diff(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The routine's name.")],
    before: Annotated[
        str | None, typer.Argument(metavar="TICK", help="Its id or time, as much as is unique; else the last but one.")
    ] = None,
    after: Annotated[str | None, typer.Argument(metavar="TICK", help="The other one; else the last.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Show what is different between two ticks: input, definitions, calls, files, answer, and what they cost.

    Without ticks it compares the last two that began. Needs only the ledger.

    \b
    Exit codes: 0 done, whether they differ or not, 2 there is no such tick, 3 cannot reach the ledger.

    \b
    Examples:
      horarium routine diff nightly-triage
      horarium routine diff nightly-triage 2026-11-20 2026-11-21
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            found = await diff_ticks(ledger, name, before, after)
        return _say(found, as_json=as_json)

    talk.perform(work())


def runs_diff(
    before: Annotated[str, typer.Argument(metavar="RUN", help="A run's id, or as much of it as is unique.")],
    after: Annotated[str, typer.Argument(metavar="RUN", help="The other one.")],
    as_json: JsonOption = False,
) -> None:
    """Show what is different between two runs: input, definitions, calls, files, answer, and what they cost.

    Needs only the ledger.

    \b
    Exit codes: 0 done, whether they differ or not, 2 there is no such run, 3 cannot reach the ledger.

    \b
    Example:
      horarium runs diff run_01JD8 run_01JD9
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            one, other = [(await find_run(ledger, said)).id for said in (before, after)]
            found = await diff_runs(ledger, one, other)
        return _say(found, as_json=as_json)

    talk.perform(work())


def _say(found: Difference, *, as_json: bool) -> int:
    if as_json:
        talk.emit(found.model_dump(mode="json"))
        return talk.DONE
    pairs([("before", _compared(found.before)), ("after", _compared(found.after))])
    pairs([(FIGURES.get(one.name, one.name), _figure(one)) for one in found.figures if one.before != one.after])
    for title, lines in _parts(found):
        heading(title)
        for line in lines:
            _line(line)
    if found.same:
        talk.out().print(Text("They did the same and came to the same."))
    return talk.DONE


def _parts(found: Difference) -> Iterator[tuple[str, list[str]]]:
    for title, changed in (("Agent", found.agent), ("Routine", found.routine)):
        if changed:
            yield title, [line for one in changed for line in _change(one)]
    if found.input:
        yield "Input", found.input.splitlines()
    if any(pair.change != "same" for pair in found.steps):
        yield "Calls", [line for pair in found.steps for line in _pair(pair)]
    if found.steps_left_out:
        yield "Calls that were not compared", [f"{found.steps_left_out:,}"]
    if found.files:
        yield "Files", [f"{MARKS[one.change]} {words.one_line(one.path)}{_sizes(one)}" for one in found.files]
    if found.files is None:
        yield "Files", ["The files of one of them are not kept any more."]
    if found.output:
        yield "Answer", found.output.splitlines()


def _line(line: str) -> None:
    """A line of a difference, in the colour of its mark."""
    mark = line.lstrip()[:1]
    talk.out().print(Text(f"  {words.harmless(line)}", style=STYLES.get(mark, "")), soft_wrap=True)


def _compared(one: Any) -> str:
    status = f"{one.status} ({one.reason})" if one.reason else one.status
    agent = f", {one.agent}@{one.version}" if one.agent and one.version else ""
    return f"{one.id}: {status}{agent}" + (f", {one.run}" if one.run not in (None, one.id) else "")


def _figure(one: Figure) -> str:
    return " → ".join(_amount(one.name, value) for value in (one.before, one.after))


def _amount(name: str, value: int | None) -> str:
    if value is None:
        return "-"
    if name == "duration_ms":
        return duration_words(timedelta(milliseconds=value)) or "0s"
    return words.money(value) or "-" if name == "cost_micro_usd" else f"{value:,}"


def _change(one: Change) -> Iterator[str]:
    if isinstance(one.before, str) and isinstance(one.after, str) and "\n" in one.before + one.after:
        yield f"~ {one.path}"
        yield from (f"  {line}" for line in text_difference(one.before, one.after).splitlines()[2:])
        return
    if one.change != "added":
        yield f"- {one.path}: {_value(one.before)}"
    if one.change != "removed":
        yield f"+ {one.path}: {_value(one.after)}"


def _value(value: Any) -> str:
    return _cut(value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))


def _pair(pair: StepPair) -> Iterator[str]:
    shown = pair.after or pair.before
    if shown is None:
        return
    mark, arguments = MARKS[pair.change], shown.arguments or ""
    number = "/".join(str(one.number) for one in (pair.before, pair.after) if one is not None)
    yield f"{mark} {number} {shown.name} {_cut(arguments)}".rstrip()
    if pair.before is None or pair.after is None:
        return
    compared = {
        "arguments": (pair.before.arguments, pair.after.arguments),
        "status": (pair.before.status, pair.after.status),
        "outcome": (pair.before.output, pair.after.output),
    }
    for name in pair.differs:
        one, other = compared[name]
        if one == other:
            yield f"    {name}: differs further on"
        else:
            yield f"    - {name}: {_cut(one or '')}"
            yield f"    + {name}: {_cut(other or '')}"


def _sizes(one: Any) -> str:
    sizes = [f"{size:,}" for size in (one.before_bytes, one.after_bytes) if size is not None]
    return f" ({' → '.join(sizes)} bytes)"


def _cut(text: str) -> str:
    line = words.one_line(text)
    return line if len(line) <= VALUE_CHARS else f"{line[: VALUE_CHARS - 1]}…"
