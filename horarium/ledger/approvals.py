"""The inbox and its evidence: who was asked, and who decided what, when, by which way, on which arguments.

Three kinds of question share it: approvals, steps whose outcome nobody knows, and steps that are held. Every change
is written down in the audit trail in the same transaction, so that neither is there without the other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Literal

from sqlalchemy import and_, bindparam, func, literal, literal_column, or_, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.content import digest_text, shorten
from horarium.contract import Decision, Proof, Reassignment, Resolution
from horarium.errors import ApprovalNotFound
from horarium.ids import step_id
from horarium.ledger.audit import AuditEntry, AuditKind, append, entry_named
from horarium.ledger.database import Ledger, Prepared, Statements
from horarium.ledger.schema import Instant, approvals, edits, runs, steps, votes
from horarium.protocol import (
    ApprovalOutcome,
    ApprovalRequest,
    Ballot,
    CheckDecision,
    CheckResolution,
    Escalate,
    Gate,
    OpenQuestion,
    SettleQuestion,
)

QuestionKind = Literal["approval", "unknown_outcome", "held_step"]
_OPEN = Prepared(
    select(approvals).where(
        approvals.c.run_id == bindparam("of_run"), approvals.c.status == literal_column("'pending'")
    )
)
_SEARCHED = tuple(approvals.c[name] for name in ("arguments", "tool", "agent", "path", "requested_by", "run_id", "id"))


@dataclass(frozen=True, slots=True)
class ApprovalRecord:
    """One question as the ledger has it. `arguments` are the exact ones, as canonical JSON."""

    id: str
    kind: QuestionKind
    run_id: str
    tenant: str
    agent: str
    step: int
    guards: int
    tool: str
    effect: str
    digest: str
    arguments: str
    rule: str
    approvers: list[str]
    not_by: list[str]
    required: int
    requested_by: str | None
    text: str | None
    status: str
    requested_at: datetime
    expires_at: datetime | None
    escalated_at: datetime | None
    decided_at: datetime | None
    decided_by: str | None
    decided_via: str | None
    decided_digest: str | None
    verdict: str | None
    comment: str | None
    path: str | None
    reassigned: list[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class VoteRecord:
    """One person's word, and whether it was proved to be theirs."""

    approval_id: str
    number: int
    by: str
    verdict: str
    digest: str
    at: datetime
    via: str
    key: str | None
    comment: str | None


@dataclass(frozen=True, slots=True)
class EditRecord:
    """The arguments of a call as a person changed them, as canonical JSON."""

    approval_id: str
    digest: str
    arguments: str
    by: str
    at: datetime


@dataclass(frozen=True, slots=True)
class Asking:
    """One approval to write down: with whom it may ask, or with what released it already."""

    request: ApprovalRequest
    arguments: str
    people: tuple[str, ...] = ()
    not_by: tuple[str, ...] = ()
    released_by: str | None = None
    denied: str | None = None


