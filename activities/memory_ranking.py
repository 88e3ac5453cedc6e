"""Which memories fit a run's input by meaning: what `memory: {ranking: embedding}` is told, and in which order."""

from __future__ import annotations

from collections.abc import Sequence

from horarium.embeddings import Meanings
from horarium.memories import Known

CANDIDATES = 500  # of a kind: full-text hits, then the latest
FLOOR = 0.1  # of similarity; that of two texts on different things is mostly less
QUERY_CHARS = 4_000  # of the run's input; the mean of more words says less


def nearest(query: str, candidates: Sequence[Known], most: int) -> list[Known]:
    """The memories that are nearest to a text, the best first; those as near as each other stay in their order.

    What is below the floor is left out, unless all of it is.

    Raises:
        ConfigError: The extra `search` is not installed.
    """
    near = Meanings([_text(known) for known in candidates], "Memories").near(query[:QUERY_CHARS])
    order = sorted(range(len(candidates)), key=lambda number: (-near[number], number))
    fit = [number for number in order if near[number] >= FLOOR] or order
    return [candidates[number] for number in fit[:most]]


def _text(known: Known) -> str:
    # A summary's subject is the id of its run.
    return known.text if known.kind == "summary" or not known.subject else f"{known.subject}. {known.text}"
