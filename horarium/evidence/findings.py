"""What a verification found: good, wrong, or not to be told from the file."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from typing import Any

from horarium.secrets import HIDDEN


class Findings:
    """Collected while verifying; what is good is counted."""

    def __init__(self) -> None:
        self.good: Counter[str] = Counter()
        self.unchecked: list[str] = []
        self.wrong: list[str] = []

    def verified(self) -> list[str]:
        """What was found good, with how often."""
        return [f"{what} ({count:,})" for what, count in self.good.items()]

    def say(self, good: bool, what: str, wrong: str, *, texts: Iterable[Any] = ()) -> None:
        """Count what is good; what is not is wrong, unless a secret was taken out of what it was made of."""
        if good:
            self.good[what] += 1
        elif any(HIDDEN in str(text) for text in texts):
            self.unchecked.append(f"{wrong} But a secret was taken out of it, so nobody can tell.")
        else:
            self.wrong.append(wrong)