class Approvals:
    """The questions of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    # ---- asking

    async def ask(self, run_id: str, tenant: str, agent: str, asking: Sequence[Asking], requested_at: datetime) -> None:
        """Write approvals down, each with its exact arguments. Safe to repeat."""
        async with self._ledger.write() as connection:
            starter = await connection.scalar(select(runs.c.requested_by).where(runs.c.id == run_id))
            path = await _path(connection, run_id)
            for one in asking:
                if one.denied is not None:
                    continue
                request, call = one.request, one.request.call
                gate = call.gate or Gate()
                released = one.released_by is not None
                row = {
                    "id": request.id,
                    "kind": "approval",
                    "run_id": run_id,
                    "tenant": tenant,
                    "agent": agent,
                    "step": request.number,
                    "guards": request.guards,
                    "tool": call.tool,
                    "effect": call.effect.value,
                    "digest": call.digest,
                    "arguments": one.arguments,
                    "rule": gate.rule,
                    "approvers": list(one.people),
                    "not_by": list(one.not_by),
                    "required": gate.required,
                    "requested_by": starter,
                    "path": path,
                    "status": "approved" if released else "pending",
                    "requested_at": requested_at,
                    "expires_at": requested_at + gate.expires_after if gate.expires_after and not released else None,
                }
                if released:
                    via = "plan" if str(one.released_by).startswith("plan:") else "grant"
                    row |= {
                        "decided_at": requested_at,
                        "decided_by": one.released_by,
                        "decided_via": via,
                        "decided_digest": call.digest,
                        "verdict": "approve",
                    }
                fresh = await connection.execute(self._insert(approvals).values(**row).on_conflict_do_nothing())
                if fresh.rowcount == 0:
                    continue
                await connection.execute(
                    self._insert(steps)
                    .values(
                        run_id=run_id,
                        number=request.number,
                        kind="approval",
                        name=call.tool,
                        status="completed" if released else "pending",
                        effect="read",
                        call_id=call.id,
                        input_digest=call.digest,
                        claimed_at=requested_at,
                        settled_at=requested_at if released else None,
                        output="approved" if released else None,
                        by=one.released_by,
                    )
                    .on_conflict_do_nothing()
                )
                kind: AuditKind = "approval.requested"
                if released:
                    kind = "grant.used" if row["decided_via"] == "grant" else "effect.released"
                data = {"rule": gate.rule, "approvers": list(one.people), "required": gate.required}
                await self._note(connection, kind, row, requested_at, data | {"released_by": one.released_by})

    async def open_question(self, question: OpenQuestion, arguments: str, name: str) -> None:
        """Write down what only a person can settle. Safe to repeat, and too late when it is settled already."""
        call = question.call
        row = {
            "id": question.id,
            "kind": question.kind,
            "run_id": question.run,
            "tenant": question.tenant,
            "agent": question.agent,
            "step": question.number,
            "guards": question.number,
            "tool": name,
            "effect": call.effect.value if call else "idempotent",
            "digest": call.digest if call else "",
            "arguments": arguments,
            "rule": "default",
            "approvers": [],
            "not_by": [],
            "required": 1,
            "text": question.text,
            "status": "pending",
            "requested_at": question.at,
        }
        async with self._ledger.write() as connection:
            row["path"] = await _path(connection, question.run)
            fresh = await connection.execute(self._insert(approvals).values(**row).on_conflict_do_nothing())
            if fresh.rowcount:
                await self._note(connection, "question.opened", row, question.at, {"question": question.kind})

    # ---- deciding

    async def vote(self, run_id: str, approval: str, ballot: Ballot, digest: str) -> None:
        """Write down a vote that counts and does not decide yet. Safe to repeat."""
        async with self._ledger.write() as connection:
            await record_votes(connection, approval, [ballot], digest)

    async def keep_edit(self, approval: str, digest: str, arguments: str, by: str, at: datetime) -> None:
        """Keep the arguments as a person changed them, before anything is decided on them. Safe to repeat."""
        async with self._ledger.write() as connection:
            row = await self._row(connection, approval)
            fresh = await connection.execute(
                self._insert(edits)
                .values(approval_id=approval, digest=digest, arguments=arguments, by=by, at=at)
                .on_conflict_do_nothing()
            )
            if fresh.rowcount and row is not None:
                data = {"by": by, "from": row["digest"], "to": digest, "arguments": digest_text(arguments)}
                await self._note(connection, "approval.edited", row, at, data)

    async def edited(self, approval: str, digest: str, *, run: str | None = None) -> str | None:
        """The arguments of an edit, as canonical JSON; `run`: of whose tenant the approval has to be."""
        query = select(edits.c.arguments).where(edits.c.approval_id == approval, edits.c.digest == digest)
        if run is not None:
            tenant = select(runs.c.tenant).where(runs.c.id == run).scalar_subquery()
            query = query.join(approvals, approvals.c.id == edits.c.approval_id).where(approvals.c.tenant == tenant)
        async with self._ledger.read() as connection:
            found: str | None = await connection.scalar(query)
            return found

    async def latest_edit(self, approval: str) -> EditRecord | None:
        """How a person last changed the arguments, if one did."""
        query = select(edits).where(edits.c.approval_id == approval).order_by(edits.c.at.desc()).limit(1)
        async with self._ledger.read() as connection:
            row = (await connection.execute(query)).first()
        return EditRecord(*row) if row is not None else None

    async def arguments_of(self, approval: str, digest: str) -> str | None:
        """The arguments that were asked about under this digest, as they are or as a person changed them."""
        edited = await self.edited(approval, digest)
        if edited is not None:
            return edited
        async with self._ledger.read() as connection:
            query = select(approvals.c.arguments).where(approvals.c.id == approval, approvals.c.digest == digest)
            found: str | None = await connection.scalar(query)
            return found

    async def ballot_recorded_at(self, approval: str, ballot: Ballot, digest: str) -> datetime | None:
        """When this very ballot, with this very proof, was verified and written down; None when it was not."""
        proof = ballot.decision.proof
        if proof is None:
            return None
        async with self._ledger.read() as connection:
            for kind in ("approval.voted", "approval.decided"):
                at = await _recorded_at(connection, f"{kind}:{approval}{_once_of(ballot, digest, proven=True)}", proof)
                if at is not None:
                    return at
        return None

    async def resolution_recorded_at(self, question: str, said: Resolution) -> datetime | None:
        """When this very word on a question was verified and written down; None when it was not."""
        if said.proof is None:
            return None
        async with self._ledger.read() as connection:
            return await _recorded_at(connection, f"question.resolved:{question}", said.proof)

    async def is_released(self, approval: str, digest: str) -> bool:
        """Whether exactly this call was released and recorded before."""
        async with self._ledger.read() as connection:
            query = select(approvals.c.id).where(
                approvals.c.id == approval, approvals.c.status == "approved", approvals.c.decided_digest == digest
            )
            return await connection.scalar(query) is not None

    async def refused(self, attempt: CheckDecision | CheckResolution, subject: str, code: str, why: str) -> None:
        """Write down an attempt that released nothing."""
        said = attempt.decision if isinstance(attempt, CheckDecision) else attempt.resolution
        await self.refused_word(attempt.run, subject, said, attempt.via, attempt.at, code, why)

    async def refused_word(
        self,
        run: str,
        subject: str,
        said: Decision | Resolution | Reassignment,
        via: str | None,
        at: datetime,
        code: str,
        why: str,
    ) -> None:
        """Write down what somebody said, or is said to have said, that did not count."""
        data = {
            "by": said.by,
            "verdict": "reassign" if isinstance(said, Reassignment) else said.verdict,
            "via": via,
            "code": code,
            "reason": why,
            "proof": said.proof.model_dump(mode="json") if said.proof else None,
        }
        await self._attempted(run, subject, "decision.refused", at, data)

    async def refused_effect(self, run: str, subject: str, asked_by: str, at: datetime, code: str, why: str) -> None:
        """Write down that something was to be done or settled which nobody had released; nothing was changed.

        Args:
            asked_by: Id of the workflow that wanted it.
        """
        data = {"workflow": shorten(asked_by, 200), "code": code, "reason": why}
        await self._attempted(run, subject, "effect.refused", at, data)

    async def _attempted(self, run: str, subject: str, kind: AuditKind, at: datetime, data: dict[str, Any]) -> None:
        async with self._ledger.write() as connection:
            row = await self._row(connection, subject) or {"id": subject, "run_id": run, "tenant": "default"}
            await self._note(connection, kind, row, at, data, once=None)

    async def settle(self, run_id: str, outcome: ApprovalOutcome) -> None:
        """Write down that an approval ended without releasing its call. The first outcome stands."""
        ballot = outcome.ballot
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(approvals)
                .where(approvals.c.id == outcome.id, approvals.c.status == "pending")
                .values(
                    status=outcome.status,
                    decided_at=outcome.at,
                    decided_by=outcome.by,
                    decided_via=ballot.via if ballot else None,
                    decided_digest=outcome.call.digest if ballot else None,
                    verdict=ballot.decision.verdict if ballot else None,
                    comment=outcome.comment,
                )
            )
            if done.rowcount == 0:
                return
            await connection.execute(
                update(steps)
                .where(steps.c.run_id == run_id, steps.c.number == outcome.number, steps.c.status == "pending")
                .values(
                    status="completed" if outcome.status != "withdrawn" else "cancelled",
                    by=outcome.by,
                    output=outcome.status,
                    settled_at=outcome.at,
                )
            )
            if ballot is not None:
                await record_votes(connection, outcome.id, [ballot], outcome.call.digest, decides=True)
                return
            row = await self._row(connection, outcome.id)
            kind: AuditKind = "approval.expired" if outcome.status == "expired" else "approval.withdrawn"
            if row is not None:
                await self._note(connection, kind, row, outcome.at, {})

    async def settle_question(self, settled: SettleQuestion) -> None:
        """Write down how a person settled a question, `key` being the one that was verified. Safe to repeat."""
        said = settled.resolution
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(approvals)
                .where(approvals.c.id == settled.id, approvals.c.status == "pending")
                .values(
                    status="resolved",
                    decided_at=settled.at,
                    decided_by=said.by,
                    decided_via=settled.via,
                    verdict=said.verdict,
                    comment=said.comment,
                )
            )
            row = await self._row(connection, settled.id)
            if done.rowcount and row is not None:
                data = {
                    "by": said.by,
                    "identity": "proven" if settled.key else "claimed",
                    "verdict": said.verdict,
                    "via": settled.via,
                    "key": settled.key,
                    "output": digest_text(said.output) if said.output is not None else None,
                    "comment": said.comment,
                    "proof": said.proof.model_dump(mode="json") if said.proof else None,
                }
                await self._note(connection, "question.resolved", row, settled.at, data)

    async def escalate(self, escalation: Escalate, people: Sequence[str]) -> None:
        """Let others decide as well, until a new deadline. Safe to repeat."""
        async with self._ledger.write() as connection:
            done = await connection.execute(
                update(approvals)
                .where(approvals.c.id == escalation.approval, approvals.c.escalated_at.is_(None))
                .values(approvers=list(people), escalated_at=escalation.at, expires_at=escalation.expires_at)
            )
            row = await self._row(connection, escalation.approval)
            if done.rowcount and row is not None:
                await self._note(connection, "approval.escalated", row, escalation.at, {"to": list(people)})

    # ---- looking

    async def get(self, approval: str) -> ApprovalRecord:
        """One question.

        Raises:
            ApprovalNotFound: There is none of this id.
        """
        async with self._ledger.read() as connection:
            row = (await connection.execute(select(approvals).where(approvals.c.id == approval))).first()
        if row is None:
            raise ApprovalNotFound(f"There is no approval {approval!r}.")
        return ApprovalRecord(*row)

    async def of_run(self, run_id: str) -> list[ApprovalRecord]:
        """The questions of a run, in the order they were asked."""
        async with self._ledger.read() as connection:
            rows = await connection.execute(
                select(approvals).where(approvals.c.run_id == run_id).order_by(approvals.c.step)
            )
            return [ApprovalRecord(*row) for row in rows]

    async def votes(self, approval: str) -> list[VoteRecord]:
        """Every vote on an approval, in order."""
        async with self._ledger.read() as connection:
            rows = await connection.execute(
                select(votes).where(votes.c.approval_id == approval).order_by(votes.c.number)
            )
            return [VoteRecord(*row) for row in rows]

    async def list(
        self,
        *,
        status: str | None = "pending",
        tenant: str | None = None,
        kind: QuestionKind | None = None,
        run: str | None = None,
        agent: str | None = None,
        tool: str | None = None,
        text: str | None = None,
        before: tuple[datetime, str] | None = None,
        limit: int = 50,
    ) -> list[ApprovalRecord]:
        """The inbox over all runs, newest first.

        Args:
            text: Is somewhere in the arguments, or in a name.
            before: Time and id of the last one of the page before this.
        """
        query = select(approvals).order_by(approvals.c.requested_at.desc(), approvals.c.id).limit(limit)
        wanted = (
            (approvals.c.status, status),
            (approvals.c.tenant, tenant),
            (approvals.c.kind, kind),
            (approvals.c.run_id, run),
            (approvals.c.agent, agent),
            (approvals.c.tool, tool),
        )
        for column, value in wanted:
            if value is not None:
                query = query.where(column == value)
        if text is not None:
            query = query.where(or_(*(column.icontains(text, autoescape=True) for column in _SEARCHED)))
        if before is not None:
            at = literal(before[0], Instant)
            same = and_(approvals.c.requested_at == at, approvals.c.id > before[1])
            query = query.where(or_(approvals.c.requested_at < at, same))
        async with self._ledger.read() as connection:
            return [ApprovalRecord(*row) for row in await connection.execute(query)]

    async def count(self, *, tenant: str, status: str = "pending") -> int:
        """How many there are of a tenant."""
        query = select(func.count()).where(approvals.c.tenant == tenant, approvals.c.status == status)
        async with self._ledger.read() as connection:
            return int(await connection.scalar(query))

    async def askers(self, *, tenant: str, status: str = "pending", most: int = 200) -> Sequence[tuple[str, str]]:
        """Which agents ask for which tools."""
        query = select(approvals.c.agent, approvals.c.tool).where(
            approvals.c.tenant == tenant, approvals.c.status == status
        )
        async with self._ledger.read() as connection:
            rows = await connection.execute(query.distinct().order_by(approvals.c.agent, approvals.c.tool).limit(most))
            return [(row.agent, row.tool) for row in rows]

    # ---- small things

    async def _row(self, connection: Statements, approval: str) -> Mapping[str, Any] | None:
        return await approval_row(connection, approval)

    async def _note(
        self,
        connection: Statements,
        kind: AuditKind,
        row: Mapping[str, Any],
        at: datetime,
        data: dict[str, Any],
        once: str | None = "",
    ) -> None:
        await note(connection, kind, row, at, data, once=once)


async def _path(connection: Statements, run: str) -> str | None:
    """The agents from the topmost run down to this one's, in words; None when nobody handed it its task."""
    path: list[str] | None = await connection.scalar(select(runs.c.path).where(runs.c.id == run))
    return " > ".join(path) if path else None


