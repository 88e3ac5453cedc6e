"""The step protocol: claim, perform, settle.

The promise: a step that was settled is never done again; an external effect is done at most
once per approval, and exactly once where its tool honours the key; when nobody can know whether it
happened, the run says so and asks. Every step of every run goes through `claim` and `settle` and
nothing else writes to the `steps` table.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any, Literal, NamedTuple

import structlog
from sqlalchemy import ColumnElement, bindparam, func, insert, literal_column, null, select, update
from sqlalchemy.dialects import postgresql, sqlite
from sqlalchemy.exc import IntegrityError, SQLAlchemyError

from horarium.content import INLINE_BYTES, Cleaned, clean, cut, digest_text
from horarium.contract import StepKind, StepStatus, Usage
from horarium.errors import (
    NotApproved,
    OutcomeUnknown,
    RunNotFound,
    StepBlocked,
    StepCrashes,
    StepTaken,
    ThreadNotFound,
)
from horarium.ids import split_step_id
from horarium.ledger.approvals import approval_row, record_votes
from horarium.ledger.database import Ledger, Prepared, Statements, is_unreachable
from horarium.ledger.grants import Granting, record_grant
from horarium.ledger.lineage import topmost
from horarium.ledger.schema import approvals, edits, messages, runs, steps, ticks
from horarium.ledger.workspaces import record_change
from horarium.people import is_among
from horarium.protocol import Ballot
from horarium.routine_state import RoutineState
from horarium.tools import Effect
from horarium.workspaces.manifest import Change

SETTLED: tuple[StepStatus, ...] = ("completed", "failed", "rejected", "skipped", "cancelled")
log = structlog.get_logger()

SETTLE_PATIENCE = timedelta(minutes=10)
MAX_CRASHES = 12  # attempts that neither settled nor failed: the step takes its worker down


@dataclass(frozen=True, slots=True)
class StepRecord:
    """One step as the ledger has it. Times are UTC; `output` is what the model is shown."""

    run_id: str
    number: int
    kind: StepKind
    name: str
    status: StepStatus
    effect: str
    key: str | None
    call_id: str | None
    input_digest: str | None
    arguments: str | None
    output: str | None
    output_bytes: int | None
    output_blob: str | None
    changes: str | None
    code: str | None
    message: str | None
    by: str | None
    attempts: int
    failures: int
    permit: int
    token: str | None
    note: str | None
    partial: str | None
    model: str | None
    input_tokens: int
    output_tokens: int
    cost_micro_usd: int
    claimed_at: datetime | None
    settled_at: datetime | None
    untrusted: int


@dataclass(frozen=True, slots=True)
class StepClaim:
    """What is claimed. `permit` is raised each time a person says: do it (again)."""

    run_id: str
    number: int
    kind: StepKind
    name: str
    effect: Effect
    key: str | None = None
    call_id: str | None = None
    input_digest: str | None = None
    arguments: str | None = None
    permit: int = 0
    note: str | None = None
    untrusted: bool = False


@dataclass(frozen=True, slots=True)
class Answered:
    """A message to append to the thread: a settled step, a queued message, or a text of ours."""

    role: Literal["user", "system", "assistant", "tool"]
    step: str | None = None
    ref: str | None = None
    text: str | None = None
    call_id: str | None = None


@dataclass(frozen=True, slots=True)
class Held:
    """A claim: perform the step, then settle it with this. `attempt` counts from 1."""

    claim: StepClaim
    token: str
    attempt: int
    failures: int


@dataclass(frozen=True, slots=True)
class ApprovalRecorded:
    """What releases a call, written down in the transaction that claims the call."""

    id: str
    digest: str
    step: int
    ballots: tuple[Ballot, ...] = ()
    grant: Granting | None = None
    stands: bool = False  # released before: in the run that this one resumes, by a grant, or by the plan


class _Settlement(NamedTuple):
    status: StepStatus
    output: Any
    code: str | None
    message: str | None
    usage: Usage | None
    model: str | None
    thread: str | None
    append: tuple[Answered, ...]
    keep: bool
    state: RoutineState | None
    change: Change | None


_GET = Prepared(select(steps).where(steps.c.run_id == bindparam("of_run"), steps.c.number == bindparam("of_number")))
_OUTPUT = Prepared(
    select(steps.c.output).where(steps.c.run_id == bindparam("of_run"), steps.c.number == bindparam("of_number"))
)
_SETTLE = Prepared(
    update(steps)
    .where(
        steps.c.run_id == bindparam("of_run"),
        steps.c.number == bindparam("of_number"),
        steps.c.token == bindparam("of_token"),
        steps.c.status.in_([literal_column("'claimed'"), literal_column("'unknown'")]),
    )
    .values(
        partial=null(),
        **{
            name: bindparam(name)
            for name in (
                *(
                    "status",
                    "code",
                    "message",
                    "model",
                    "settled_at",
                    "input_tokens",
                    "output_tokens",
                    "cost_micro_usd",
                ),
                *("output", "output_bytes", "output_blob", "changes"),
            )
        },
    )
    .returning(*steps.c)
)
_OF_RUN = Prepared(
    select(steps)
    .where(steps.c.run_id == bindparam("of_run"), steps.c.number > bindparam("after"))
    .order_by(steps.c.number)
)
_LEAVE_UNKNOWN = Prepared(
    update(steps)
    .where(
        steps.c.run_id == bindparam("of_run"),
        steps.c.status == literal_column("'claimed'"),
        steps.c.kind == literal_column("'tool_call'"),
        steps.c.effect != literal_column(f"'{Effect.READ.value}'"),
    )
    .values(status=literal_column("'unknown'"), code=literal_column("'outcome_unknown'"), message=bindparam("message"))
    .returning(steps.c.number)
)
_LEAVE_CANCELLED = Prepared(
    update(steps)
    .where(
        steps.c.run_id == bindparam("of_run"),
        steps.c.status.in_([literal_column("'claimed'"), literal_column("'pending'")]),
    )
    .values(status=literal_column("'cancelled'"), settled_at=bindparam("settled_at"))
    .returning(steps.c.number)
)
_before = messages.alias()
_NEXT_SEQ = (
    select(func.coalesce(func.max(_before.c.seq), literal_column("-1")) + literal_column("1"))
    .where(_before.c.thread_id == bindparam("of_thread"))
    .scalar_subquery()
)
_APPEND_NAMES = ("thread_id", "role", "text", "run_id", "step", "call_id", "created_at")
_APPEND = Prepared(
    insert(messages)
    .values({**{name: bindparam(name) for name in _APPEND_NAMES}, "seq": _NEXT_SEQ})
    .returning(messages.c.seq)
)
_PLACE = Prepared(
    update(messages)
    .where(messages.c.thread_id == bindparam("of_thread"), messages.c.ref == bindparam("of_ref"))
    .where(messages.c.seq.is_(None))
    .values(seq=_NEXT_SEQ)
    .returning(messages.c.seq)
)


def _fresh_claim(insert_into: Any) -> Prepared:
    names = (
        "run_id",
        "number",
        "kind",
        "name",
        "effect",
        "key",
        "call_id",
        "input_digest",
        "arguments",
        "permit",
        "note",
        "untrusted",
    )
    given: dict[str, Any] = {name: bindparam(name) for name in (*names, "token", "claimed_at")}
    zeros: dict[str, Any] = dict.fromkeys(
        ("failures", "input_tokens", "output_tokens", "cost_micro_usd"), literal_column("0")
    )
    statement = insert_into(steps).values(
        status=literal_column("'claimed'"), attempts=literal_column("1"), **zeros, **given
    )
    return Prepared(statement.on_conflict_do_nothing().returning(steps.c.number))


# By whether the ledger is SQLite's: the two databases have their own words for a conflict.
_CLAIM_FRESH = {True: _fresh_claim(sqlite.insert), False: _fresh_claim(postgresql.insert)}


class Journal:
    """The step protocol on a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def claim(
        self,
        claim: StepClaim,
        *,
        thread: str | None = None,
        append: Sequence[Answered] = (),
        approval: ApprovalRecorded | None = None,
        token: str | None = None,
    ) -> Held | StepRecord:
        """Claim a step, once, before anything of it is done.

        A fresh claim appends `append` to the thread and records `approval` in the same transaction. `token`: of an
        attempt that asks over a network, so that it can ask again when the answer was lost: what it holds already it
        is given again, and what it gave back it is not.

        Returns:
            `Held` when the step is to be performed, or the record when it is settled already: then do nothing.

        Raises:
            OutcomeUnknown: An external effect was claimed by an earlier attempt that never settled it.
            StepCrashes: The step has taken its worker down `MAX_CRASHES` times.
            NotApproved: `approval` contradicts what the ledger has.
            RunNotFound: The run was never opened.
        """
        token = token or secrets.token_hex(8)
        async with self._ledger.write(durable=claim.effect is Effect.EXTERNAL) as connection:
            now = datetime.now(UTC)
            if approval is not None:
                await self._record(connection, claim, approval)
            try:
                fresh = await connection.run(
                    _CLAIM_FRESH[self._ledger.is_sqlite],
                    run_id=claim.run_id,
                    number=claim.number,
                    kind=claim.kind,
                    name=claim.name,
                    effect=claim.effect.value,
                    key=claim.key,
                    call_id=claim.call_id,
                    input_digest=claim.input_digest,
                    arguments=claim.arguments,
                    permit=claim.permit,
                    note=claim.note,
                    untrusted=int(claim.untrusted),
                    token=token,
                    claimed_at=now,
                )
            except IntegrityError as error:
                raise RunNotFound(f"Run {claim.run_id!r} was never opened.") from error
            if fresh:
                if thread is not None and append:
                    await append_messages(connection, thread, claim.run_id, append, now)
                return Held(claim, token, 1, 0)
            return await self._claim_again(connection, claim, token)

    async def _claim_again(self, connection: Statements, claim: StepClaim, token: str) -> Held | StepRecord:
        record = await _one(connection, claim.run_id, claim.number)
        permitted = claim.permit > record.permit and record.status in (
            "unknown",
            "failed",
            "claimed",
            "pending",
        )
        if not permitted:
            if record.status in SETTLED:
                return record
            if record.token == token and record.status == "claimed":
                return Held(claim, token, record.attempts, record.failures)
            if record.token == token and record.status == "pending":
                raise StepBlocked(f"This attempt at step {claim.run_id}/{claim.number:04d} is over already.")
            if record.status == "unknown":
                raise OutcomeUnknown.held_by(
                    record.token, f"The outcome of step {claim.run_id}/{claim.number:04d} is unknown."
                )
            if record.status == "claimed":
                if claim.effect is Effect.EXTERNAL:
                    raise OutcomeUnknown.held_by(
                        record.token,
                        f"An earlier attempt of step {claim.run_id}/{claim.number:04d} ended without saying "
                        f"whether {claim.name!r} was done.",
                    )
                if record.attempts - record.failures >= MAX_CRASHES:
                    raise StepCrashes(f"{claim.name!r} was begun {MAX_CRASHES} times and never came to an end.")
        attempts = 1 if permitted else record.attempts + 1
        failures = 0 if permitted else record.failures
        await connection.execute(
            update(steps)
            .where(steps.c.run_id == claim.run_id, steps.c.number == claim.number)
            .values(
                status="claimed",
                token=token,
                permit=max(claim.permit, record.permit),
                attempts=attempts,
                failures=failures,
                arguments=claim.arguments if claim.arguments is not None else record.arguments,
                code=None,
                message=None,
                settled_at=None,
            )
        )
        return Held(claim, token, attempts, failures)

    async def take_over(self, claim: StepClaim, *, token: str | None = None, holder: str | None = None) -> Held:
        """Claim a blocked step after its `verify` probe said that it did not happen; `token` as for `claim`.

        Args:
            holder: Whose claim it was before the probe; of what another one does since then, the probe knew nothing.

        Raises:
            StepBlocked: It was settled meanwhile, or another attempt took it over.
        """
        token = token or secrets.token_hex(8)
        same = () if holder is None else (steps.c.token == holder,)
        async with self._ledger.write(durable=True) as connection:
            row = await connection.execute(
                update(steps)
                .where(
                    steps.c.run_id == claim.run_id,
                    steps.c.number == claim.number,
                    steps.c.status.in_(("claimed", "unknown")),
                    *same,
                )
                .values(status="claimed", token=token, attempts=steps.c.attempts + 1)
                .returning(steps.c.attempts, steps.c.failures)
            )
            found = row.first()
            if found is None:
                raise StepBlocked(f"Step {claim.run_id}/{claim.number:04d} was settled or taken over meanwhile.")
            return Held(claim, token, found.attempts, found.failures)

    async def settle(
        self,
        held: Held,
        status: StepStatus,
        output: Any = "",
        *,
        code: str | None = None,
        message: str | None = None,
        usage: Usage | None = None,
        model: str | None = None,
        thread: str | None = None,
        append: Sequence[Answered] = (),
        keep: bool = False,
        state: RoutineState | None = None,
        change: Change | None = None,
    ) -> StepRecord:
        """Store the outcome; the first settlement of a step stands, a later one changes nothing.

        `output` may be anything a tool can return; it is made storable here, and goes to the blob
        store when it is large or binary. `keep` stores a text whole whatever its size (a model's turn). `state`: what
        a tool changed in its routine's state, kept with the outcome; `change`: in its thread's workspace. A late
        settlement of the attempt that held the claim also counts while the outcome is still `unknown`.

        Returns:
            The record as it stands afterwards.
        """
        settlement = _Settlement(
            status, output, code, message, usage, model, thread, tuple(append), keep, state, change
        )
        return await _persistently(lambda: self._settle(held, settlement))

    async def _settle(self, held: Held, settlement: _Settlement) -> StepRecord:
        status, output, code, message, usage, model, thread, append, keep, state, change = settlement
        stored = await self._storable(output, keep=keep)
        claim = held.claim
        async with self._ledger.write(durable=claim.effect is Effect.EXTERNAL) as connection:
            now = datetime.now(UTC)
            used = usage or Usage()
            settled = await connection.run(
                _SETTLE,
                of_run=claim.run_id,
                of_number=claim.number,
                of_token=held.token,
                status=status,
                code=code,
                message=message,
                model=model,
                settled_at=now,
                input_tokens=used.input_tokens,
                output_tokens=used.output_tokens,
                cost_micro_usd=used.cost_micro_usd,
                **stored,
            )
            if not settled:
                return await _one(connection, claim.run_id, claim.number)
            if thread is not None and append:
                await append_messages(connection, thread, claim.run_id, append, now)
            if state is not None and state.changed:
                await _keep_state(connection, claim.run_id, state)
            record = StepRecord(*settled[0])
            return record if change is None else await _keep_change(connection, record, change, now)

    async def settle_unclaimed(
        self,
        claim: StepClaim,
        status: StepStatus,
        output: str,
        *,
        by: str | None = None,
        code: str | None = None,
        message: str | None = None,
    ) -> StepRecord:
        """Settle a step that no attempt will settle: a person did, or its call was never made."""
        stored = await self._storable(output)
        async with self._ledger.write() as connection:
            now = datetime.now(UTC)
            outcome = {
                "status": status,
                "by": by,
                "code": code,
                "message": message,
                "settled_at": now,
                **stored,
            }
            fresh = await connection.execute(
                self._insert(steps)
                .values(
                    run_id=claim.run_id,
                    number=claim.number,
                    kind=claim.kind,
                    name=claim.name,
                    effect=claim.effect.value,
                    key=claim.key,
                    call_id=claim.call_id,
                    input_digest=claim.input_digest,
                    arguments=claim.arguments,
                    untrusted=int(claim.untrusted),
                    attempts=0,
                    claimed_at=now,
                    **outcome,
                )
                .on_conflict_do_nothing()
            )
            if fresh.rowcount == 0:
                await connection.execute(
                    update(steps)
                    .where(
                        steps.c.run_id == claim.run_id,
                        steps.c.number == claim.number,
                        steps.c.status.in_(("claimed", "unknown", "pending", "failed")),
                    )
                    .values(token=None, **outcome)
                )
            return await _one(connection, claim.run_id, claim.number)

    async def adopt(self, claim: StepClaim, before: StepRecord) -> StepRecord:
        """Settle a step of a resumed run with what the run before it settled: it is not done again."""
        async with self._ledger.write() as connection:
            values = {
                column.name: getattr(before, column.name)
                for column in steps.c
                if column.name not in ("run_id", "number", "token", "attempts", "failures", "permit")
            }
            await connection.execute(
                self._insert(steps)
                .values(run_id=claim.run_id, number=claim.number, attempts=0, **values)
                .on_conflict_do_nothing()
            )
            return await _one(connection, claim.run_id, claim.number)

    async def attempt_failed(self, held: Held, message: str) -> int:
        """Give a claim back after an attempt that did nothing lasting. Returns the failures so far."""
        return await self._give_back(held, message, failed=1)

    async def hand_back(self, held: Held) -> None:
        """Give a claim back unperformed, as at a worker's shutdown; another attempt may take it at once."""
        await self._give_back(held, None, failed=0)

    async def _give_back(self, held: Held, message: str | None, *, failed: int) -> int:
        async with self._ledger.write() as connection:
            row = await connection.execute(
                update(steps)
                .where(
                    steps.c.run_id == held.claim.run_id,
                    steps.c.number == held.claim.number,
                    steps.c.token == held.token,
                    steps.c.status == "claimed",
                )
                .values(
                    status="pending",
                    message=message,
                    partial=None,
                    failures=steps.c.failures + failed,
                    attempts=steps.c.attempts - (1 - failed),
                )
                .returning(steps.c.failures)
            )
            found = row.first()
            return int(found.failures) if found is not None else held.failures + failed

    async def mark_untrusted(self, run_id: str, number: int) -> None:
        """Say that strangers wrote what a step will have as its output."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(steps).where(steps.c.run_id == run_id, steps.c.number == number).values(untrusted=1)
            )

    async def mark_unknown(self, claim: StepClaim, message: str) -> StepRecord:
        """Say that nobody knows whether the step happened. A settlement that was there first stands."""
        async with self._ledger.write(durable=True) as connection:
            await connection.execute(
                update(steps)
                .where(
                    steps.c.run_id == claim.run_id,
                    steps.c.number == claim.number,
                    steps.c.status == "claimed",
                )
                .values(status="unknown", code="outcome_unknown", message=message)
            )
            return await _one(connection, claim.run_id, claim.number)

    async def explain_unknown(self, run_id: str, number: int, output: str) -> None:
        """Give a step whose outcome is unknown the words a model is told of it."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(steps)
                .where(steps.c.run_id == run_id, steps.c.number == number, steps.c.status.in_(("claimed", "unknown")))
                .values(status="unknown", code="outcome_unknown", output=output)
            )

    async def progress(self, held: Held, partial: str) -> None:
        """Show what a streaming model has said so far to whoever watches."""
        async with self._ledger.write() as connection:
            await connection.execute(
                update(steps)
                .where(
                    steps.c.run_id == held.claim.run_id,
                    steps.c.number == held.claim.number,
                    steps.c.token == held.token,
                    steps.c.status == "claimed",
                )
                .values(partial=partial)
            )

    async def earlier(self, key: str, run_id: str) -> StepRecord | None:
        """What other runs know of the call with this idempotency key: a resumed run must not do it again.

        What was done or settled by a person says more than what nobody knows, and that more than what was not begun.
        Of other tenants' runs nothing is known: a key is no secret.
        """
        async with self._ledger.read() as connection:
            rows = await connection.execute(
                select(steps)
                .where(steps.c.key == key, steps.c.run_id != run_id, _of_same_tenant(steps.c.run_id, run_id))
                .order_by(steps.c.claimed_at.desc())
            )
            found = [StepRecord(*row) for row in rows]
        for telling in (("completed", "skipped", "rejected"), ("unknown", "claimed")):
            known = next((record for record in found if record.status in telling), None)
            if known is not None:
                return known
        return found[0] if found else None

    async def get(self, run_id: str, number: int) -> StepRecord:
        """One step.

        Raises:
            RunNotFound: There is no such step.
        """
        async with self._ledger.read() as connection:
            return await _one(connection, run_id, number)

    async def output_near(self, run_id: str, step: str) -> str | None:
        """What a step came to that a run goes on from; None: it was deleted with its thread.

        Raises:
            RunNotFound: As `near`.
        """
        origin, number = split_step_id(step)
        if origin != run_id:
            return (await self.near(run_id, step)).output
        async with self._ledger.read() as connection:
            rows = await connection.run(_OUTPUT, of_run=origin, of_number=number)
        if not rows:
            raise _no_step(origin, number)
        output: str | None = rows[0][0]
        return output

    async def near(self, run_id: str, step: str) -> StepRecord:
        """A step that a run goes on from, by its id: its own, or that of another run of the same tenant.

        Raises:
            RunNotFound: There is no such step, or it is another tenant's.
        """
        origin, number = split_step_id(step)
        async with self._ledger.read() as connection:
            if origin != run_id:
                near = select(runs.c.id).where(runs.c.id == origin, _of_same_tenant(runs.c.id, run_id))
                if await connection.scalar(near) is None:
                    raise _no_step(origin, number)
            return await _one(connection, origin, number)

    async def of_run(self, run_id: str, *, after: int = 0, limit: int | None = None) -> list[StepRecord]:
        """The steps of a run in order, from number `after` + 1: all of them, or the first `limit`."""
        async with self._ledger.read() as connection:
            if limit is None:
                return [StepRecord(*row) for row in await connection.run(_OF_RUN, of_run=run_id, after=after)]
            query = select(steps).where(steps.c.run_id == run_id, steps.c.number > after).order_by(steps.c.number)
            return [StepRecord(*row) for row in await connection.execute(query.limit(limit))]

    async def _storable(self, output: Any, *, keep: bool = False) -> dict[str, Any]:
        if isinstance(output, Cleaned):  # by somebody else: once more here, and what he changed is told as well
            cleaned = await asyncio.to_thread(clean, output.text if output.binary is None else output.binary)
            return await self._stored(
                cleaned._replace(changes=tuple(dict.fromkeys((*output.changes, *cleaned.changes)))), keep=keep
            )
        if isinstance(output, str) and len(output) <= INLINE_BYTES:
            cleaned = clean(output)
        else:
            cleaned = await asyncio.to_thread(clean, output)
        return await self._stored(cleaned, keep=keep)

    async def _stored(self, cleaned: Cleaned, *, keep: bool) -> dict[str, Any]:
        changes = ",".join(cleaned.changes) or None
        if cleaned.binary is not None:
            blob, size = await self._ledger.blobs.put(cleaned.binary)
            text = f"[{size:,} bytes of binary data; kept as {blob}]"
            return {"output": text, "output_bytes": size, "output_blob": blob, "changes": changes}
        if keep or len(cleaned.text) <= INLINE_BYTES:
            size = len(cleaned.text.encode("utf-8"))
            return {"output": cleaned.text, "output_bytes": size, "output_blob": None, "changes": changes}
        blob, size = await self._ledger.blobs.put(cleaned.text)
        return {
            "output": cut(cleaned.text, size),
            "output_bytes": size,
            "output_blob": blob,
            "changes": changes,
        }

    async def _record(self, connection: Statements, claim: StepClaim, approval: ApprovalRecorded) -> None:
        """Write a decision down; refuse when the ledger has another one, other arguments, or asked for more people."""
        row = await approval_row(connection, approval.id)
        released = row is not None and row["status"] == "approved" and row["decided_digest"] == approval.digest
        if row is not None and released and await self._is_its_call(connection, row, claim):
            return
        refusal = None
        own = row is not None and (row["run_id"], row["guards"]) == (claim.run_id, claim.number)
        if row is None or approval.stands or not own:
            refusal = f"Approval {approval.id} does not release step {claim.run_id}/{claim.number:04d}."
        elif row["status"] != "pending":
            refusal = f"Approval {approval.id} is {row['status']}."
        else:
            refusal = await self._not_enough(connection, row, approval)
        if refusal is not None:
            raise NotApproved(refusal)
        last = approval.ballots[-1]
        by = ", ".join(ballot.decision.by for ballot in approval.ballots)
        await connection.execute(
            update(approvals)
            .where(approvals.c.id == approval.id)
            .values(
                status="approved",
                decided_at=last.at,
                decided_by=by,
                decided_via=last.via,
                decided_digest=approval.digest,
                verdict="approve",
                comment=last.decision.comment,
            )
        )
        await record_votes(connection, approval.id, approval.ballots, approval.digest, decides=True)
        if approval.grant is not None:
            await record_grant(connection, approval.grant)
        await connection.execute(
            update(steps)
            .where(steps.c.run_id == claim.run_id, steps.c.number == approval.step, steps.c.status == "pending")
            .values(status="completed", by=by, output="approved", settled_at=last.at)
        )

    async def _is_its_call(self, connection: Statements, row: Mapping[str, Any], claim: StepClaim) -> bool:
        """Whether an approval released this very call: here, or under the same key in a run that this one resumes."""
        if (row["run_id"], row["guards"]) == (claim.run_id, claim.number):
            return True
        if row["run_id"] == claim.run_id:
            return False
        query = select(steps.c.key).where(steps.c.run_id == row["run_id"], steps.c.number == row["guards"])
        return claim.key is not None and await connection.scalar(query) == claim.key

    async def _not_enough(
        self, connection: Statements, row: Mapping[str, Any], approval: ApprovalRecorded
    ) -> str | None:
        """The plan once more, where the effect is: the workflow's word alone releases nothing."""
        people: list[str] = []
        for ballot in approval.ballots:
            said = ballot.decision
            if said.verdict == "approve" and said.approval == approval.id and not is_among(said.by, people):
                people.append(said.by)
        if len(people) < row["required"]:
            return f"Approval {approval.id} needs {row['required']} people; {len(people)} approved."
        others = [
            person
            for person in people
            if is_among(person, row["not_by"]) or (row["approvers"] and not is_among(person, row["approvers"]))
        ]
        if others:
            return f"{others[0]} may not decide on approval {approval.id}."
        if approval.digest != row["digest"]:
            known = await connection.scalar(
                select(edits.c.by).where(edits.c.approval_id == approval.id, edits.c.digest == approval.digest)
            )
            if known is None:
                return f"Approval {approval.id} was given for other arguments."
        return None


