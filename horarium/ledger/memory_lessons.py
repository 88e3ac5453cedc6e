"""What runs teach: written down in one transaction, once for each run, whatever happens to the worker meanwhile.

The same fact again renews it; another text about the same subject is a new version, and the old one is kept. What a
person took back is not learned again by itself: it waits for a person.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any

from sqlalchemy import delete, insert, select, update
from sqlalchemy.dialects import postgresql, sqlite

from horarium.contract import OPEN_STATUSES, Usage
from horarium.errors import Conflict, RunNotFound
from horarium.ids import new_memory_id
from horarium.ledger.audit import AuditEntry, append
from horarium.ledger.database import Ledger, Statements
from horarium.ledger.memories import LOCK, several
from horarium.ledger.memory_outbox import Delivery, hold_back, keep_delivery, release
from horarium.ledger.schema import lessons, memories, memory_sources, memory_versions, runs
from horarium.memories import (
    CANDIDATE_LASTS,
    TAKEN_BACK,
    FedBack,
    FeedbackVerdict,
    Judgement,
    Lesson,
    Memory,
    MemoryStatus,
    MemoryVersion,
    folded,
    same_words,
)


@dataclass(frozen=True, slots=True)
class Teaching:
    """What one run teaches, whom, and how far it is to be trusted."""

    tenant: str
    run: str
    agent: str
    scope: str
    owner: str
    lessons: tuple[Lesson, ...]
    judgement: Judgement
    tainted: bool = False
    model: str | None = None
    lasts: timedelta | None = None
    note: str | None = None  # what went wrong while learning
    usage: Usage = field(default_factory=Usage)


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a lesson goes: to a version that says the same, or to a new one."""

    memory: Memory
    same: MemoryVersion | None
    status: MemoryStatus
    reason: str | None
    known: bool = False  # nothing is to be written


