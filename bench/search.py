"""`python -m bench search`: is the tool that somebody needs among the few that a turn would show?

Tools and requests are in search_tools.yaml, of two sorts: what people say, which rarely has a word of the tool's
description, and what models look for with `find_tools`. Each request has one right tool, although some have near-
duplicates that a person might take as well; so the figures are rather too low than too high.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import median, quantiles

import yaml
from rich.console import Console
from rich.table import Table

from activities.tool_ranking import Embedding, Lexical, Ranking
from horarium.errors import ConfigError
from horarium.tools import Effect, ToolSpec

TOOLS = Path(__file__).with_name("search_tools.yaml")
Maker = Callable[[Sequence[ToolSpec]], Ranking]
MAKERS: dict[str, Maker] = {"lexical": Lexical, "embedding": Embedding}
MOST = 10


@dataclass(frozen=True, slots=True)
class Asked:
    """A request, and the tool that it needs."""

    query: str
    tool: str


@dataclass(frozen=True, slots=True)
class Measured:
    """How one ranking did with requests of one sort."""

    ranking: str
    places: tuple[int | None, ...]  # of the right tool for each request, from 0; None: not among the first ten
    index_seconds: float
    query_seconds: tuple[float, ...]

    def recall(self, most: int) -> float:
        """For which part of the requests the right tool is among so many."""
        return sum(place is not None and place < most for place in self.places) / len(self.places)


def main(arguments: list[str] | None = None) -> int:
    """Exit code 0 when it ran, whatever the figures."""
    parser = argparse.ArgumentParser(prog="python -m bench search", description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--misses", action="store_true", help="Show requests whose tool was not among the first five.")
    chosen = parser.parse_args(arguments)
    console = Console()
    specs, sorts = load()
    table = Table("ranking", "asks", "@1", "@5", "@10", "index ms", "query ms", "p95 ms", title="recall")
    for (name, maker), (sort, asked) in product(MAKERS.items(), sorts.items()):
        try:
            measured = measure(name, maker, specs, asked)
        except ConfigError as error:
            console.print(f"{name}: {error.message} {error.hint or ''}", highlight=False)
            continue
        recalls = (f"{measured.recall(most):.1%}" for most in (1, 5, MOST))
        times = (median(measured.query_seconds), quantiles(measured.query_seconds, n=20)[-1])
        table.add_row(name, sort, *recalls, *(f"{seconds * 1000:.2f}" for seconds in (measured.index_seconds, *times)))
        if chosen.misses:
            missed = [ask for ask, place in zip(asked, measured.places, strict=True) if place is None or place >= 5]
            for ask in missed:
                console.print(f"{name} misses {ask.tool}: {ask.query}", markup=False, highlight=False)
    console.print(f"{len(specs)} tools, {len(specs)} requests of each sort", highlight=False)
    console.print(table)
    return 0


def load() -> tuple[list[ToolSpec], dict[str, list[Asked]]]:
    """The tools and the requests of the data set, by who asks."""
    rows = [row for kind in yaml.safe_load(TOOLS.read_text()).values() for row in kind]
    schema = {"type": "object", "properties": {}}
    specs = [ToolSpec(name=name, description=says, parameters=schema, effect=Effect.READ) for name, says, *_ in rows]
    said = {"person": [Asked(row[2], row[0]) for row in rows], "model": [Asked(row[3], row[0]) for row in rows]}
    return specs, said


def measure(name: str, maker: Maker, specs: Sequence[ToolSpec], asked: Sequence[Asked]) -> Measured:
    """Ask one ranking everything.

    Raises:
        ConfigError: The extra that it needs is not installed.
    """
    maker(specs[:1]).best("load what is loaded at first use", 1)
    began = time.perf_counter()
    index = maker(specs)
    index_seconds = time.perf_counter() - began
    places: list[int | None] = []
    taken: list[float] = []
    for ask in asked:
        began = time.perf_counter()
        found = index.best(ask.query, MOST)
        taken.append(time.perf_counter() - began)
        places.append(found.index(ask.tool) if ask.tool in found else None)
    return Measured(name, tuple(places), index_seconds, tuple(taken))
