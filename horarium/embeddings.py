"""How near texts are in meaning, by the word vectors of a small model of English, from the extra `search`.

The model is that of `wordllama`, whose wheel has the weights in it; it is loaded from there and never fetched.
"""

from __future__ import annotations

import importlib.util
import re
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from horarium.errors import ConfigError

MISSING = "the model for it is not installed"
INSTALL = "pip install 'horarium[search]'"
_WORD = re.compile(r"[^\W_]+")


class Meanings:
    """The meanings of some texts, each the mean of its words' vectors."""

    def __init__(self, texts: Sequence[str], what: str) -> None:
        """Take in the texts.

        Args:
            what: What is ranked by them, for whoever reads the error: `Tools`.

        Raises:
            ConfigError: The extra `search` is not installed.
        """
        try:
            self._model = _model()
        except ImportError as error:
            raise _missing(what) from error
        self._there = [_WORD.search(text) is not None for text in texts]
        # A text without a token has no direction: it is left out below, and the model is given something instead.
        told = [text if there else "." for text, there in zip(texts, self._there, strict=True)]
        self._vectors = self._model.embed(told, norm=True) if told else None

    def near(self, query: str) -> list[float]:
        """How near a query is to each text: 1 is the same, 0 has nothing to do with it or has no words.

        Rounded, so that what was computed in another order or on another machine is the same.
        """
        if self._vectors is None or not _WORD.search(query):
            return [0.0] * len(self._there)
        near = self._vectors @ self._model.embed([query], norm=True)[0]
        return [round(float(one), 6) if there else 0.0 for one, there in zip(near, self._there, strict=True)]


def installed() -> bool:
    """Whether the extra `search` is there."""
    return importlib.util.find_spec("wordllama") is not None


def require(what: str) -> None:
    """Refuse what could not be ranked later.

    Raises:
        ConfigError: The extra `search` is not installed.
    """
    if not installed():
        raise _missing(what)


def _missing(what: str) -> ConfigError:
    return ConfigError(
        f"{what} are to be ranked by `embedding`, and {MISSING}.",
        hint=f"Install it: {INSTALL}, or set `ranking: lexical`.",
    )


@cache
def _model() -> Any:
    import wordllama

    # Beside the code is where its wheel has weights and tokenizer; anything that is not there is an error.
    return wordllama.WordLlama.load(cache_dir=Path(wordllama.__file__).parent, disable_download=True)
