"""What is said of routines and their ticks: triggers and policy in plain sentences, what became of a tick and why."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta, tzinfo
from typing import Any

from horarium.cli import times, words
from horarium.cli.evidence import moment
from horarium.durations import words as duration_words
from horarium.errors import ConfigError
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepRecord
from horarium.ledger.routines import ENGINE, RoutineRecord
from horarium.ledger.ticks import TickRecord
from horarium.routines import CronTrigger, EventTrigger, Overlap, Routine, Trigger, Unattended

OVERLAP: dict[Overlap, str] = {
    "skip": "While a tick is not done, others are skipped.",
    "buffer_one": "While a tick is not done, one other waits for it; more are skipped.",
    "buffer_all": "While a tick is not done, the others wait for it, all of them.",
    "cancel_other": "While a tick is not done, the next one cancels it and takes its place.",
    "terminate_other": "While a tick is not done, the next one ends it at once and takes its place.",
    "allow_all": "Ticks run beside each other.",
}
UNATTENDED: dict[Unattended, str] = {
    "ask": "At an approval a tick waits for a person.",
    "deny": "Nobody is asked: a call that needs an approval is rejected at once, and the agent is told so.",
    "hold_next": "At an approval a tick waits for a person, and no other tick begins meanwhile.",
}
BY: dict[str, str] = {"manual": "by hand", "backfill": "backfill"}
STYLES = {"completed": "green", "failed": "red", "missed": "red", "parked": "bold yellow", "skipped": "yellow"}
UNITS = ((86400, "d"), (3600, "h"), (60, "m"), (0, "s"))
LADDER_SHOWN = 4  # waits of a ladder that are named one by one


def length(value: timedelta) -> str:
    """`1h 30m`, `30s`, `0s`."""
    return duration_words(value).replace(".0s", "s") if value else "0s"


def zone_name(routine: Routine, trigger: str | None = None) -> str:
    """The zone of a trigger; where it has none, that of the routine's first cron line, or UTC."""
    own = [routine.triggers[trigger]] if trigger in routine.triggers else []
    for item in (*own, *routine.triggers.values()):
        if isinstance(item, CronTrigger):
            return item.time_zone
    return "UTC"


def when(routine: Routine, trigger: Trigger) -> str:
    """When a trigger fires, in words; or that it cannot any more."""
    from schedules.specs import since_now, timing

    if isinstance(trigger, EventTrigger):
        return f"On the event {trigger.event}"
    try:
        return timing(routine, trigger, since_now(datetime.now(UTC))).words
    except ConfigError as error:
        return error.message


def all_triggers(routine: Routine) -> str:
    """All triggers in one line."""
    said = [when(routine, trigger) for trigger in routine.triggers.values()]
    return "; ".join(said) or "Runs when somebody says so"


def agent(routine: Routine) -> str:
    """`triage`, or `triage@3`."""
    return routine.agent + (f"@{routine.version}" if routine.version else "")


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


def paused(record: RoutineRecord) -> str:
    """Who paused it, and why."""
    by = "the engine" if record.paused_by == ENGINE else words.one_line(record.paused_by or "")
    said = f"by {by}" if by else ""
    note = words.one_line(record.pause_note) if record.pause_note else ""
    return ": ".join(part for part in (said, note) if part)


# ---- policy


def policy(routine: Routine, also_told: int) -> Iterator[str]:
    """What follows when it fails, meets itself, comes late or has to ask.

    Args:
        also_told: Addresses in the settings, which are told of every routine.
    """
    yield _on_failure(routine)
    if routine.on_failure != "skip" and not routine.alert and not also_told:
        yield "Alerts have no address, and are only written down: add `alert` to it, or to [routines] in horarium.toml."
    if routine.pause_after:
        yield f"After {words.plural(routine.pause_after, 'failed tick')} in a row it is paused, with an alert."
    attempt = f", one attempt at most {length(routine.attempt_timeout)}" if routine.attempt_timeout else ""
    yield f"A tick may take {length(routine.timeout)}{attempt}; waiting for people is not counted."
    yield OVERLAP[routine.overlap]
    if routine.catch_up:
        yield f"After an outage, ticks up to {length(routine.catch_up)} late still run; later ones are missed."
    else:
        yield "After an outage, ticks that did not come in time are missed."
    if routine.late_after:
        late = length(routine.late_after)
        yield f"When a tick has not begun {late} after its time, or not ended {late} after its timeout: an alert."
    else:
        yield "Nobody is alerted about late ticks (`late_after` is not set)."
    yield UNATTENDED[routine.unattended]
    if routine.preapproved:
        tools = ", ".join(item.tool + (" (within bounds)" if item.when else "") for item in routine.preapproved)
        yield f"Nobody is asked about: {tools}."
    if routine.jitter:
        yield f"Each tick begins somewhere within {length(routine.jitter)} after its time."
    if routine.conversation == "continue":
        yield "All ticks share one conversation."


