"""The step `memory_write`: what a completed run leaves for later runs.

One step, however often it is begun: what was learned is written down once for each run, and found again. Models that
do not answer, or answer nonsense, cost what would have been learned and never the run.
"""

from __future__ import annotations

import asyncio
import json
from dataclasses import replace
from datetime import UTC, datetime
from typing import Any

import structlog
from sqlalchemy.exc import SQLAlchemyError
from temporalio import activity

from activities.catalog import Catalog
from activities.memory_asking import Asker, NoAnswer
from activities.memory_extraction import extracted
from activities.memory_judging import judged
from activities.memory_transcript import Transcript, transcript_of
from activities.models.router import Models
from horarium.content import clean_text, shorten
from horarium.contract import Usage
from horarium.definitions import Agent, Memory, ModelSettings
from horarium.errors import ConfigError, StepCrashes
from horarium.foundry_memory import foundry_scope
from horarium.ids import idempotency_key
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Held, Journal, StepClaim, StepRecord, settled
from horarium.ledger.memories import Memories
from horarium.ledger.memory_lessons import Lessons, Teaching
from horarium.ledger.memory_outbox import Delivery, DeliveryStatus
from horarium.ledger.memory_taint import others_spoke, touched_by_strangers
from horarium.ledger.runs import RunRecord, Runs
from horarium.memories import KINDS, Judgement, Known, Lesson, MemoryKind
from horarium.protocol import NOTE_CHARS, WRITE_MEMORY, WriteMemory, WrittenMemory
from horarium.settings import Settings
from horarium.toolhost import heartbeating
from horarium.tools import Effect

log = structlog.get_logger()

KNOWN_OF_A_KIND = 20  # that a model is shown, so that the same thing gets the same subject
_UNJUDGED = Judgement(False)


