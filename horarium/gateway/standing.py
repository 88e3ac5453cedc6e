"""Whether whoever has streams open may still see them: one look per API key, however many streams it has."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Protocol

from sqlalchemy.exc import DBAPIError

from horarium.apikeys import KEY_PREFIX
from horarium.ledger.api_keys import ApiKeys

LOOK_EVERY = 2.0  # seconds; whoever takes a key away is told that it opens nothing after five


class Onlooker(Protocol):
    """Who watches: a caller. `key`: of an API key, or of somebody else who showed who he is; `until`: of his token."""

    @property
    def key(self) -> str | None: ...
    @property
    def tenant(self) -> str: ...
    @property
    def until(self) -> datetime | None: ...


class Standing:
    """Those of one process who have something open."""

    def __init__(self, keys: ApiKeys) -> None:
        self._keys = keys
        self._of: dict[str, set[Callable[[], None]]] = {}
        self._looks: dict[str, asyncio.Task[None]] = {}

    @contextmanager
    def of(self, who: Onlooker, over: Callable[[], None]) -> Iterator[None]:
        """Call `over` when his key or token counts no more while the block runs."""
        with contextlib.ExitStack() as stack:
            if who.until is not None:
                left = (who.until - datetime.now(UTC)).total_seconds()
                stack.callback(asyncio.get_running_loop().call_later(left, over).cancel)
            if who.key is not None and who.key.startswith(KEY_PREFIX):
                stack.enter_context(self._key(who.key, over))
            yield

    @contextmanager
    def _key(self, key: str, over: Callable[[], None]) -> Iterator[None]:
        told = self._of.setdefault(key, set())
        told.add(over)
        if key not in self._looks:
            self._looks[key] = asyncio.create_task(self._look(key))
        try:
            yield
        finally:
            told.discard(over)
            if not told:
                del self._of[key]
                self._looks.pop(key).cancel()

    async def _look(self, key: str) -> None:
        while True:
            await asyncio.sleep(LOOK_EVERY)
            with contextlib.suppress(DBAPIError, OSError):  # while the ledger is away, a stream has nothing to tell
                if await self._keys.counts(key) is None:
                    for over in tuple(self._of[key]):
                        over()