def _on_failure(routine: Routine) -> str:
    told = ", ".join(routine.alert)
    alert = f"one alert{f' to {told}' if told else ''}, and one when it works again"
    ladder = routine.ladder
    if ladder is not None:
        waits = [length(ladder.wait(number)) for number in range(1, min(ladder.attempts, LADDER_SHOWN + 1))]
        more = ", …" if ladder.attempts - 1 > len(waits) else ""
        return (
            f"A tick that fails goes on at its last settled step: {ladder.attempts} attempts in all, "
            f"waiting {', '.join(waits)}{more}. Then: {alert}."
        )
    if routine.on_failure == "skip":
        return "A tick that fails is written down, and nobody is told."
    return f"When ticks begin to fail: {alert}."


# ---- ticks


@dataclass(frozen=True, slots=True)
class TickSeen:
    """A tick, with what it waits for and where it failed."""

    record: TickRecord
    waits_for: tuple[ApprovalRecord, ...] = ()
    failed_at: StepRecord | None = None

    @classmethod
    async def read(cls, ledger: Ledger, record: TickRecord) -> TickSeen:
        """Look into its run where that says more."""
        if record.run_id is None:
            return cls(record)
        if record.is_open:
            asked = await Approvals(ledger).of_run(record.run_id)
            return cls(record, tuple(item for item in asked if item.status == "pending"))
        if record.status == "failed":
            steps = await Journal(ledger).of_run(record.run_id)
            failed = [step for step in steps if step.status in ("failed", "unknown")]
            return cls(record, failed_at=failed[-1] if failed else None)
        return cls(record)

    def happened(self, zone: tzinfo | None) -> str:
        """What became of it and why; empty for one that just completed."""
        tick = self.record
        message = words.one_line(tick.message or "").removeprefix("Skipped: ")
        match tick.status:
            case "completed":
                return _retried(tick)
            case "running" | "parked":
                return self._now(zone)
            case "failed":
                step, where = self.failed_at, ""
                if step is not None:
                    name = words.one_line(step.name)
                    where, message = f"at step {step.number} ({name}): ", message.removeprefix(f"{name}: ")
                tries = f" {_retried(tick).capitalize()}." if tick.attempts > 1 else ""
                return f"{where}{message or tick.reason or ''}{tries}"
            case _:
                return message or tick.reason or ""

    def _now(self, zone: tzinfo | None) -> str:
        tick = self.record
        ladder = tick.routine_then.ladder
        of = f"attempt {tick.attempts} of {ladder.attempts}" if ladder else f"attempt {tick.attempts}"
        if tick.next_try_at is not None:
            then = times.shown(tick.next_try_at, zone)
            return f"{of} failed: {words.one_line(tick.message or '')} The next one: {then}."
        if self.waits_for:
            asked = ", ".join(f"{item.id} ({item.tool})" for item in self.waits_for)
            return f"waits for {'approval ' if self.waits_for[0].kind == 'approval' else ''}{asked}"
        return "waits for a person" if tick.status == "parked" else of if tick.attempts else "begins"

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


def _retried(tick: TickRecord) -> str:
    if tick.attempts < 2:
        return ""
    return "retried once" if tick.attempts == 2 else f"retried {tick.attempts - 1} times"


def source(tick: TickRecord) -> str:
    """What set it off."""
    return tick.trigger or BY.get(tick.source, tick.source)


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