class MemoryWriter:
    """The activity `write_memory` and what it needs."""

    def __init__(self, ledger: Ledger, models: Models, catalog: Catalog, settings: Settings) -> None:
        self._ledger = ledger
        self._journal = Journal(ledger)
        self._memories = Memories(ledger)
        self._lessons = Lessons(ledger)
        self._runs = Runs(ledger)
        self._models = models
        self._catalog = catalog
        self._settings = settings

    @activity.defn(name=WRITE_MEMORY)
    async def write_memory(self, writing: WriteMemory) -> WrittenMemory:
        """Find what a run taught, judge it, and write it down. Safe to repeat: a run teaches once."""
        async with heartbeating():
            with structlog.contextvars.bound_contextvars(run=writing.run, step=writing.number):
                return await self._write(writing)

    async def _write(self, writing: WriteMemory) -> WrittenMemory:
        agent = (await self._catalog.agent(writing.agent, writing.version)).agent
        memory = agent.memory
        if memory is None:
            return WrittenMemory()
        run = await self._runs.opened_as(writing.run, writing.agent, writing.version)
        claim = StepClaim(
            run_id=writing.run,
            number=writing.number,
            kind="memory_write",
            name=memory.scope,
            effect=Effect.IDEMPOTENT,
            key=idempotency_key(writing.run, "memory"),
        )
        try:
            held = await self._journal.claim(claim)
        except StepCrashes as error:
            await self._journal.settle_unclaimed(claim, "failed", "", code=error.code, message=str(error))
            return WrittenMemory()
        if isinstance(held, StepRecord):
            return await self._told(held)
        report = await self._lessons.learned(writing.run)
        if report is None:
            try:
                report = await self._learn(run, agent, memory)
            except (SQLAlchemyError, OSError):
                raise  # the ledger is away, and the run cannot end without it either
            except Exception as error:
                log.exception("memory.broke")
                words = shorten(clean_text(f"Nothing was learned: {error}")[0], NOTE_CHARS)
                return await self._told(await self._journal.settle(held, "failed", "", code="broke", message=words))
        return await self._told(await self._settled(held, report))

    async def _settled(self, held: Held, report: dict[str, Any]) -> StepRecord:
        used = Usage.model_validate(report.get("usage", {}))
        shown = {name: value for name, value in report.items() if name != "usage"}
        return await self._journal.settle(
            held,
            "completed",
            json.dumps(shown, ensure_ascii=False),
            message=report.get("note"),
            usage=used,
            model=report.get("model"),
            keep=True,
        )

    async def _told(self, record: StepRecord) -> WrittenMemory:
        usage = Usage(
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cost_micro_usd=record.cost_micro_usd,
        )
        report = await self._lessons.learned(settled(record).run_id) or {}
        return WrittenMemory(deliver=report.get("delivery") == "pending", usage=usage)

    async def _learn(self, run: RunRecord, agent: Agent, memory: Memory) -> dict[str, Any]:
        transcript = await transcript_of(self._ledger, run.id)
        tainted = await touched_by_strangers(self._ledger, run.id)
        if transcript.owner:
            tainted = tainted or await others_spoke(self._ledger, run.id, transcript.owner)
        teaching = Teaching(
            tenant=run.tenant,
            run=run.id,
            agent=agent.name,
            scope=memory.scope,
            owner=transcript.owner,
            lessons=(),
            judgement=_UNJUDGED,
            tainted=tainted,
            lasts=memory.expires_after,
        )
        asker = Asker(self._models, run.id)
        if memory.store == "foundry":
            judgement = await self._judged(asker, agent, memory, transcript)
            teaching = replace(teaching, judgement=judgement, usage=asker.usage)
            return await self._lessons.learn(teaching, self._delivery(teaching, memory, transcript))
        lessons, note = await self._found(asker, agent, memory, transcript, run.tenant)
        judgement = _UNJUDGED
        if any(lesson.kind == "procedural" for lesson in lessons):
            judgement = await self._judged(asker, agent, memory, transcript)
        model = memory.extracts_with(agent.model)
        teaching = replace(teaching, lessons=lessons, judgement=judgement, model=model, note=note, usage=asker.usage)
        return await self._lessons.learn(teaching)

    async def _found(
        self, asker: Asker, agent: Agent, memory: Memory, transcript: Transcript, tenant: str
    ) -> tuple[tuple[Lesson, ...], str | None]:
        """What there is to learn, and why it is nothing when that is so."""
        plain = (Lesson("summary", transcript.run.id, transcript.note),) if "summary" in memory.kinds else ()
        model = memory.extracts_with(agent.model)
        if model is None:
            return plain, None
        known: list[Known] = []
        for kind in KINDS:
            if kind in memory.kinds and kind != "summary":
                known += await self._known(tenant, kind, memory, transcript)
        try:
            async with asyncio.timeout(agent.settings.timeout.total_seconds()):
                return await extracted(asker, memory, model, _settings(agent, model), transcript, known), None
        except NoAnswer as error:
            problem = str(error)
        except TimeoutError:
            problem = f"{model} took longer than {agent.settings.timeout}."
        log.warning("memory.nothing_learned", error=problem)
        return plain, f"Nothing was learned: {problem}"

    async def _known(self, tenant: str, kind: MemoryKind, memory: Memory, transcript: Transcript) -> list[Known]:
        own = kind == "user"
        if own and not transcript.owner:
            return []
        return await self._memories.recall(
            tenant=tenant,
            kind=kind,
            scope="" if own else memory.scope,
            owner=transcript.owner if own else "",
            query=transcript.input,
            limit=KNOWN_OF_A_KIND,
            at=datetime.now(UTC),
        )

    async def _judged(self, asker: Asker, agent: Agent, memory: Memory, transcript: Transcript) -> Judgement:
        rubric = memory.rubric
        settings = _settings(agent, rubric.model if rubric is not None else None)
        try:
            async with asyncio.timeout(agent.settings.timeout.total_seconds()):
                return await judged(asker, rubric, settings, transcript, self._settings)
        except TimeoutError:
            name = rubric.name if rubric is not None else None
            return Judgement(False, name, None, f"Not judged: it took longer than {agent.settings.timeout}.")

    def _delivery(self, teaching: Teaching, memory: Memory, transcript: Transcript) -> Delivery:
        """What the store elsewhere is told: the question and the answer; it finds by itself what to keep."""
        store = self._settings.memory.foundry.store
        if store is None:
            raise ConfigError(
                f"Agent {teaching.agent!r} has `store: foundry`, and memory.foundry.store is not set.",
                hint="Name the memory store in [memory.foundry] of horarium.toml.",
            )
        status: DeliveryStatus = "pending"
        if teaching.tainted:
            status = "quarantined"
        elif "procedural" in memory.kinds and not teaching.judgement.passed:
            status = "candidate"
        said = (("user", transcript.input), ("assistant", transcript.output))
        return Delivery(
            run_id=teaching.run,
            tenant=teaching.tenant,
            store=store,
            scope=foundry_scope(teaching.tenant, teaching.owner, teaching.scope),
            items=[{"type": "message", "role": role, "content": text} for role, text in said if text],
            status=status,
            message=teaching.judgement.reason if status == "candidate" else None,
        )


def _settings(agent: Agent, model: str | None) -> ModelSettings:
    """The agent's own settings are for its own model."""
    return agent.settings if model == agent.model else ModelSettings(timeout=agent.settings.timeout)