async def withdraw_open(connection: Statements, run_id: str, at: datetime) -> None:
    """At the end of a run: nobody is asked any more."""
    for found in await connection.run(_OPEN, of_run=run_id):
        row = dict(zip(approvals.c.keys(), found, strict=True))
        await connection.execute(
            update(approvals).where(approvals.c.id == row["id"]).values(status="withdrawn", decided_at=at)
        )
        kind: AuditKind = "approval.withdrawn" if row["kind"] == "approval" else "question.withdrawn"
        await note(connection, kind, row, at, {})


async def approval_row(connection: Statements, approval: str) -> Mapping[str, Any] | None:
    """One question inside of a transaction."""
    found = (await connection.execute(select(approvals).where(approvals.c.id == approval))).first()
    return None if found is None else dict(zip(approvals.c.keys(), found, strict=True))


async def note(
    connection: Statements,
    kind: AuditKind,
    row: Mapping[str, Any],
    at: datetime,
    data: dict[str, Any],
    *,
    once: str | None = "",
) -> None:
    """Write an entry about a question into the audit trail; at most one of its kind for each, unless told otherwise."""
    about = {name: row[name] for name in ("tool", "effect", "digest") if row.get(name)}
    if row.get("guards") is not None:
        about["step"] = step_id(row["run_id"], row["guards"])
    await append(
        connection,
        AuditEntry(
            kind=kind,
            at=at,
            tenant=row["tenant"],
            run_id=row["run_id"],
            subject=row["id"],
            data=about | data,
            once=f"{kind}:{row['id']}{once}" if once is not None else None,
        ),
    )


