"""What the CLI says of routines and their ticks, besides what is said everywhere (horarium/routine_words.py)."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, tzinfo
from typing import Any

from horarium import routine_words
from horarium.cli import times, words
from horarium.cli.evidence import moment
from horarium.ledger.routines import RoutineRecord
from horarium.ledger.ticks import TickRecord
from horarium.routine_words import OVERLAP as OVERLAP
from horarium.routine_words import agent as agent
from horarium.routine_words import length as length
from horarium.routine_words import paused as paused
from horarium.routine_words import policy as policy
from horarium.routine_words import source as source
from horarium.routine_words import zone_name as zone_name
from horarium.routines import Routine, Trigger

STYLES = {"completed": "green", "failed": "red", "missed": "red", "parked": "bold yellow", "skipped": "yellow"}
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (0, "s"))


def when(routine: Routine, trigger: Trigger) -> str:
    """When a trigger fires, in words; or that it cannot any more."""
    from schedules.previews import trigger_words

    return trigger_words(routine, trigger)


def all_triggers(routine: Routine) -> str:
    """All triggers in one line."""
    said = [when(routine, trigger) for trigger in routine.triggers.values()]
    return "; ".join(said) or "Runs when somebody says so"


def state(record: RoutineRecord, zone: tzinfo | None) -> str:
    """Whether anything keeps it from running well; empty when nothing does."""
    said: list[str] = []
    if record.paused:
        until = f" until {times.shown(record.paused_until, zone)}" if record.paused_until else ""
        said.append(f"paused{until}")
    if record.held_by:
        said.append("held by an approval")
    if record.failures:
        in_a_row = " in a row" if record.failures > 1 else ""
        said.append(f"{words.plural(record.failures, 'failure')}{in_a_row}")
    if record.applied != record.generation:
        said.append("not in Temporal yet")
    return ", ".join(said)


# ---- ticks


@dataclass(frozen=True, slots=True)
class TickSeen(routine_words.TickSeen):
    """A tick, with what it waits for and where it failed; also for scripts."""

    def json(self) -> dict[str, Any]:
        """One tick, with the contract's keys where it has them."""
        tick, step = self.record, self.failed_at
        return {
            "tick": tick.id,
            "routine": tick.routine,
            "tenant": tick.tenant,
            "trigger": tick.trigger,
            "source": tick.source,
            "by": (tick.event or {}).get("by"),
            "status": tick.status,
            "reason": tick.reason,
            "message": tick.message,
            "scheduled_at": moment(tick.scheduled_at),
            "opened_at": moment(tick.opened_at),
            "started_at": moment(tick.started_at),
            "closed_at": moment(tick.closed_at),
            "lateness_seconds": tick.lateness.total_seconds() if tick.lateness is not None else None,
            "attempts": tick.attempts,
            "next_try_at": moment(tick.next_try_at),
            "run": tick.run_id,
            "thread": tick.thread_id,
            "waiting_for": [item.id for item in self.waits_for],
            "failed_step": {"number": step.number, "name": step.name, "code": step.code} if step else None,
            "turns": tick.turns,
            "usage": {
                "input_tokens": tick.input_tokens,
                "output_tokens": tick.output_tokens,
                "cost_micro_usd": tick.cost_micro_usd,
            },
            "output": tick.output,
        }


def spent(tick: TickRecord) -> str:
    """Tokens and money, as far as there are any."""
    used = f"{tick.input_tokens:,} tokens in, {tick.output_tokens:,} out" if tick.input_tokens else ""
    return ", ".join(part for part in (used, words.money(tick.cost_micro_usd)) if part)


def outcome(tick: TickRecord) -> str:
    """The latest tick in a few words: `failed 3h ago`, `parked for 2d`."""
    at = tick.closed_at or tick.started_at or tick.opened_at or tick.scheduled_at
    return f"{tick.status} for {_roughly(at)}" if tick.is_open else f"{tick.status} {_roughly(at)} ago"


def _roughly(since: datetime) -> str:
    seconds = max(0, int((datetime.now(UTC) - since).total_seconds()))
    size, unit = next(item for item in UNITS if seconds >= item[0])
    return f"{seconds // (size or 1)}{unit}"


# ---- JSON


def routine_json(record: RoutineRecord, coming: datetime | None, latest: TickRecord | None) -> dict[str, Any]:
    """A routine as it is meant to be and as it stands."""
    routine = record.routine
    return {
        "routine": record.name,
        "tenant": record.tenant,
        "agent": routine.agent,
        "version": routine.version,
        "triggers": {name: when(routine, trigger) for name, trigger in routine.triggers.items()},
        "next_fire": moment(coming),
        "latest_tick": TickSeen(latest).json() if latest is not None else None,
        "paused": bool(record.paused),
        "pause_note": record.pause_note,
        "paused_until": moment(record.paused_until),
        "paused_by": record.paused_by,
        "held_by": record.held_by,
        "failures": record.failures,
        "failing_since": moment(record.failing_since),
        "state": dict(record.state),
        "thread": record.thread_id,
        "previous_tick": record.previous_tick,
        "last_tick": record.last_tick,
        "generation": record.generation,
        "applied": record.applied,
        "managed_by": record.managed_by,
        "changed_at": moment(record.changed_at),
        "changed_by": record.changed_by,
        "definition": dict(record.definition),
    }
