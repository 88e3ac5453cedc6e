"""The conversation of a thread, as a model is given it.

Messages are only ever added to a thread, and by one run at a time; so a worker keeps what it has
read and asks the ledger for what is new. A turn costs the same at the thousandth as at the tenth.
"""

from __future__ import annotations

import asyncio
from collections import OrderedDict

from activities.models.base import RequestedCall, TurnMessage
from horarium.ledger.database import Ledger
from horarium.ledger.threads import ThreadMessage, Threads
from horarium.turns import stored_turn

KEPT_THREADS = 200
KEPT_CHARS = 64_000_000  # over all threads


class _Kept:
    def __init__(self) -> None:
        self.lock = asyncio.Lock()
        self.last = -1
        self.chars = 0
        self.messages: list[TurnMessage] = []


class Conversations:
    """What this worker has read of threads; one object for each process."""

    def __init__(self, ledger: Ledger) -> None:
        self._threads = Threads(ledger)
        self._kept: OrderedDict[str, _Kept] = OrderedDict()

    async def of(self, thread: str) -> list[TurnMessage]:
        """All messages of a thread, oldest first; a list of the caller's own."""
        kept = self._kept.setdefault(thread, _Kept())
        self._kept.move_to_end(thread)
        async with kept.lock:
            for message in await self._threads.read(thread, after=kept.last):
                read = turn_message(message)
                kept.messages.append(read)
                kept.chars += len(read.text) + sum(len(call.arguments) for call in read.calls)
                kept.last = message.seq
            messages = list(kept.messages)
        self._evict()
        return messages

    def forget(self, thread: str) -> None:
        """Drop what is kept, as when the thread's run has ended."""
        self._kept.pop(thread, None)

    def _evict(self) -> None:
        chars = sum(kept.chars for kept in self._kept.values())
        while len(self._kept) > 1 and (len(self._kept) > KEPT_THREADS or chars > KEPT_CHARS):
            _, oldest = self._kept.popitem(last=False)
            chars -= oldest.chars


def turn_message(message: ThreadMessage) -> TurnMessage:
    """One stored message in the providers' words."""
    match message.role:
        case "assistant":
            turn = stored_turn(message.output or "{}")
            return TurnMessage(
                role="assistant",
                text=turn.text,
                calls=tuple(RequestedCall(call.id, call.name, call.arguments) for call in turn.calls),
                items=turn.items,
            )
        case "tool":
            text = (message.text if message.text is not None else message.output) or ""
            return TurnMessage(
                role="tool", text=f"{message.note}\n{text}" if message.note else text, call_id=message.call_id
            )
        case "system":
            return TurnMessage(role="system", text=message.text or "")
        case _:
            return TurnMessage(role="user", text=message.text or "")
