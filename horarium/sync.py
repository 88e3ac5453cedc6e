"""The client for code without an event loop: every call is handed to a loop in a thread of its own.

Nothing is written twice: `SyncClient` passes each method on, turns what is awaited into a plain
return, and async iterators into plain ones.
"""

from __future__ import annotations

import asyncio
import functools
import inspect
import threading
from collections.abc import AsyncIterator, Coroutine, Iterator
from typing import Any, Self

from horarium.client import Client, Run


class _Loop:
    def __init__(self) -> None:
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="horarium-client", daemon=True)
        self._thread.start()

    def wait(self, coroutine: Coroutine[Any, Any, Any]) -> Any:
        return asyncio.run_coroutine_threadsafe(coroutine, self._loop).result()

    def stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join(timeout=5)
        self._loop.close()


class _Sync:
    """Wraps an object with async methods."""

    def __init__(self, wrapped: Any, loop: _Loop) -> None:
        self._wrapped = wrapped
        self._loop = loop

    def __getattr__(self, name: str) -> Any:
        value = getattr(self._wrapped, name)
        if not callable(value):
            return value

        @functools.wraps(value)
        def call(*args: Any, **kwargs: Any) -> Any:
            return self._plain(value(*args, **kwargs))

        return call

    def _plain(self, result: Any) -> Any:
        if inspect.isasyncgen(result):
            return self._iterate(result)
        if inspect.iscoroutine(result):
            result = self._loop.wait(result)
        return _Sync(result, self._loop) if isinstance(result, Run) else result

    def _iterate(self, items: AsyncIterator[Any]) -> Iterator[Any]:
        async def following() -> Any:
            return await anext(items, _END)

        while (item := self._loop.wait(following())) is not _END:
            yield item


_END = object()


class SyncClient(_Sync):
    """`Client`, method by method, for code that does not await. Use it as a context manager."""

    @classmethod
    def connect(cls, *args: Any, **kwargs: Any) -> Self:
        """As `Client.connect`."""
        loop = _Loop()
        try:
            return cls(loop.wait(Client.connect(*args, **kwargs)), loop)
        except BaseException:
            loop.stop()
            raise

    def close(self) -> None:
        """Close the client and its loop."""
        self._loop.wait(self._wrapped.close())
        self._loop.stop()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
