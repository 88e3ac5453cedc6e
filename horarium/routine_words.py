"""What is said of routines and their ticks everywhere: policy in plain sentences, what became of a tick and why.

When a trigger fires is said by `schedules/`, which has the calendar.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import timedelta, tzinfo
from typing import Self

from horarium.durations import words as duration_words
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepRecord
from horarium.ledger.routines import ENGINE, RoutineRecord
from horarium.ledger.ticks import TickRecord
from horarium.localtimes import shown
from horarium.routines import CronTrigger, Overlap, Routine, Unattended
from horarium.visible import one_line

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


def agent(routine: Routine) -> str:
    """`triage`, or `triage@3`."""
    return routine.agent + (f"@{routine.version}" if routine.version else "")


def paused(record: RoutineRecord) -> str:
    """Who paused it, and why."""
    by = "the engine" if record.paused_by == ENGINE else one_line(record.paused_by or "")
    said = f"by {by}" if by else ""
    note = one_line(record.pause_note) if record.pause_note else ""
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
        ticks = "tick" if routine.pause_after == 1 else "ticks"
        yield f"After {routine.pause_after} failed {ticks} in a row it is paused, with an alert."
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
    async def read(cls, ledger: Ledger, record: TickRecord) -> Self:
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
        message = one_line(tick.message or "").removeprefix("Skipped: ")
        match tick.status:
            case "completed":
                return _retried(tick)
            case "running" | "parked":
                return self._now(zone)
            case "failed":
                step, where = self.failed_at, ""
                if step is not None:
                    name = one_line(step.name)
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
            then = shown(tick.next_try_at, zone)
            return f"{of} failed: {one_line(tick.message or '')} The next one: {then}."
        if self.waits_for:
            asked = ", ".join(f"{item.id} ({item.tool})" for item in self.waits_for)
            return f"waits for {'approval ' if self.waits_for[0].kind == 'approval' else ''}{asked}"
        return "waits for a person" if tick.status == "parked" else of if tick.attempts else "begins"


def _retried(tick: TickRecord) -> str:
    if tick.attempts < 2:
        return ""
    return "retried once" if tick.attempts == 2 else f"retried {tick.attempts - 1} times"


def source(tick: TickRecord) -> str:
    """What set it off."""
    return tick.trigger or BY.get(tick.source, tick.source)
