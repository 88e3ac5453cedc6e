"""A cron line: what croniter 7 says that it means, in its zone, with our rule where clocks change.

`fires` and `between` are the reference for everything else here: previews, lateness, and the tests of what Temporal is
given. They ask croniter for each fire, so they are for hundreds of fires and not for millions.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from itertools import islice, pairwise
from typing import Literal

from croniter import CroniterBadDateError, croniter

from horarium.errors import ConfigError
from schedules.civil import Gap, Repeat, Rule, ends_of_day, least_in_a_day, moments
from schedules.clock import DAY, HOUR, Clock, ZoneRefused, clock_of
from schedules.describing import describe
from schedules.fields import HASHED, NAMES, RANDOM, EndsEarly, Fields, NeverFires, fields_of
from schedules.nearest import nearest_line

Kind = Literal["syntax", "random", "hash", "never", "ends_early", "zone", "too_many"]

# croniter means to raise ValueError alone, and not all of its code has heard of that.
UNREADABLE = (ValueError, TypeError, LookupError, OverflowError, AttributeError)

LONGEST_TEXT = 500  # characters; no line that a person wrote is longer
A_MINUTE = 60
A_YEAR = 400  # days that are looked at for the shortest time between two fires
YEARS_FOR_RARE = 9  # for lines that fire less than twice in those: 29 February


class CronRefused(ConfigError):
    """A line that cannot be what it seems; `nearest` is a line that can, where there is one."""

    code = "cron_refused"

    def __init__(
        self, text: str, reason: str, *, kind: Kind, nearest: str | None = None, hint: str | None = None
    ) -> None:
        super().__init__(
            f"The cron line {text!r} cannot be used: {reason}{'' if reason.endswith('?') else '.'}",
            hint=f"Write {nearest!r}." if nearest is not None else hint,
        )
        self.text = text
        self.reason = reason
        self.kind: Kind = kind
        self.nearest = nearest


@dataclass(frozen=True)
class CronLine:
    """One line in one zone. Make it with `parse`."""

    text: str
    zone: str
    rule: Rule
    hash_id: str | None
    fields: Fields
    clock: Clock

    @classmethod
    def parse(
        cls,
        text: str,
        zone: str,
        *,
        repeat: Repeat = "once",
        gap: Gap = "fire",
        hash_id: str | None = None,
    ) -> CronLine:
        """Read a line of 5, 6 (second last) or 7 (then year) fields, or one of croniter's macros.

        Args:
            hash_id: What `H` is drawn from, as the routine's name; macros are the same with and without it.

        Raises:
            CronRefused: The line cannot be used, or there is no such zone.
        """
        text = " ".join(text.split())
        try:
            clock = clock_of(zone)
        except ZoneRefused as error:
            reason = error.message.rstrip(".")
            raise CronRefused(text, reason[0].lower() + reason[1:], kind="zone", hint=error.hint) from error
        reader = _read(text, hash_id)
        try:
            fields = fields_of(reader)
        except NeverFires as error:
            nearest = error.better or nearest_line(text)
            raise CronRefused(text, f"it never fires, {error}", kind="never", nearest=nearest) from error
        except EndsEarly as error:
            raise CronRefused(text, str(error), kind="ends_early", nearest=error.better) from error
        return cls(text, zone, Rule(repeat, gap), hash_id, fields, clock)

    def fires(self, after: datetime, count: int) -> list[datetime]:
        """The next fires after a moment, in UTC; fewer when the line's years are over."""
        return list(islice(self._fires(after), count))

    def between(self, start: datetime, end: datetime) -> list[datetime]:
        """All fires after `start` and up to `end`, in UTC."""
        found: list[datetime] = []
        for moment in self._fires(start):
            if moment > end:
                break
            found.append(moment)
        return found

    def least_gap(self, start: datetime | None = None) -> timedelta | None:
        """The shortest time between two fires within about a year from `start` (now); None: it does not fire twice."""
        begin = int((start or datetime.now(UTC)).timestamp())
        first, last = ends_of_day(self.fields)
        inside = least_in_a_day(self.fields)
        found = [] if inside is None else [inside]
        found += [step * DAY + first - last for step in self._steps_in_days(begin)]
        for change in self.clock.changes(begin, begin + A_YEAR * DAY):
            # A change brings two fires nearer to each other by two hours at most: who fires each hour shows it nearby.
            near = inside is not None and inside <= HOUR
            low, high = (change.at - 3 * HOUR, change.at + 3 * HOUR) if near else self._days_around(change.at)
            around = moments(self.fields, self.rule, self.clock, low, high)
            found += [later - earlier for earlier, later in pairwise(around)]
        return timedelta(seconds=min(found)) if found else None

    def words(self) -> str:
        """The line in English."""
        return describe(self.fields)

    def _steps_in_days(self, begin: int) -> set[int]:
        """Days between one date with fires and the next."""
        today = self.clock.local(begin).date()
        for days in (A_YEAR, YEARS_FOR_RARE * 366):
            on = [day for day in range(days) if self.fields.on(today + timedelta(days=day))]
            if len(on) > 1:
                return {later - earlier for earlier, later in pairwise(on)}
        return set()

    def _days_around(self, moment: int) -> tuple[int, int]:
        """From the last date with fires before a moment to the first after it, as moments, with room to spare."""
        day = self.clock.local(moment).date()
        back, ahead = (
            next((days for days in range(1, A_YEAR) if self.fields.on(day + timedelta(days=sign * days))), A_YEAR)
            for sign in (-1, 1)
        )
        return moment - (back + 1) * DAY, moment + (ahead + 1) * DAY

    def _fires(self, after: datetime) -> Iterator[datetime]:
        if after.tzinfo is None:
            raise ValueError("a moment needs a zone")
        reader = _read(self.text, self.hash_id)
        reader.set_current(self._before_a_gap(after).astimezone(self.clock.zone), force=True)
        last, again = after, self._second_times(int(after.timestamp()))
        pending = next(again, None)
        while True:
            try:
                local: datetime = reader.get_next(datetime)
            except (CroniterBadDateError, OverflowError):
                break
            moment = local.astimezone(UTC)
            while pending is not None and pending < moment:
                if pending > last:
                    last = pending
                    yield pending
                pending = next(again, None)
            if moment > last and self._kept(moment):
                last = moment
                yield moment
        while pending is not None:
            if pending > last:
                yield pending
            pending = next(again, None)

    def _second_times(self, start: int) -> Iterator[datetime]:
        """Fires in repeated times, the second time. croniter leaves out those whose next fire has the offset of the
        first time again, as in another month, and some where half an hour repeats, as on Lord Howe."""
        if self.rule.repeat == "once" and not self.fields.every_hour:
            return
        for change in self.clock.repeats(start):
            end = change.at + len(change.repeat) - 1
            for moment in moments(self.fields, self.rule, self.clock, max(change.at - 1, start), end):
                yield datetime.fromtimestamp(moment, UTC)

    def _before_a_gap(self, after: datetime) -> datetime:
        # croniter moves a time out of a gap only when it is asked from before the gap: with seconds, asked within the
        # first minute after it, it would leave out what it else has later in that minute.
        moment = int(after.timestamp())
        for change in self.clock.changes(moment - A_MINUTE, moment + 1):
            if change.gap:
                return datetime.fromtimestamp(change.at - 1, UTC)
        return after

    def _kept(self, moment: datetime) -> bool:
        local = self.clock.local(int(moment.timestamp()))
        if local.fold and self.rule.repeat == "once" and not self.fields.every_hour:
            return False
        if self.rule.gap == "skip":
            return self.fields.at(local.hour, local.minute, local.second) and self.fields.on(local.date())
        return True


