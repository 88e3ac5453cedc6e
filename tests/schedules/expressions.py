"""Random cron lines of every kind that croniter takes, and the places at which clocks change: the same for a seed."""

from __future__ import annotations

from collections.abc import Callable
from random import Random

ZONES = (
    "America/New_York",
    "Europe/London",
    "Australia/Lord_Howe",
    "Africa/Casablanca",
    "Asia/Kolkata",
    "UTC",
    "America/Havana",
    "Europe/Berlin",
)
WEEKDAYS = ("sun", "MON", "tue", "Wed", "thu", "fri", "SAT")
MONTHS = ("jan", "FEB", "mar", "apr", "May", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MACROS = ("@daily", "@hourly", "@weekly", "@monthly", "@yearly", "@annually", "@midnight", "@Daily")


def line(random: Random) -> str:
    """One line. Most can be used; some croniter refuses, as those of people are."""
    if random.random() < 0.02:
        return random.choice(MACROS)
    hour = _few(random, 0, 23, star=0.3, near=(0, 3))
    fields = [_few(random, 0, 59, star=0.08), hour, _day(random), _month(random), _weekday(random)]
    if random.random() < 0.12:
        fields[0] = random.choice(("*", "*/5", "*/15", "0", "30"))
    shape = random.random()
    if shape < 0.18:
        fields.append(_second(random))
    elif shape < 0.3:
        fields += [_second(random), random.choice(("*", "2026-2030", "2027", "2026/2", "2027,2029", "2028-2026"))]
    return " ".join(fields)


def _few(random: Random, low: int, high: int, *, star: float, near: tuple[int, int] | None = None) -> str:
    """A field of numbers; `near`: more often those between, where clocks change."""

    def number() -> int:
        if near is not None and random.random() < 0.6:
            return random.randint(*near)
        return random.randint(low, high)

    kinds: list[Callable[[], str]] = [
        lambda: str(number()),
        lambda: str(number()),
        lambda: f"*/{random.randint(1, high)}",
        lambda: f"{number()}/{random.randint(1, 20)}",
        lambda: "{}-{}".format(*sorted((number(), random.randint(low, high)))),
        lambda: f"{number()}-{random.randint(low, high)}",
        lambda: f"{number()}-{random.randint(low, high)}/{random.randint(1, 9)}",
        lambda: ",".join(str(number()) for _ in range(random.randint(2, 4))),
        lambda: f"{number()},{number()}-{random.randint(low, high)}",
        lambda: random.choice(("H", f"H/{random.randint(2, 9)}", f"H({low}-{high // 2})")),
    ]
    return "*" if random.random() < star else random.choice(kinds)()


def _second(random: Random) -> str:
    return random.choice(("0", "0", "15", "*/30", "5,35", "59", "H", "10-12", "50-5/5"))


def _day(random: Random) -> str:
    if random.random() < 0.5:
        return "*"
    day = random.randint(1, 31)
    return random.choice(
        (
            "?",
            "L",
            f"{day},L",
            f"{day}W",
            f"W{random.randint(1, 31)}",
            f"{day}",
            f"{day}-{random.randint(1, 31)}",
            f"*/{random.randint(1, 15)}",
            f"{day}/{random.randint(1, 10)}",
            f"{day},{random.randint(1, 31)}",
            "25-L",
            "1-7",
        )
    )


def _month(random: Random) -> str:
    if random.random() < 0.6:
        return "*"
    one, other = random.choice(MONTHS), random.choice(MONTHS)
    return random.choice(
        (
            one,
            f"{one}-{other}",
            f"{one},{other}",
            f"*/{random.randint(1, 6)}",
            f"{one}-{other}/2",
            "3,10",
            "mar-nov",
            "4-1/3",
        )
    )


def _weekday(random: Random) -> str:
    if random.random() < 0.4:
        return "*"
    one, other, number = random.choice(WEEKDAYS), random.choice(WEEKDAYS), random.randint(0, 7)
    return random.choice(
        (
            "?",
            one,
            str(number),
            "0",
            "sun",
            f"{one}-{other}",
            f"{one},{other}",
            f"{number}-{random.randint(0, 7)}",
            f"*/{random.randint(1, 3)}",
            f"{number % 7}#{random.randint(1, 5)}",
            f"{one}#{random.randint(1, 5)}",
            f"{one}#1,{other}#3",
            "mon-wed#2",
            f"L{number % 7}",
            f"{number % 7}#2,L{number % 7}",
            "5-2/2",
        )
    )
