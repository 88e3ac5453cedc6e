"""Which tools fit some words best: by the words they share (BM25), or by meaning (a small model of word vectors).

BM25 is SQLite's own, which Python brings along: the libraries for it want numpy, 70 MB beside a table of some hundred
rows. Meaning is `horarium.embeddings`.
"""

from __future__ import annotations

import asyncio
import re
import sqlite3
from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Literal, Protocol

from horarium.embeddings import Meanings
from horarium.tools import ToolSpec

Kind = Literal["lexical", "embedding"]

MOST_TERMS = 64  # of a query; more words say no more
DESCRIPTION_CHARS = 2_000  # of one tool, as it is ranked by
KEPT_SETS = 32  # of tools, with their index
WEIGHTS = "3.0, 1.0, 0.5"  # a word of the name, of the description, of a parameter
_WORD = re.compile(r"[^\W_]+")
_CAMEL = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
# They are in half of all requests and tell tools apart only by chance.
_SMALL = (
    "a an and are as at be been but by can could did do does for from get had has have he her him his how i if in into "
    "is it its let me my need no not of on or our please she should so some than that the their them then there these "
    "they this to us want was we were what when where which who will with would you your"
)
_EMPTY = frozenset(_SMALL.split())


class Ranking(Protocol):
    """An index over a set of tools."""

    def best(self, query: str, most: int) -> list[str]:
        """The names of the tools that fit, the best first. The same query gives the same answer."""
        ...


class Lexical:
    """By shared words, whole or with other endings; a tool that shares none does not fit."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._names = [spec.name for spec in specs]
        # Built on one thread and asked on another, one at a time.
        self._index = sqlite3.connect(":memory:", check_same_thread=False)
        self._index.execute(
            "CREATE VIRTUAL TABLE tools USING fts5(name, description, parameters, "
            'tokenize = "porter unicode61 remove_diacritics 2")'
        )
        rows = ((number, *_texts(spec)) for number, spec in enumerate(specs))
        self._index.executemany("INSERT INTO tools (rowid, name, description, parameters) VALUES (?, ?, ?, ?)", rows)

    def best(self, query: str, most: int) -> list[str]:
        """As `Ranking` says."""
        terms = _terms(query)
        if not terms:
            return []
        asked = " OR ".join(f'"{term}"' for term in terms)
        found = self._index.execute(
            f"SELECT rowid FROM tools WHERE tools MATCH ? ORDER BY bm25(tools, {WEIGHTS}), rowid LIMIT ?",  # noqa: S608
            (asked, most),
        )
        return [self._names[number] for (number,) in found]


class Embedding:
    """By meaning: as near as the mean of its words' vectors is to that of the query's."""

    def __init__(self, specs: Sequence[ToolSpec]) -> None:
        self._names = [spec.name for spec in specs]
        self._meanings = Meanings([". ".join(_texts(spec)[:2]) for spec in specs], "Tools")

    def best(self, query: str, most: int) -> list[str]:
        """As `Ranking` says; a query with words has as many as there are."""
        if not _WORD.search(query):
            return []
        near = self._meanings.near(query)
        order = sorted(range(len(self._names)), key=lambda number: (-near[number], number))
        return [self._names[number] for number in order[:most]]


_MAKERS: dict[Kind, Callable[[Sequence[ToolSpec]], Ranking]] = {"lexical": Lexical, "embedding": Embedding}


class Rankings:
    """The indexes of the sets of tools that were asked for last; one object for each process."""

    def __init__(self) -> None:
        self._kept: OrderedDict[object, Ranking] = OrderedDict()

    async def of(self, kind: Kind, specs: Sequence[ToolSpec]) -> Ranking:
        """The index of a set, made at its first use.

        Raises:
            ConfigError: The extra `search` is not installed.
        """
        key = (kind, tuple((spec.name, spec.description, *_parameters(spec)) for spec in specs))
        if key not in self._kept:
            self._kept[key] = await asyncio.to_thread(_MAKERS[kind], specs)
            while len(self._kept) > KEPT_SETS:
                self._kept.popitem(last=False)
        self._kept.move_to_end(key)
        return self._kept[key]


def words_of(name: str) -> str:
    """A tool's name as words: `crm__closeTicket_v2` is `crm close Ticket v2`."""
    return " ".join(part for word in _WORD.findall(name) for part in _CAMEL.split(word))


def _texts(spec: ToolSpec) -> tuple[str, str, str]:
    parameters = " ".join(words_of(name) for name in _parameters(spec))
    return words_of(spec.name), spec.description[:DESCRIPTION_CHARS], parameters


def _parameters(spec: ToolSpec) -> list[str]:
    properties = spec.parameters.get("properties")
    return list(properties) if isinstance(properties, dict) else []


def _terms(query: str) -> list[str]:
    found = (word.lower() for word in words_of(query).split())
    return list(dict.fromkeys(word for word in found if word not in _EMPTY))[:MOST_TERMS]
