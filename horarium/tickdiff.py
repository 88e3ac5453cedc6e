"""What is different between two ticks of a routine, or two runs: in what they were given, did, and came to.

Pure: two sides in, one difference out. Calls are aligned by tool and arguments, so that one call more does not make
every later one another; then by tool alone, so that the same call with other arguments is one that changed.
"""

from __future__ import annotations

import difflib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any, Literal

from pydantic import AwareDatetime, BaseModel, ConfigDict, Field

from horarium.content import canonical

MOST_LINES = 5_000  # of a text; comparing takes longer than their number says
MOST_STEPS = 2_000
CONTEXT = 3  # lines around a change

ChangeKind = Literal["added", "removed", "changed"]
Differs = Literal["arguments", "status", "outcome"]


@dataclass(frozen=True, slots=True)
class SideStep:
    """A call of one side. `outcome` is the digest of its whole output, `shown` its beginning."""

    number: int
    name: str
    arguments: str | None
    status: str
    outcome: str | None
    shown: str | None
    took: timedelta | None


@dataclass(frozen=True, slots=True)
class Side:
    """One of the two. `files`: name to size and digest, None where they are not kept any more."""

    id: str
    run: str | None
    agent: str | None
    version: int | None
    status: str
    reason: str | None
    message: str | None
    started_at: datetime | None
    took: timedelta | None
    attempts: int
    turns: int
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    input: str | None
    output: str
    definition: Mapping[str, Any] | None = None
    routine: Mapping[str, Any] | None = None
    steps: Sequence[SideStep] = ()
    files: Mapping[str, tuple[int, str]] | None = None


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True)


class Compared(_Part):
    """One of the two that were compared."""

    id: str
    run: str | None = Field(description="Of a tick the latest attempt; null: it never began.")
    agent: str | None
    version: int | None
    status: str
    reason: str | None
    message: str | None
    started_at: AwareDatetime | None


class Change(_Part):
    """One value of a definition."""

    path: str = Field(description="Like `limits.max_turns`.")
    change: ChangeKind
    before: Any = None
    after: Any = None


class Figure(_Part):
    """One number of both."""

    name: Literal["duration_ms", "attempts", "turns", "calls", "input_tokens", "output_tokens", "cost_micro_usd"]
    before: int | None = Field(description="Null: it is not known yet.")
    after: int | None


class Step(_Part):
    """One call."""

    number: int
    name: str
    arguments: str | None = Field(description="JSON.")
    status: str
    output: str | None = Field(description="Its beginning.")
    duration_ms: int | None


class StepPair(_Part):
    """A call of both, or of one."""

    change: Literal["same", "added", "removed", "changed"]
    differs: tuple[Differs, ...] = Field(default=(), description="In what, when it is of both and changed.")
    before: Step | None
    after: Step | None


class FileChange(_Part):
    """One file of the workspace."""

    path: str
    change: ChangeKind
    before_bytes: int | None
    after_bytes: int | None


class Difference(_Part):
    """All that is different, and the calls of both side by side."""

    before: Compared
    after: Compared
    same: bool = Field(description="Whether input, definitions, calls, files, status and answer are the same.")
    agent: list[Change] = Field(description="In the agent's definition.")
    routine: list[Change] = Field(description="In the routine's definition, of ticks.")
    input: str = Field(description="Unified diff of what was asked; empty: the same.")
    steps: list[StepPair]
    steps_left_out: int = Field(description="Calls beyond the first 2,000 of each, which were not compared.")
    files: list[FileChange] | None = Field(description="Null: the files of one of them are not kept any more.")
    output: str = Field(description="Unified diff of the final answers; empty: the same.")
    figures: list[Figure]


def difference(before: Side, after: Side) -> Difference:
    """What is different between two sides, the first being the earlier one."""
    agent = list(changes(before.definition or {}, after.definition or {}))
    routine = list(changes(before.routine or {}, after.routine or {}))
    asked = text_difference(before.input or "", after.input or "")
    answered = text_difference(before.output, after.output)
    pairs = list(aligned(before.steps[:MOST_STEPS], after.steps[:MOST_STEPS]))
    files = None
    if before.files is not None and after.files is not None:
        files = list(_file_changes(before.files, after.files))
    result = (before.status, before.reason) == (after.status, after.reason)
    who = (before.agent, before.version) == (after.agent, after.version)
    parts = (agent, routine, asked, answered, files, [pair for pair in pairs if pair.change != "same"])
    longer = max(0, len(before.steps) - MOST_STEPS) + max(0, len(after.steps) - MOST_STEPS)
    return Difference(
        before=_compared(before),
        after=_compared(after),
        same=result and who and not longer and not any(parts),
        agent=agent,
        routine=routine,
        input=asked,
        steps=pairs,
        steps_left_out=longer,
        files=files,
        output=answered,
        figures=[Figure(name=name, before=one, after=other) for name, one, other in _figures(before, after)],
    )