class Lessons:
    """What the runs of a ledger have taught."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def learned(self, run: str) -> dict[str, Any] | None:
        """What was written down of a run; None: nothing yet."""
        async with self._ledger.read() as connection:
            query = select(lessons.c.report).where(lessons.c.run_id == run)
            report: dict[str, Any] | None = await connection.scalar(query)
        return report

    async def learn(self, teaching: Teaching, delivery: Delivery | None = None) -> dict[str, Any]:
        """Write down what a run taught, and what a store elsewhere is to be told.

        Safe to repeat: the first that is written down stands.

        Returns:
            What became of each lesson, as it stands: ids, versions and statuses, no text.
        """
        async with self._ledger.write() as connection:
            await connection.lock(LOCK)
            now = datetime.now(UTC)
            known = await connection.scalar(select(lessons.c.report).where(lessons.c.run_id == teaching.run))
            if known is not None:
                return dict(known)
            learned = [await self._learn_one(connection, teaching, lesson, now) for lesson in teaching.lessons]
            report: dict[str, Any] = {"learned": learned, "tainted": teaching.tainted}
            judged = teaching.judgement
            if judged.by is not None:
                report |= {"score": judged.score, "judged_by": judged.by, "passed": judged.passed}
                report |= {"reason": judged.reason} if judged.reason else {}
            if teaching.lasts is not None:
                report["lasts_s"] = teaching.lasts.total_seconds()
            if teaching.note:
                report["note"] = teaching.note
            if teaching.model is not None:
                report["model"] = teaching.model
            if teaching.usage != Usage():
                report["usage"] = teaching.usage.model_dump(mode="json")
            if delivery is not None:
                report["delivery"] = await keep_delivery(connection, delivery, now)
            await connection.execute(
                insert(lessons).values(run_id=teaching.run, tenant=teaching.tenant, report=report, created_at=now)
            )
            return report

    async def feedback(
        self, run: str, verdict: FeedbackVerdict, by: str, note: str | None, tenant: str | None = None
    ) -> FedBack:
        """Say that a run did well, or not: what waits is admitted, or what it taught is withdrawn. Safe to repeat.

        What came from runs that touched untrusted content still waits for its review.

        Raises:
            RunNotFound: There is none, or it is another tenant's.
            Conflict: It is still open.
        """
        async with self._ledger.write() as connection:
            await connection.lock(LOCK)
            now = datetime.now(UTC)
            record = (await connection.execute(select(runs.c.tenant, runs.c.status).where(runs.c.id == run))).first()
            if record is None or tenant not in (None, record.tenant):
                raise RunNotFound(f"There is no run {run!r}.", hint="See which there are: horarium runs list")
            if record.status in OPEN_STATUSES:
                raise Conflict(f"Run {run} is still open.", hint="Give feedback when it has ended.")
            changed = await _on_feedback(connection, run, verdict, by, note, now)
            deliver = False
            if verdict == "positive":
                report = await connection.scalar(select(lessons.c.report).where(lessons.c.run_id == run))
                # What touched untrusted content waits for its review, also when it was withdrawn meanwhile.
                tainted = bool((report or {}).get("tainted"))
                deliver = await release(connection, run, ("candidate",) if tainted else ("candidate", "withdrawn"), now)
            else:
                await hold_back(connection, run, "withdrawn", now)
            await connection.execute(
                self._insert(lessons)
                .values(run_id=run, tenant=record.tenant, report={"learned": []}, created_at=now)
                .on_conflict_do_nothing()
            )
            await connection.execute(
                update(lessons).where(lessons.c.run_id == run).values(feedback=verdict, feedback_by=by, note=note)
            )
            data = {"by": by, "verdict": verdict, "changed": [[memory, version] for memory, version, _ in changed]}
            entry = AuditEntry(kind="memory.feedback", at=now, tenant=record.tenant, run_id=run, subject=run, data=data)
            await append(connection, entry)
        return FedBack(run, tuple(changed), deliver)

    async def _learn_one(
        self, connection: Statements, teaching: Teaching, lesson: Lesson, now: datetime
    ) -> dict[str, Any]:
        place = await self._placed(connection, teaching, lesson, now)
        same, memory = place.same, place.memory
        told = {"memory": memory.id, "kind": lesson.kind, "status": place.status}
        if same is not None and place.known:
            return told | {"version": same.version, "what": "known"}
        expires = _expiry(place.status, teaching.lasts, now)
        if same is not None:
            version = same.version
            values: dict[str, Any] = {"renewed_at": now, "expires_at": expires}
            what = "renewed"
            if same.status != place.status:  # a candidate that a good run teaches again
                values |= {"status": place.status, "reason": place.reason}
                values |= {"score": teaching.judgement.score, "judged_by": teaching.judgement.by}
                what = "admitted"
            await set_version(connection, memory.id, version, **values)
        else:
            version = max((each.version for each in memory.versions), default=0) + 1
            what = "new" if version == 1 else "changed"
            await connection.execute(
                insert(memory_versions).values(
                    memory_id=memory.id,
                    version=version,
                    status=place.status,
                    text=lesson.text,
                    run_id=teaching.run,
                    agent=teaching.agent,
                    model=teaching.model,
                    score=teaching.judgement.score,
                    judged_by=teaching.judgement.by,
                    reason=place.reason,
                    created_at=now,
                    renewed_at=now,
                    expires_at=expires,
                )
            )
        source = {"memory_id": memory.id, "version": version, "run_id": teaching.run}
        await connection.execute(
            self._insert(memory_sources)
            .values(**source, score=teaching.judgement.score, at=now)
            .on_conflict_do_nothing()
        )
        return told | {"version": version, "what": what}

    async def _placed(self, connection: Statements, teaching: Teaching, lesson: Lesson, now: datetime) -> _Place:
        memory = await self._memory_of(connection, teaching, lesson, now)
        status, reason = _admission(teaching, lesson)
        alike = [version for version in memory.versions if same_words(version.text, lesson.text)]
        for version in reversed(alike):
            if status == "quarantined" and version == memory.current:
                return _Place(memory, version, "active", None, known=True)  # strangers do not make it last longer
            if version.status == status and (status != "active" or version == memory.current):
                return _Place(memory, version, status, reason)
            if status == "active" and version.status == "candidate":
                return _Place(memory, version, status, reason)
            if status == "candidate" and version == memory.current:  # known already, from a run that did well
                return _Place(memory, version, "active", version.reason)
        if status == "active" and any(version.status in TAKEN_BACK for version in alike):
            return _Place(memory, None, "candidate", "A person took the same back before.")
        return _Place(memory, None, status, reason)

    async def _memory_of(self, connection: Statements, teaching: Teaching, lesson: Lesson, now: datetime) -> Memory:
        own = lesson.kind == "user"
        where = {
            "tenant": teaching.tenant,
            "kind": lesson.kind,
            "scope": "" if own else teaching.scope,
            "owner": teaching.owner if own else "",
            "subject": folded(lesson.subject),
        }
        query = select(memories.c.id).where(*(memories.c[name] == value for name, value in where.items()))
        identity = await connection.scalar(query)
        if identity is None:
            identity = new_memory_id()
            await connection.execute(insert(memories).values(id=identity, created_at=now, **where))
        return (await several(connection, [identity]))[0]


def _admission(teaching: Teaching, lesson: Lesson) -> tuple[MemoryStatus, str | None]:
    if teaching.tainted:
        return "quarantined", "The run touched untrusted content."
    if lesson.kind == "procedural" and not teaching.judgement.passed:
        return "candidate", teaching.judgement.reason
    return "active", teaching.judgement.reason if lesson.kind == "procedural" else None


def _expiry(status: MemoryStatus, lasts: timedelta | None, now: datetime) -> datetime | None:
    if status == "candidate":
        return now + min(lasts or CANDIDATE_LASTS, CANDIDATE_LASTS)
    return now + lasts if lasts is not None else None


async def admitted_until(connection: Statements, run: str | None, now: datetime) -> datetime | None:
    """Within a transaction: until when something holds that is admitted now, as the agent of its run has it."""
    report = await connection.scalar(select(lessons.c.report).where(lessons.c.run_id == run)) if run else None
    lasts = (report or {}).get("lasts_s")
    return now + timedelta(seconds=lasts) if lasts is not None else None


async def set_version(connection: Statements, memory: str, number: int, /, **values: Any) -> None:
    """Within a transaction: change one version."""
    await connection.execute(
        update(memory_versions)
        .where(memory_versions.c.memory_id == memory, memory_versions.c.version == number)
        .values(**values)
    )


async def _standing(connection: Statements, others: list[str]) -> tuple[bool, bool]:
    """Whether runs still stand for what they taught, having had no negative feedback; and whether one did well."""
    query = select(lessons.c.report, lessons.c.feedback).where(lessons.c.run_id.in_(others))
    rows = [row for row in await connection.execute(query) if row.feedback != "negative"]
    well = [row for row in rows if row.feedback == "positive" or row.report.get("passed")]
    return bool(rows), any(not row.report.get("tainted") for row in well)


async def _on_feedback(
    connection: Statements, run: str, verdict: FeedbackVerdict, by: str, note: str | None, now: datetime
) -> list[tuple[str, int, MemoryStatus]]:
    taught = list(
        await connection.execute(
            select(memory_sources.c.memory_id, memory_sources.c.version).where(memory_sources.c.run_id == run)
        )
    )
    said = f"{verdict} feedback by {by}" + (f": {note}" if note else "")
    report = await connection.scalar(select(lessons.c.report).where(lessons.c.run_id == run))
    tainted = bool((report or {}).get("tainted"))
    changed: list[tuple[str, int, MemoryStatus]] = []
    for memory_id, number in taught:
        (memory,) = await several(connection, [memory_id])
        version = next(each for each in memory.versions if each.version == number)
        withdrawn_so = version.status == "withdrawn" and not tainted
        if verdict == "positive" and (version.status == "candidate" or withdrawn_so):
            until = await admitted_until(connection, run, now)
            values: dict[str, Any] = {"status": "active", "judged_by": f"feedback:{by}"[:300], "expires_at": until}
        elif verdict == "negative" and version.status in ("active", "candidate", "quarantined"):
            others = [other for other in memory.sources.get(number, ()) if other != run]
            taught_it, did_well = await _standing(connection, others)
            if did_well or (taught_it and memory.kind != "procedural"):  # it stands by what they taught
                mine = (memory_sources.c.memory_id == memory_id, memory_sources.c.version == number)
                await connection.execute(delete(memory_sources).where(*mine, memory_sources.c.run_id == run))
                continue
            if taught_it and version.status != "active":  # it waits, as it did for their sake
                continue
            values = (
                {"status": "candidate", "expires_at": now + CANDIDATE_LASTS} if taught_it else {"status": "withdrawn"}
            )
        else:
            continue
        await set_version(connection, memory_id, number, reason=said, changed_by=by, **values)
        changed.append((memory_id, number, values["status"]))
    return changed
