"""The schema that a run's answer has to fit: kept with the run, so that it goes with what was said in its thread."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from horarium.ledger.database import Ledger
from horarium.ledger.runs import Runs
from horarium.structured import AnswerSchema

_KEPT_RUNS = 1_000


class AnswerSchemas:
    """Those of a ledger's runs; one object for each process. From a run's first step on, its schema never changes."""

    def __init__(self, ledger: Ledger) -> None:
        self._runs = Runs(ledger)
        self._known: OrderedDict[str, dict[str, Any] | None] = OrderedDict()

    async def settle(
        self, run: str, *, asked: Mapping[str, Any] | None, resumes: str | None, agents: Mapping[str, Any] | None
    ) -> bool:
        """Say, before the first step, what a run's answer has to fit; whether it has to fit anything. Safe to repeat.

        The first that is there counts: what the run was written down with, what it was started with, what whoever
        started the run that it resumes had said, and the agent's own.

        Raises:
            RunNotFound: There is no such run.
        """
        if AnswerSchema.of((await self._runs.get(run)).metadata) is not None:
            return True
        before = AnswerSchema.of((await self._runs.get(resumes)).metadata) if asked is None and resumes else None
        if asked is not None:
            chosen = AnswerSchema(json_schema=dict(asked), own=True)
        elif before is not None and before.own:
            chosen = before
        elif agents is not None:
            chosen = AnswerSchema(json_schema=dict(agents))
        else:
            return False
        await self._runs.annotate(run, chosen.as_metadata())
        return True

    async def of_run(self, run: str) -> dict[str, Any] | None:
        """What the answer of a run that is open has to fit."""
        if run not in self._known:
            found = AnswerSchema.of((await self._runs.get(run)).metadata)
            self._known[run] = found.json_schema if found is not None else None
            if len(self._known) > _KEPT_RUNS:
                self._known.popitem(last=False)
        return self._known[run]
