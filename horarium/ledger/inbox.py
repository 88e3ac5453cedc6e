"""What a person has to see beside a question before deciding, read for a whole page of questions at once.

Who wrote what: the arguments are the engine's word, the last message a person's, the reason the model's, and what came
in from strangers before is named, because it may be what the model obeys.
"""

from __future__ import annotations

import contextlib
from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from pydantic import ValidationError
from sqlalchemy import ColumnElement, and_, func, select

from horarium.definitions import Agent, ApprovalRule
from horarium.errors import AgentNotFound
from horarium.ids import approval_id, step_id
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import ApprovalRecord, EditRecord, VoteRecord
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.notices import Shown, as_shown
from horarium.ledger.schema import approvals, edits, messages, runs, steps, votes
from horarium.plans import rule_named
from horarium.turns import stored_turn

MOST_SOURCES = 500  # steps of a page's threads that strangers wrote
_DECIDED = ("approved", "rejected", "answered")


@dataclass(frozen=True, slots=True)
class Source:
    """A step whose output strangers wrote, and which the model has read."""

    run_id: str
    step: int
    tool: str

    def is_before(self, question: ApprovalRecord) -> bool:
        """Whether the model had read it when it asked."""
        return self.run_id != question.run_id or self.step < question.guards


@dataclass(frozen=True, slots=True)
class Spoken:
    """The last message of a person in the thread."""

    text: str
    author: str | None


@dataclass(frozen=True, slots=True)
class Guarded:
    """The step that a question is about. `message`: why its last attempt failed."""

    key: str | None
    attempts: int
    message: str | None


@dataclass(frozen=True, slots=True)
class Beside:
    """A question and what is beside it. `approvers` and `not_by`: of the call that it is about; empty: anybody."""

    shown: Shown
    approvers: tuple[str, ...]
    not_by: tuple[str, ...]
    rule: ApprovalRule | None
    starter: str | None
    spoken: Spoken | None
    reason: str | None
    sources: tuple[Source, ...]
    last: Shown | None
    step: Guarded | None


@dataclass(frozen=True, slots=True)
class _About:
    thread: str
    version: int | None
    starter: str | None


