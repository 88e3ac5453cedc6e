"""The latest ticks of a routine as a row of small squares: each with a mark of its own, so that it needs no colour."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, fields
from datetime import timedelta, tzinfo
from typing import Literal

from horarium.durations import words
from horarium.ledger.ticks import TickMark, TickRecord
from horarium.localtimes import shown
from horarium.visible import one_line

SHOWN = 30  # ticks
LONGEST = 200  # characters of a reason
Kind = Literal[
    "done", "retried", "late", "skipped", "parked", "failed", "missed", "cancelled", "queued", "running", "waiting"
]
WENT_WELL: tuple[Kind, ...] = ("done", "retried", "late")
# Strokes in a square of 12.
MARKS: dict[Kind, str] = {
    "done": "M3 6.4l2.1 2.1 4-4.8",
    "retried": "M9.2 6A3.2 3.2 0 1 1 8 3.5M8.6 1.9v2.2H6.4",
    "late": "M6 2.4a3.6 3.6 0 1 0 .01 0M6 4v2.2l1.5 1",
    "skipped": "M3 6h6",
    "parked": "M4.6 3.4v5.2M7.4 3.4v5.2",
    "failed": "M3.4 3.4l5.2 5.2M8.6 3.4L3.4 8.6",
    "missed": "M6 2.8v3.8M6 8.9v.2",
    "cancelled": "M6 2.5a3.5 3.5 0 1 0 .01 0M3.6 8.4l4.8-4.8",
    "queued": "M3.2 6h.1M6 6h.1M8.8 6h.1",
    "running": "M4.6 3.2l4.2 2.8-4.2 2.8z",
    "waiting": "M3.6 2.8h4.8L3.6 9.2h4.8z",
}
MEANINGS: dict[Kind, str] = {
    "done": "done",
    "retried": "done after a retry",
    "late": "done, late",
    "skipped": "skipped",
    "parked": "waits for a person",
    "failed": "failed",
    "missed": "missed",
    "cancelled": "cancelled",
    "queued": "waits for its turn",
    "running": "running",
    "waiting": "waits for its next attempt",
}


@dataclass(frozen=True, slots=True)
class Square:
    """One tick of a strip."""

    tick: str
    kind: Kind
    mark: str
    title: str


def kind_of(tick: TickMark, allowed: timedelta) -> Kind:
    """What a tick is shown as; `allowed`: how much later than its time it may begin."""
    match tick.status:
        case "completed":
            return "retried" if tick.attempts > 1 else "late" if (lateness(tick) or timedelta()) > allowed else "done"
        case "running":
            return "waiting" if tick.next_try_at is not None else "running"
        case status:
            return status


def lateness(tick: TickMark) -> timedelta | None:
    """From its scheduled time to its start; None where nothing was scheduled, or it did not start."""
    if tick.source != "schedule" or tick.started_at is None:
        return None
    return max(tick.started_at - tick.scheduled_at, timedelta())


def strip(ticks: Sequence[TickMark], allowed: timedelta, zone: tzinfo) -> list[Square]:
    """The squares of these ticks, of which the newest comes first, in the order of time."""
    return [_square(tick, allowed, zone) for tick in reversed(ticks[:SHOWN])]


def in_words(squares: Sequence[Square]) -> str:
    """What a strip shows, for who cannot see it."""
    if not squares:
        return "No ticks yet."
    counts = Counter(square.kind for square in squares)
    said = ", ".join(f"{counts[kind]} {meaning}" for kind, meaning in MEANINGS.items() if counts[kind])
    return f"The last tick: {said}." if len(squares) == 1 else f"The last {len(squares)} ticks: {said}."


def _square(tick: TickMark, allowed: timedelta, zone: tzinfo) -> Square:
    kind = kind_of(tick, allowed)
    said = [f"{shown(tick.scheduled_at, zone)}: {MEANINGS[kind]}"]
    late = lateness(tick)
    if late is not None and late > allowed:
        said.append(f"began {words(late)} late")
    if kind == "retried":
        said.append(f"{tick.attempts} attempts")
    if kind not in WENT_WELL and (why := why_of(tick)):
        said.append(why)
    return Square(tick.id, kind, MARKS[kind], "; ".join(said))


def why_of(tick: TickMark) -> str:
    """The reason that a tick has, on one line; empty where it has none."""
    text = one_line(tick.message or tick.reason or "").removeprefix("Skipped: ")
    return text if len(text) <= LONGEST else f"{text[: LONGEST - 1]}…"


def mark_of(tick: TickRecord) -> TickMark:
    """As much of a tick as a strip needs."""
    return TickMark(**{field.name: getattr(tick, field.name) for field in fields(TickMark)})
