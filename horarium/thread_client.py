"""The client's threads: look at conversations, add to them, fork and delete them; from the ledger."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import Literal

from horarium.errors import Conflict, HorariumError, NotFound
from horarium.ids import new_thread_id
from horarium.ledger.database import Ledger
from horarium.ledger.threads import ThreadMessage, ThreadRecord, Threads


class ThreadClient(ABC):
    """The part of `Client` that is about threads.

    `tenant`: whose a thread has to be, None for anybody's.
    """

    @abstractmethod
    def require_ledger(self) -> Ledger:
        """The ledger."""

    async def threads(
        self, *, tenant: str | None = None, before: str | None = None, limit: int = 50
    ) -> list[ThreadRecord]:
        """Threads that were not deleted, the newest first; at most 500.

        Args:
            before: The id of the last thread of the page before this one.

        Raises:
            ThreadNotFound: There is no thread `before`.
        """
        return await Threads(self.require_ledger()).list(tenant=tenant, before=before, limit=limit)

    async def thread_record(self, thread_id: str, *, tenant: str | None = None) -> ThreadRecord:
        """One thread: whose it is, how long, and which run has it open.

        Raises:
            ThreadNotFound: There is none.
        """
        return await Threads(self.require_ledger()).get(thread_id, tenant=tenant)

    async def thread(
        self, thread_id: str, *, after: int = -1, limit: int | None = None, tenant: str | None = None
    ) -> list[ThreadMessage]:
        """The messages of a thread, oldest first; none of one that was deleted.

        Args:
            after: The place (`seq`) of the last message of the page before this one.
            limit: How many; None for all.

        Raises:
            ThreadNotFound: `tenant` has no such thread.
        """
        threads = Threads(self.require_ledger())
        if tenant is not None:
            await threads.get(thread_id, tenant=tenant)
        return await threads.read(thread_id, after=after, limit=limit)

    async def append_message(
        self,
        thread_id: str,
        text: str,
        *,
        role: Literal["user", "system"] = "user",
        by: str | None = None,
        tenant: str | None = None,
    ) -> int:
        """Put a message at the end of a thread that no run has open; the next run reads it. Returns its place.

        A run in progress is sent messages with `Run.message`.

        Raises:
            ThreadNotFound: There is none.
            ThreadBusy: A run has it open.
            Conflict: The calls of its last turn have to be answered first: resume its run.
        """
        if not text.strip():
            raise HorariumError("There is nothing to append.", hint="Give the message a text.")
        return await Threads(self.require_ledger()).append(thread_id, text, role=role, author=by, tenant=tenant)

    async def fork_thread(self, thread_id: str, *, at: int | None = None, tenant: str | None = None) -> ThreadRecord:
        """Make a new thread of the messages up to a place; None: of all that is whole. Both then go their own ways.

        A place between a call and its answer is moved to the end of that turn: `forked_at` says where it is.

        Raises:
            ThreadNotFound: There is none.
            NotFound: No message has this place.
            Conflict: The turn there has calls that nobody has answered yet, or nothing was said so far.
        """
        return await Threads(self.require_ledger()).fork(thread_id, at=at, tenant=tenant)

    async def create_thread(self, *, tenant: str = "default") -> ThreadRecord:
        """Make a thread with nothing in it, for runs to go on with."""
        thread = new_thread_id()
        threads = Threads(self.require_ledger())
        await threads.create(thread, tenant)
        return await threads.get(thread, tenant=tenant)

    async def thread_after(self, run_id: str, thread_id: str, *, tenant: str | None = None) -> ThreadRecord:
        """The thread to go on with right after a run: its own, or a fork where others have gone on already.

        Raises:
            ThreadNotFound: There is none.
            NotFound: Nothing of the run is in it.
            Conflict: The run has not ended, or left calls without an answer.
        """
        threads = Threads(self.require_ledger())
        record = await threads.get(thread_id, tenant=tenant)
        if record.open_run == run_id:
            raise Conflict(f"Run {run_id} has not ended.", hint="Wait for it, or send it a message.")
        own, last = await threads.last_places(thread_id, run_id)
        if own is None:
            raise NotFound(f"Nothing of run {run_id} is in its thread.")
        if own == last and record.open_run is None:
            return record
        return await threads.fork(thread_id, at=own, tenant=tenant)

    async def delete_thread(self, thread_id: str, *, by: str | None = None, tenant: str | None = None) -> None:
        """Remove all that was said in a thread; the evidence that steps were done stays, without content.

        What a fork shows as well stays until that is deleted too.

        Raises:
            ThreadNotFound: There is none.
            Conflict: A run has it open.
        """
        await Threads(self.require_ledger()).delete(thread_id, by=by, tenant=tenant)