def _read(text: str, hash_id: str | None) -> croniter:
    parts = text.split()
    if len(text) > LONGEST_TEXT:
        raise CronRefused(f"{text[:40]}…", f"it has more than {LONGEST_TEXT} characters", kind="syntax")
    if any(RANDOM.match(part) for part in parts):
        fixed = nearest_line(text) if hash_id is not None else None
        hint = "Use H, which is drawn once from the routine's name."
        raise CronRefused(text, "'R' is drawn anew each time it is read", kind="random", nearest=fixed, hint=hint)
    hashed = any(HASHED.match(part) for part in parts)
    if hashed and hash_id is None:
        raise CronRefused(text, "'H' is drawn from a name, and none is given", kind="hash", hint="Name the routine.")
    try:
        return croniter(text, 0, ret_type=datetime, hash_id=hash_id if hashed else None)
    except UNREADABLE as error:
        raise CronRefused(text, _reason(text, error), kind="syntax", nearest=nearest_line(text)) from error


def _reason(text: str, error: Exception) -> str:
    """Which field it is, found by reading each alone; croniter often names none."""
    parts = text.split()
    if len(parts) not in (5, 6, 7):
        return f"it has {len(parts)} {'field' if len(parts) == 1 else 'fields'}, and a line has 5, 6 or 7"
    for number, part in enumerate(parts):
        alone = ["*"] * len(parts)
        alone[number] = part
        try:
            croniter(" ".join(alone), 0, hash_id="x")
        except UNREADABLE as problem:
            ranged = "out of range" in str(problem) or "out of bands" in str(problem)
            return f"the {NAMES[number]} {part!r} is {'out of range' if ranged else 'nothing that croniter knows'}"
    said = " ".join(str(error).split()).removeprefix(f"[{text}]").strip(" .")
    return f"croniter says: {said}" if said else "croniter cannot read it"
