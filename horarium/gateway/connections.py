"""Connections of the gateway: whoever opens one and then says nothing, or says it a byte at a time, loses it.

The server takes so many at once and no more, and has no such limit of its own: without one, as many sockets as anybody
has to spare would keep everybody else out.
"""

from __future__ import annotations

import asyncio

from uvicorn.protocols.http.h11_impl import H11Protocol

HEAD_WITHIN = 15.0  # seconds, for the whole head of a request: from the connection, or from the last answer, on


class Connection(H11Protocol):
    """One of HTTP/1.1."""

    _waiting: asyncio.TimerHandle | None = None

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Wait for its first request."""
        super().connection_made(transport)
        self._wait()

    def on_response_complete(self) -> None:
        """Wait for its next request."""
        self._wait()  # first: one that has come already is begun below
        super().on_response_complete()

    def connection_lost(self, exc: Exception | None) -> None:
        """Wait no more."""
        if self._waiting is not None:
            self._waiting.cancel()
        super().connection_lost(exc)

    def _wait(self) -> None:
        if self._waiting is not None:
            self._waiting.cancel()
        self._waiting = self.loop.call_later(HEAD_WITHIN, self._too_late)

    def _too_late(self) -> None:
        # While a request is at work there is nothing to wait for: it is waited for again after its answer.
        if self.cycle is None or self.cycle.response_complete:
            self.transport.close()
