"""Functions that whoever started a run carries out: which a run has, which of their calls wait, and what came of them.

An output counts from the moment in which it stands here, whoever brought it; the run is only told that it is there.
Once the step is settled with it, the step has it alone.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Literal

from sqlalchemy import bindparam, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import INLINE_BYTES, clean_text, digest_text
from horarium.contract import CallerFunction
from horarium.errors import FunctionCallNotFound, OutputRefused
from horarium.ids import function_call_id
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.schema import function_calls, run_functions, runs

KEPT_RUNS = 1_000
_OF_RUN = Prepared(
    select(run_functions.c.functions, run_functions.c.choice).where(run_functions.c.run_id == bindparam("of_run"))
)
WhyEnded = Literal["expired", "withdrawn"]


@dataclass(frozen=True, slots=True)
class RunFunctions:
    """The functions of a run. `choice`: the tool that has to be called first, `*` for whichever, None for none."""

    functions: tuple[CallerFunction, ...] = ()
    choice: str | None = None


@dataclass(frozen=True, slots=True)
class FunctionCall:
    """One call that was given to whoever started its run."""

    run_id: str
    step: int
    tool: str
    asked_at: datetime
    expires_at: datetime | None
    submitted_at: datetime | None
    by: str | None
    digest: str | None
    output: str | None
    output_blob: str | None
    ended: WhyEnded | None

    @property
    def call_id(self) -> str:
        """Its id, for whoever carries it out."""
        return function_call_id(self.run_id, self.step)

    @property
    def waits(self) -> bool:
        """Whether an output can still be submitted, as long as its run is open."""
        return self.submitted_at is None and self.ended is None


@dataclass(frozen=True, slots=True)
class _Output:
    """A text as it is stored."""

    digest: str
    text: str | None
    blob: str | None


class Functions:
    """The functions of a ledger's runs; one object for each process."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert
        self._known: OrderedDict[str, RunFunctions] = OrderedDict()  # they never change

    # ---- which there are

    async def keep(self, run: str, functions: RunFunctions) -> RunFunctions:
        """Say once and for all which functions a run has; the first word stands."""
        async with self._ledger.write() as connection:
            await self.keep_within(connection, run, functions)
        return await self.of_run(run)

    async def keep_within(self, connection: Statements, run: str, functions: RunFunctions) -> None:
        """As `keep`, in a transaction that is open."""
        values = {
            "run_id": run,
            "functions": [one.model_dump(mode="json") for one in functions.functions],
            "choice": functions.choice,
            "created_at": datetime.now(UTC),
        }
        await connection.execute(self._insert(run_functions).values(**values).on_conflict_do_nothing())

    async def of_run(self, run: str) -> RunFunctions:
        """The functions of a run; of one that has none, nothing."""
        known = self._known.get(run)
        if known is not None:
            return known
        async with self._ledger.read() as connection:
            rows = await connection.run(_OF_RUN, of_run=run)
        if not rows:
            return RunFunctions()
        functions, choice = rows[0]
        found = RunFunctions(tuple(CallerFunction.model_validate(one) for one in functions), choice)
        self._known[run] = found
        if len(self._known) > KEPT_RUNS:
            self._known.popitem(last=False)
        return found

    # ---- their calls

    async def ask(self, run: str, step: int, tool: str, *, at: datetime, expires_at: datetime | None) -> FunctionCall:
        """Give a call to whoever started the run; the same twice is one."""
        values = {"run_id": run, "step": step, "tool": tool, "asked_at": at, "expires_at": expires_at}
        async with self._ledger.write() as connection:
            await connection.execute(self._insert(function_calls).values(**values).on_conflict_do_nothing())
            return await _call(connection, run, step)

    async def calls(self, run: str) -> list[FunctionCall]:
        """All calls of a run that were given to whoever started it, in order."""
        query = select(function_calls).where(function_calls.c.run_id == run).order_by(function_calls.c.step)
        async with self._ledger.read() as connection:
            return [FunctionCall(*row) for row in await connection.execute(query)]

    async def submit(self, run: str, outputs: Mapping[int, str], *, by: str | None) -> tuple[int, ...]:
        """Take the outputs of these calls, by the step's number: all of them, or none.

        Texts are made storable; large ones go to the blob store.

        Returns:
            The steps whose output was there before, the same: nothing changed for them.

        Raises:
            FunctionCallNotFound: No such call was given to anybody.
            OutputRefused: Another output was first, or the run no longer waits for one.
        """
        stored = {step: await self._stored(text) for step, text in outputs.items()}
        repeated: list[int] = []
        async with self._ledger.write() as connection:
            now = datetime.now(UTC)
            closed_at = await connection.scalar(select(runs.c.closed_at).where(runs.c.id == run))
            for step, output in stored.items():
                if await self._is_there(connection, run, step, output, run_ended=closed_at is not None):
                    repeated.append(step)
                    continue
                values = {"submitted_at": now, "by": by, "digest": output.digest}
                await connection.execute(
                    update(function_calls)
                    .where(function_calls.c.run_id == run, function_calls.c.step == step)
                    .values(**values, output=output.text, output_blob=output.blob)
                )
        return tuple(repeated)

    async def _is_there(self, connection: Statements, run: str, step: int, output: _Output, *, run_ended: bool) -> bool:
        call = await _call(connection, run, step, lock=True)
        if call.submitted_at is not None:
            if call.digest == output.digest:
                return True
            by = f", from {call.by}" if call.by else ""
            raise OutputRefused(f"Call {call.call_id!r} has another output already{by}; the first one stands.")
        if call.ended == "expired":
            raise OutputRefused(f"Call {call.call_id!r} waits no longer: no output came in time.")
        if call.ended is not None or run_ended:
            raise OutputRefused(f"Call {call.call_id!r} waits no longer: its run has ended.")
        return False

    async def end(self, run: str, step: int, why: WhyEnded) -> FunctionCall:
        """Wait for an output no longer, unless there is one; how the call stands afterwards."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(function_calls)
                .where(
                    function_calls.c.run_id == run,
                    function_calls.c.step == step,
                    function_calls.c.submitted_at.is_(None),
                    function_calls.c.ended.is_(None),
                )
                .values(ended=why)
            )
            return await _call(connection, run, step)

    async def call(self, run: str, step: int) -> FunctionCall:
        """One call.

        Raises:
            FunctionCallNotFound: There is none at this step.
        """
        async with self._ledger.read() as connection:
            return await _call(connection, run, step)

    async def output(self, call: FunctionCall) -> str | None:
        """What was submitted, whole; None when nothing was, or the step has it already."""
        if call.output_blob is not None:
            return (await self._ledger.blobs.get(call.output_blob)).decode("utf-8", "replace")
        return call.output

    async def settled(self, run: str, step: int) -> None:
        """The step has the output now; it stands nowhere else."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(function_calls)
                .where(function_calls.c.run_id == run, function_calls.c.step == step)
                .values(output=None, output_blob=None)
            )

    async def _stored(self, text: str) -> _Output:
        cleaned = clean_text(text)[0]
        if len(cleaned) <= INLINE_BYTES:
            return _Output(digest_text(cleaned), cleaned, None)
        blob, _ = await self._ledger.blobs.put(cleaned)
        return _Output(digest_text(cleaned), None, blob)


async def _call(connection: Statements, run: str, step: int, *, lock: bool = False) -> FunctionCall:
    query = select(function_calls).where(function_calls.c.run_id == run, function_calls.c.step == step)
    row = (await connection.execute(query.with_for_update() if lock else query)).first()
    if row is None:
        raise FunctionCallNotFound(f"There is no call {function_call_id(run, step)!r} that waits for an output.")
    return FunctionCall(*row)
