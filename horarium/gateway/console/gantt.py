"""Where each bar of a run's timeline goes: arithmetic only, no drawing.

The axis is not to scale, or a run that waited three days would show nothing else: every stretch of time between two
events is at least wide enough to see and at most `WIDEST` px, and what was shortened has its length written on it. So
the order in time is exact, ticks say true times, and lengths can be compared except across such a mark.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from itertools import groupby, pairwise

MARGIN_LEFT, MARGIN_RIGHT = 76.0, 24.0
LANE, TOP, BOTTOM = 24.0, 8.0, 40.0
NARROWEST, WIDEST = 3.0, 150.0  # px between two events
SPARE, ROOM = 1_000.0, 4_000.0  # px of a whole picture: at least, and about at most
LEAST_BAR, LEAST_MARKED, GAP = 4.0, 26.0, 1.5
TICK_EVERY = 84.0
SHORTENED = 6.0  # a stretch that is drawn this many times too short is marked
MOST_BARS = 240
GROUPS = ("Waits", "People", "Model", "Tools", "Agents", "Memory")


@dataclass(frozen=True, slots=True)
class Bar:
    """Something that took time. `end` None: it has not ended. `mark`: a sign for what a colour alone must not say."""

    group: str
    start: datetime
    end: datetime | None
    title: str
    label: str = ""
    state: str = "completed"
    mark: str = ""
    link: str = ""
    count: int = 1

    @property
    def is_plain(self) -> bool:
        """Whether it can be drawn together with its neighbours."""
        return not self.mark and self.end is not None


@dataclass(frozen=True, slots=True)
class Placed:
    """A bar in its place; px from the left, and from the top."""

    bar: Bar
    x: float
    y: float
    width: float
    lane: int

    @property
    def text(self) -> str:
        """What fits into it."""
        whole = f"{self.bar.label} {self.bar.mark}".strip()
        if len(whole) * 7 + 8 <= self.width:
            return whole
        return self.bar.mark if len(self.bar.mark) * 8 <= self.width else ""


@dataclass(frozen=True, slots=True)
class Lane:
    """The name of a group, at its first lane."""

    label: str
    y: float
    height: float


@dataclass(frozen=True, slots=True)
class Tick:
    """A time on the axis, since the beginning."""

    x: float
    label: str


@dataclass(frozen=True, slots=True)
class Shortened:
    """A stretch of time that is drawn shorter than it was."""

    x: float
    width: float
    label: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A timeline, ready to be drawn."""

    width: float
    height: float
    bars: tuple[Placed, ...]
    lanes: tuple[Lane, ...]
    ticks: tuple[Tick, ...]
    shortened: tuple[Shortened, ...]


def picture(bars: Sequence[Bar], now: datetime) -> Picture | None:
    """Lay bars out; None when there are none. `now`: where those end that have not."""
    if not bars:
        return None
    bars = together(bars)
    axis = _Axis.of(bars, now)
    placed: list[Placed] = []
    lanes: list[Lane] = []
    lane = 0
    for group in sorted({bar.group for bar in bars}, key=_rank):
        first = lane
        ends: list[float] = []
        for bar in sorted((bar for bar in bars if bar.group == group), key=lambda bar: (bar.start, bar.link)):
            x, width = axis.span(bar.start, max(bar.end or now, bar.start), LEAST_MARKED if bar.mark else LEAST_BAR)
            # A bar that was widened may begin a little later than true, rather than in a lane of its own.
            free = next((n for n, end in enumerate(ends) if end <= x), None)
            if free is None:
                free = len(ends)
                ends.append(0.0)
            ends[free] = x + width + GAP
            placed.append(Placed(bar, x, TOP + (first + free) * LANE, width, first + free))
        lane = first + len(ends)
        lanes.append(Lane(group, TOP + first * LANE, len(ends) * LANE))
    height = TOP + lane * LANE + BOTTOM
    return Picture(axis.width, height, tuple(placed), tuple(lanes), tuple(axis.ticks()), tuple(axis.shortened()))