def settled(record: StepRecord) -> StepRecord:
    """A step as it was settled, by whichever attempt came first.

    Raises:
        StepTaken: It is not: another attempt has claimed it since, and has not settled it yet.
    """
    if record.status in ("claimed", "pending"):
        raise StepTaken(f"Another attempt performs step {record.run_id}/{record.number:04d} by now.")
    return record


async def _persistently(store: Callable[[], Awaitable[StepRecord]]) -> StepRecord:
    """What was performed must be written down: a full disk or an away database is waited for."""
    delay = 0.1
    deadline = asyncio.get_running_loop().time() + SETTLE_PATIENCE.total_seconds()
    while True:
        try:
            return await store()
        except (OSError, SQLAlchemyError) as error:
            if not (isinstance(error, OSError) or is_unreachable(error)):
                raise
            if asyncio.get_running_loop().time() > deadline:
                raise
            log.warning("ledger.waiting_to_settle", error=str(error).splitlines()[0])
            await asyncio.sleep(delay)
            delay = min(delay * 2, 5.0)


async def append_messages(
    connection: Statements, thread: str, run_id: str, append: Sequence[Answered], now: datetime
) -> None:
    """Append to a thread, in order. The run that has the thread open is its only writer."""
    for item in append:
        if item.ref is not None:
            await connection.run(_PLACE, of_thread=thread, of_ref=item.ref)
            continue
        origin, number = split_step_id(item.step) if item.step else (run_id, None)
        await connection.run(
            _APPEND,
            of_thread=thread,
            thread_id=thread,
            role=item.role,
            text=item.text,
            run_id=origin,
            step=number,
            call_id=item.call_id,
            created_at=now,
        )


