"""The runs of sub-agents below a run, as a tree: how each stands, and what it waits for."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

from rich.text import Text

from horarium.cli import evidence, words
from horarium.contract import Waiting
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal
from horarium.ledger.lineage import MOST_LEVELS
from horarium.ledger.runs import RunRecord, Runs


@dataclass(frozen=True, slots=True)
class Below:
    """One sub-agent's run, and those below it."""

    run: RunRecord
    waiting: tuple[Waiting, ...]
    below: tuple[Below, ...]

    def json(self) -> dict[str, Any]:
        """With the keys of the run's own JSON."""
        return {
            "run": evidence.run_json(self.run),
            "waiting_for": [item.model_dump(mode="json") for item in self.waiting],
            "sub_runs": [item.json() for item in self.below],
        }

    def all_waiting(self) -> Iterator[Waiting]:
        """What is asked here and below, as the topmost run shows it: each answered at the run that asks."""
        for item in self.waiting:
            text = f"{self.run.agent}: {item.text}"
            yield item.model_copy(update={"kind": "sub_agent", "id": self.run.id, "text": text})
        for below in self.below:
            for item in below.all_waiting():
                yield item.model_copy(update={"text": f"{self.run.agent}: {item.text}"})


async def read(ledger: Ledger, run: str, levels: int = MOST_LEVELS) -> tuple[Below, ...]:
    """The tree below a run, in the order in which its parts were handed on."""
    if levels == 0:
        return ()
    found = []
    for child in await Runs(ledger).children(run):
        waiting: list[Waiting] = []
        if child.closed_at is None:
            steps, asked = await Journal(ledger).of_run(child.id), await Approvals(ledger).of_run(child.id)
            waiting = words.waiting(child, steps, asked)
        found.append(Below(child, tuple(waiting), await read(ledger, child.id, levels - 1)))
    return tuple(found)


def lines(tree: Sequence[Below], indent: str = "  ") -> Iterator[Text]:
    """One line for each run, and one for each thing that it waits for."""
    for item in tree:
        run = item.run
        used = words.tokens(run.input_tokens, run.output_tokens)
        line = Text(f"{indent}#{run.parent_step}  {run.agent}  ")
        line.append(words.status(run), style=evidence.STYLES.get(run.status, ""))
        line.append(f"  {run.id}" + (f"  {used} tokens" if run.closed_at and used != "-" else ""))
        yield line
        for waiting in item.waiting:
            yield Text(f"{indent}    waits for: {words.one_line(waiting.text)} ({waiting.question or waiting.id})")
        yield from lines(item.below, indent + "    ")