class Inbox:
    """Reads what is beside the questions of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._agents = Agents(ledger)

    async def beside(self, records: Sequence[ApprovalRecord]) -> list[Beside]:
        """What is beside each of these, which are of one tenant; in their order."""
        if not records:
            return []
        async with self._ledger.read() as connection:
            shown = await _shown(connection, records)
            people = await _people(connection, records)
            about = await _runs(connection, {one.run_id for one in records})
            threads = {run.thread for run in about.values()}
            spoken = {thread: await _spoken(connection, thread) for thread in threads}
            sources = await _sources(connection, threads)
            last = await _last(connection, [one for one in records if one.status == "pending"])
            reasons = [await _reason(connection, one) for one in records]
            guarded = [await _guarded(connection, one) for one in records]
        plans = await self._plans({(one.agent, about[one.run_id].version) for one in records})
        found: list[Beside] = []
        for one, question, reason, step in zip(records, shown, reasons, guarded, strict=True):
            run = about[one.run_id]
            approvers, not_by = people.get(one.id, (tuple(one.approvers), tuple(one.not_by)))
            plan = plans.get((one.agent, run.version))
            before = (source for source in sources[run.thread] if source.is_before(one))
            found.append(
                Beside(
                    shown=question,
                    approvers=approvers,
                    not_by=not_by,
                    rule=rule_named(plan, one.rule) if plan is not None else None,
                    starter=one.requested_by or run.starter,
                    spoken=spoken[run.thread],
                    reason=reason,
                    sources=tuple(before),
                    last=last.get((one.agent, one.tool)),
                    step=step,
                )
            )
        return found

    async def last_before(self, question: ApprovalRecord) -> Shown | None:
        """The last call of the same tool by the same agent that people had decided on when this one was asked."""
        query = (
            select(approvals)
            .where(*_decided(question.tenant), approvals.c.agent == question.agent, approvals.c.tool == question.tool)
            .where(approvals.c.decided_at <= question.requested_at, approvals.c.id != question.id)
            .order_by(approvals.c.decided_at.desc())
            .limit(1)
        )
        async with self._ledger.read() as connection:
            row = (await connection.execute(query)).first()
            return (await _shown(connection, [ApprovalRecord(*row)]))[0] if row is not None else None

    async def _plans(self, versions: Iterable[tuple[str, int | None]]) -> dict[tuple[str, int | None], Agent]:
        found: dict[tuple[str, int | None], Agent] = {}
        for name, version in versions:
            with contextlib.suppress(AgentNotFound):  # of a run that no worker has opened, or of what is no agent
                if version is not None:
                    found[name, version] = (await self._agents.get(name, version)).agent
        return found


async def _shown(connection: Statements, records: Sequence[ApprovalRecord]) -> list[Shown]:
    ids = [one.id for one in records]
    said: dict[str, list[VoteRecord]] = defaultdict(list)
    for row in await connection.execute(select(votes).where(votes.c.approval_id.in_(ids)).order_by(votes.c.number)):
        said[row.approval_id].append(VoteRecord(*row))
    changed: dict[str, list[EditRecord]] = defaultdict(list)
    for row in await connection.execute(select(edits).where(edits.c.approval_id.in_(ids))):
        changed[row.approval_id].append(EditRecord(*row))
    return [as_shown(one, said[one.id], changed[one.id]) for one in records]


async def _people(
    connection: Statements, records: Sequence[ApprovalRecord]
) -> dict[str, tuple[tuple[str, ...], tuple[str, ...]]]:
    """Of questions that are no approvals: who may release the call may say what became of it."""
    released = {approval_id(step_id(one.run_id, one.guards)): one.id for one in records if one.kind != "approval"}
    query = select(approvals.c.id, approvals.c.approvers, approvals.c.not_by).where(approvals.c.id.in_(released))
    rows = await connection.execute(query) if released else ()
    return {released[row.id]: (tuple(row.approvers), tuple(row.not_by)) for row in rows}


async def _runs(connection: Statements, ids: Iterable[str]) -> dict[str, _About]:
    query = select(runs.c.id, runs.c.thread_id, runs.c.version, runs.c.requested_by).where(runs.c.id.in_(ids))
    rows = await connection.execute(query)
    return {row.id: _About(row.thread_id, row.version, row.requested_by) for row in rows}


async def _spoken(connection: Statements, thread: str) -> Spoken | None:
    query = (
        select(messages.c.text, messages.c.author)
        .where(messages.c.thread_id == thread, messages.c.seq.is_not(None), messages.c.role == "user")
        .order_by(messages.c.seq.desc())
        .limit(1)
    )
    row = (await connection.execute(query)).first()
    return Spoken(row.text, row.author) if row is not None and row.text else None


async def _sources(connection: Statements, threads: Iterable[str]) -> dict[str, list[Source]]:
    query = (
        select(runs.c.thread_id, steps.c.run_id, steps.c.number, steps.c.name)
        .join_from(runs, steps, steps.c.run_id == runs.c.id)
        .where(runs.c.thread_id.in_(threads), steps.c.untrusted == 1)
        .order_by(steps.c.run_id, steps.c.number)
        .limit(MOST_SOURCES)
    )
    found: dict[str, list[Source]] = defaultdict(list)
    for row in await connection.execute(query):
        found[row.thread_id].append(Source(row.run_id, row.number, row.name))
    return found


async def _last(connection: Statements, records: Sequence[ApprovalRecord]) -> dict[tuple[str, str], Shown]:
    """By agent and tool, the last call that people decided on."""
    if not records:
        return {}
    # One look over what was decided, however many tools a page has.
    pairs = ({one.agent for one in records}, {one.tool for one in records})
    alike = (*_decided(records[0].tenant), approvals.c.agent.in_(pairs[0]), approvals.c.tool.in_(pairs[1]))
    latest = (
        select(approvals.c.agent, approvals.c.tool, func.max(approvals.c.decided_at).label("at"))
        .where(*alike)
        .group_by(approvals.c.agent, approvals.c.tool)
        .subquery()
    )
    is_it = (approvals.c.agent == latest.c.agent, approvals.c.tool == latest.c.tool)
    query = select(approvals).join(latest, and_(*is_it, approvals.c.decided_at == latest.c.at)).where(*alike)
    found = [ApprovalRecord(*row) for row in await connection.execute(query)]
    return {(one.agent, one.tool): one for one in await _shown(connection, found)}


async def _reason(connection: Statements, question: ApprovalRecord) -> str | None:
    """What the model said in the turn that asked for the call."""
    query = (
        select(steps.c.output)
        .where(steps.c.run_id == question.run_id, steps.c.number < question.guards, steps.c.kind == "model_call")
        .order_by(steps.c.number.desc())
        .limit(1)
    )
    output = await connection.scalar(query)
    try:
        return stored_turn(output or "{}").text.strip() or None
    except ValidationError:
        return None  # it was deleted with its thread


async def _guarded(connection: Statements, question: ApprovalRecord) -> Guarded | None:
    if question.kind == "approval":
        return None
    query = select(steps.c.key, steps.c.attempts, steps.c.message).where(
        steps.c.run_id == question.run_id, steps.c.number == question.guards
    )
    row = (await connection.execute(query)).first()
    return Guarded(*row) if row is not None else None


def _decided(tenant: str) -> tuple[ColumnElement[bool], ...]:
    return (approvals.c.tenant == tenant, approvals.c.kind == "approval", approvals.c.status.in_(_DECIDED))