async def leave_nothing_claimed(connection: Statements, run_id: str, now: datetime) -> None:
    """At the end of a run: what was begun and never settled may have happened, or did nothing that lasts."""
    message = "The run ended before it was known whether this was done."
    await connection.run(_LEAVE_UNKNOWN, of_run=run_id, message=message)
    await connection.run(_LEAVE_CANCELLED, of_run=run_id, settled_at=now)


def output_digest(record: StepRecord) -> str | None:
    """Digest of a settled step's output: of the whole, when it was cut."""
    return record.output_blob or (digest_text(record.output) if record.output is not None else None)


async def _keep_state(connection: Statements, run_id: str, state: RoutineState) -> None:
    """The tick's own copy; its routine gets it when the tick completes."""
    row = (
        await connection.execute(
            select(ticks.c.id, ticks.c.state, ticks.c.changes)
            .join(runs, runs.c.tick == ticks.c.id)
            .where(runs.c.id == await topmost(connection, run_id))
            .with_for_update(of=ticks)
        )
    ).first()
    if row is not None:
        values = {"state": state.applied_to(row.state or {}), "changes": state.merged_into(row.changes)}
        await connection.execute(update(ticks).where(ticks.c.id == row.id).values(**values))


async def _keep_change(connection: Statements, record: StepRecord, change: Change, now: datetime) -> StepRecord:
    """What a tool changed in the workspace of its thread, and what there is to say about it to the model."""
    try:
        recorded = await record_change(connection, change, record.run_id, record.number, None, now)
    except ThreadNotFound:
        return record  # deleted meanwhile, and its files with it
    if recorded.note is None:
        return record
    note = f"{record.note} {recorded.note}" if record.note else recorded.note
    of_step = (steps.c.run_id == record.run_id, steps.c.number == record.number)
    await connection.execute(update(steps).where(*of_step).values(note=note))
    return replace(record, note=note)


def _of_same_tenant(run: ColumnElement[str], as_run: str) -> ColumnElement[bool]:
    own, other = runs.alias(), runs.alias()
    return select(other.c.id).where(other.c.id == run, own.c.id == as_run, own.c.tenant == other.c.tenant).exists()


async def _one(connection: Statements, run_id: str, number: int) -> StepRecord:
    rows = await connection.run(_GET, of_run=run_id, of_number=number)
    if not rows:
        raise _no_step(run_id, number)
    return StepRecord(*rows[0])


def _no_step(run_id: str, number: int) -> RunNotFound:
    return RunNotFound(f"The ledger has no step {number} of run {run_id!r}.")