async def record_votes(
    connection: Statements, approval: str, ballots: Sequence[Ballot], digest: str, *, decides: bool = False
) -> None:
    """Write votes down, once each, and into the audit trail; `decides` when with them the approval is decided.

    The ballots' keys are those that were verified. A vote that is given again with a proof of its own is proven from
    then on, and what it is proved by is written down too.
    """
    row = await approval_row(connection, approval)
    known = {
        (found.by, found.verdict, found.digest): found.number
        for found in await connection.execute(
            select(votes.c.by, votes.c.verdict, votes.c.digest, votes.c.number).where(votes.c.approval_id == approval)
        )
    }
    for position, ballot in enumerate(ballots):
        said = ballot.decision
        last = decides and position == len(ballots) - 1
        before = known.get((said.by, said.verdict, digest))
        once = _once_of(ballot, digest, proven=ballot.key is not None)
        new = before is None
        if before is not None and ballot.key is not None and said.proof is not None:
            new = await _recorded_at(connection, f"approval.voted:{approval}{once}", said.proof) is None
            if new:
                await connection.execute(
                    update(votes)
                    .where(votes.c.approval_id == approval, votes.c.number == before)
                    .values(at=ballot.at, via=ballot.via, key=ballot.key, comment=said.comment)
                )
        elif new:
            number = await connection.scalar(
                select(func.coalesce(func.max(votes.c.number), 0) + 1).where(votes.c.approval_id == approval)
            )
            await connection.execute(
                votes.insert().values(
                    approval_id=approval,
                    number=number,
                    by=said.by,
                    verdict=said.verdict,
                    digest=digest,
                    at=ballot.at,
                    via=ballot.via,
                    key=ballot.key,
                    comment=said.comment,
                )
            )
        if row is None or not (new or last):
            continue
        data = {
            "by": said.by,
            "identity": "proven" if ballot.key else "claimed",
            "verdict": said.verdict,
            "released": digest,
            "via": ballot.via,
            "key": ballot.key,
            "comment": said.comment,
            "answer": digest_text(said.answer) if said.answer is not None else None,
            "proof": said.proof.model_dump(mode="json") if said.proof else None,
        }
        kind: AuditKind = "approval.decided" if last else "approval.voted"
        await note(connection, kind, row, ballot.at, data, once=once)


def _once_of(ballot: Ballot, digest: str, *, proven: bool) -> str:
    """What tells one vote from another: who, what, on which arguments, and by which proof where one was verified."""
    said = ballot.decision
    parts = [said.by, said.verdict or "", digest]
    if proven and said.proof is not None:
        parts += [said.proof.key, said.proof.nonce, said.proof.signature]
    return ":" + digest_text("\0".join(parts))


async def _recorded_at(connection: Statements, once: str, proof: Proof) -> datetime | None:
    """When the entry of this name was written with this proof, verified."""
    entry = await entry_named(connection, once)
    if entry is None or not isinstance(entry.data, dict) or entry.data.get("identity") != "proven":
        return None
    recorded = Proof.model_validate(entry.data.get("proof"))
    return entry.at if recorded == proof and entry.data.get("key") == proof.key else None