def changes(before: Any, after: Any, path: str = "") -> Iterator[Change]:
    """Where two JSON values differ; inside of lists by place."""
    if isinstance(before, Mapping) and isinstance(after, Mapping):
        for name in sorted({*before, *after}):
            below = f"{path}.{name}" if path else str(name)
            if name not in before:
                yield Change(path=below, change="added", after=after[name])
            elif name not in after:
                yield Change(path=below, change="removed", before=before[name])
            else:
                yield from changes(before[name], after[name], below)
    elif isinstance(before, list) and isinstance(after, list) and len(before) == len(after):
        for index, (one, other) in enumerate(zip(before, after, strict=True)):
            yield from changes(one, other, f"{path}.{index}" if path else str(index))
    elif canonical(before) != canonical(after):
        yield Change(path=path, change="changed", before=before, after=after)


def text_difference(before: str, after: str) -> str:
    """A unified diff; empty when they are the same. Of very long texts, the beginnings."""
    if before == after:
        return ""
    one, other = before.splitlines(), after.splitlines()
    lines = list(difflib.unified_diff(one[:MOST_LINES], other[:MOST_LINES], "before", "after", lineterm="", n=CONTEXT))
    if len(one) > MOST_LINES or len(other) > MOST_LINES:
        lines.append(f"[… only the first {MOST_LINES:,} lines of each were compared …]")
    # What differs in line ends alone has no lines that differ.
    return "\n".join(lines) or "[only line ends are different]"


def aligned(before: Sequence[SideStep], after: Sequence[SideStep]) -> Iterator[StepPair]:
    """The calls of both sides in order, each beside the one that it corresponds to."""
    matcher = difflib.SequenceMatcher(None, _keys(before), _keys(after), autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag == "equal":
            yield from map(_pair, before[start:end], after[other_start:other_end])
        else:
            yield from _aligned_by_name(before[start:end], after[other_start:other_end])


def _aligned_by_name(before: Sequence[SideStep], after: Sequence[SideStep]) -> Iterator[StepPair]:
    names = ([step.name for step in before], [step.name for step in after])
    matcher = difflib.SequenceMatcher(None, *names, autojunk=False)
    for tag, start, end, other_start, other_end in matcher.get_opcodes():
        if tag == "equal":
            yield from map(_pair, before[start:end], after[other_start:other_end])
            continue
        for step in before[start:end]:
            yield StepPair(change="removed", before=_step(step), after=None)
        for step in after[other_start:other_end]:
            yield StepPair(change="added", before=None, after=_step(step))


def _pair(before: SideStep, after: SideStep) -> StepPair:
    compared: tuple[tuple[Differs, Any, Any], ...] = (
        ("arguments", before.arguments, after.arguments),
        ("status", before.status, after.status),
        ("outcome", before.outcome, after.outcome),
    )
    differs = tuple(name for name, one, other in compared if one != other)
    return StepPair(change="changed" if differs else "same", differs=differs, before=_step(before), after=_step(after))


def _keys(steps: Sequence[SideStep]) -> list[tuple[str, str | None]]:
    return [(step.name, step.arguments) for step in steps]


def _step(step: SideStep) -> Step:
    return Step(
        number=step.number,
        name=step.name,
        arguments=step.arguments,
        status=step.status,
        output=step.shown,
        duration_ms=_milliseconds(step.took),
    )


def _file_changes(before: Mapping[str, tuple[int, str]], after: Mapping[str, tuple[int, str]]) -> Iterator[FileChange]:
    for path in sorted({*before, *after}):
        one, other = before.get(path), after.get(path)
        if one == other:
            continue
        kind: ChangeKind = "added" if one is None else "removed" if other is None else "changed"
        sizes = {"before_bytes": one[0] if one else None, "after_bytes": other[0] if other else None}
        yield FileChange(path=path, change=kind, **sizes)


def _figures(before: Side, after: Side) -> Iterator[tuple[Any, int | None, int | None]]:
    yield "duration_ms", _milliseconds(before.took), _milliseconds(after.took)
    yield "calls", len(before.steps), len(after.steps)
    for name in ("attempts", "turns", "input_tokens", "output_tokens", "cost_micro_usd"):
        yield name, getattr(before, name), getattr(after, name)


def _compared(side: Side) -> Compared:
    return Compared(**{name: getattr(side, name) for name in Compared.model_fields})


def _milliseconds(took: timedelta | None) -> int | None:
    return None if took is None else max(0, round(took.total_seconds() * 1_000))