def together(bars: Sequence[Bar], most: int = MOST_BARS) -> list[Bar]:
    """The bars, neighbours of a group drawn as one where they are more than `most`; those with a mark as long as there
    is room for them."""
    if len(bars) <= most:
        return list(bars)
    own = [bar for bar in bars if not bar.is_plain]
    kept = own if len(own) <= most // 2 else []
    rest = [bar for bar in bars if bar.is_plain] if kept or not own else list(bars)
    each = -(-len(rest) // max(most - len(kept) - len(GROUPS), 1))
    found = list(kept)
    for _, group in groupby(sorted(rest, key=lambda bar: (_rank(bar.group), bar.group, bar.start)), lambda b: b.group):
        members = list(group)
        found += [_one_of(members[at : at + each]) for at in range(0, len(members), each)]
    return found


def _one_of(bars: Sequence[Bar]) -> Bar:
    first = bars[0]
    if len(bars) == 1:
        return first
    ends = [bar.end for bar in bars]
    worst = next((bar for bar in bars if bar.mark), first)
    count = sum(bar.count for bar in bars)
    return replace(
        first,
        end=None if None in ends else max(end for end in ends if end is not None),
        title=f"{count} steps of {first.group.lower()}, from: {first.title}",
        label=f"{count} ×",
        state=worst.state,
        mark=worst.mark,
        count=count,
    )


def elapsed(seconds: float) -> str:
    """`0 s`, `40 ms`, `4.2 s`, `12 s`, `3 min`, `2 h 5 min`, `3 d 4 h`."""
    if seconds < 1:
        return f"{seconds * 1000:.0f} ms" if seconds >= 0.0005 else "0 s"
    if seconds < 10:
        return f"{seconds:.1f} s"
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    minutes = round(seconds / 60)
    if minutes < 60:
        return f"{minutes} min"
    hours, minutes = divmod(minutes, 60)
    if hours < 24:
        return f"{hours} h {minutes} min" if minutes else f"{hours} h"
    days, hours = divmod(round(seconds / 3600), 24)
    return f"{days} d {hours} h" if hours else f"{days} d"


def _rank(group: str) -> int:
    return GROUPS.index(group) if group in GROUPS else len(GROUPS)


@dataclass(frozen=True, slots=True)
class _Axis:
    times: tuple[datetime, ...]
    places: tuple[float, ...]
    px_per_second: float

    @classmethod
    def of(cls, bars: Iterable[Bar], now: datetime) -> _Axis:
        times = sorted({moment for bar in bars for moment in (bar.start, max(bar.end or now, bar.start))})
        lengths = [(after - before).total_seconds() for before, after in pairwise(times)]
        scale = _scale(lengths)
        widest = min(WIDEST, max(2 * ROOM / max(len(lengths), 1), 2 * NARROWEST))
        widths, stretched = _widths(lengths, scale, widest), False
        # A short run takes the room that there is: first what is not shortened, then all.
        while sum(widths) < SPARE and min(widths, default=widest) < widest and scale < 1e6:
            scale *= 1.5
            widths = _widths(lengths, scale, widest)
            stretched = True
        if widths and (stretched or sum(widths) < SPARE):
            more = SPARE / sum(widths)
            widths, scale = [width * more for width in widths], scale * more
        places = [MARGIN_LEFT]
        for width in widths:
            places.append(places[-1] + width)
        return cls(tuple(times), tuple(places), scale)

    @property
    def width(self) -> float:
        return max(self.places[-1], MARGIN_LEFT + SPARE) + LEAST_MARKED + MARGIN_RIGHT

    def at(self, moment: datetime) -> float:
        """Where a time is."""
        n = bisect_right(self.times, moment) - 1
        if n >= len(self.times) - 1:
            return self.places[-1]
        part = (moment - self.times[n]) / (self.times[n + 1] - self.times[n])
        return self.places[n] + part * (self.places[n + 1] - self.places[n])

    def span(self, start: datetime, end: datetime, least: float) -> tuple[float, float]:
        x = self.at(start)
        return x, max(self.at(end) - x - GAP, least)

    def ticks(self) -> Iterator[Tick]:
        """At events, as far apart as they can be read; after a shortened stretch they count from its end."""
        began, last, said = self.times[0], -TICK_EVERY, ""
        after_mark = False
        for n, (moment, x) in enumerate(zip(self.times, self.places, strict=True)):
            is_far = x - last >= TICK_EVERY
            if n and self._is_shortened(n - 1):
                began, after_mark = moment, True
                if not is_far:
                    continue
            if not is_far:
                continue
            label = elapsed((moment - self.times[0]).total_seconds())
            if after_mark and moment != began:
                label = f"+{elapsed((moment - began).total_seconds())}"
            if label != said:
                yield Tick(x, label)
                last, said = x, label

    def shortened(self) -> Iterator[Shortened]:
        for n in range(len(self.times) - 1):
            if self._is_shortened(n):
                length: timedelta = self.times[n + 1] - self.times[n]
                x, end = self.places[n], self.places[n + 1]
                yield Shortened(x, end - x, elapsed(length.total_seconds()))

    def _is_shortened(self, n: int) -> bool:
        true = (self.times[n + 1] - self.times[n]).total_seconds() * self.px_per_second
        return true > SHORTENED * (self.places[n + 1] - self.places[n])


def _widths(lengths: Sequence[float], scale: float, widest: float) -> list[float]:
    return [min(max(length * scale, NARROWEST), widest) for length in lengths]


def _scale(lengths: Sequence[float]) -> float:
    """Px per second at which a longer stretch than most, that is no long wait, is of good width."""
    some = sorted(length for length in lengths if length > 0)
    if not some:
        return 1.0
    usual = [length for length in some if length <= 10 * some[(len(some) - 1) // 2]]
    return min(60.0, ROOM / len(lengths)) / max(usual[3 * (len(usual) - 1) // 4], 1e-6)
