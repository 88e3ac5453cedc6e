"""Summaries of the older part of a thread: what a model is given instead of it. The full text stays where it is."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime

from sqlalchemy import bindparam, func, literal_column, select
from sqlalchemy.dialects import postgresql, sqlite

from horarium.ledger.database import Ledger, Prepared
from horarium.ledger.schema import messages, summaries, threads

SUMMARY_STEP = "summary"  # name of the step, of kind `model_call`, that makes one


@dataclass(frozen=True, slots=True)
class Summary:
    """The latest summary of a thread. It stands for the messages up to and with place `upto`."""

    upto: int
    text: str
    run_id: str
    step: int
    created_at: datetime


@dataclass(frozen=True, slots=True)
class StoodFor:
    """What has to be known of the messages that a summary stands for: the last request, and the number of turns."""

    request: str | None
    turns: int


_LATEST = Prepared(
    select(summaries.c.upto, summaries.c.text, summaries.c.run_id, summaries.c.step, summaries.c.created_at)
    .where(summaries.c.thread_id == bindparam("of_thread"))
    .order_by(summaries.c.upto.desc())
    .limit(literal_column("1"))
    .offset(literal_column("0"))  # SQLAlchemy would bind one for SQLite
)


class Summaries:
    """The summaries of a ledger."""

    def __init__(self, ledger: Ledger) -> None:
        self._ledger = ledger
        self._insert = (postgresql if not ledger.is_sqlite else sqlite).insert

    async def latest(self, thread: str) -> Summary | None:
        """The one that stands for most of a thread."""
        async with self._ledger.read() as connection:
            rows = await connection.run(_LATEST, of_thread=thread)
        return Summary(*rows[0]) if rows else None

    async def keep(self, thread: str, upto: int, text: str, run_id: str, step: int) -> None:
        """Keep what a settled step says; the same twice is one. Nothing is kept for a thread that was deleted."""
        async with self._ledger.write() as connection:
            here = select(threads.c.deleted_at).where(threads.c.id == thread).with_for_update()
            row = (await connection.execute(here)).first()
            if row is None or row.deleted_at is not None:
                return
            await connection.execute(
                self._insert(summaries)
                .values(thread_id=thread, upto=upto, text=text, run_id=run_id, step=step, created_at=datetime.now(UTC))
                .on_conflict_do_nothing()
            )

    async def stood_for(self, thread: str, upto: int) -> StoodFor:
        """What a person asked last up to that place, and how many turns of the model there are."""
        older = (messages.c.thread_id == thread, messages.c.seq <= upto)
        # What people say has a `ref`; the engine's own notes have none.
        asked = select(messages.c.text).where(*older, messages.c.role == "user", messages.c.ref.is_not(None))
        turns = select(func.count()).where(*older, messages.c.role == "assistant")
        async with self._ledger.read() as connection:
            request = await connection.scalar(asked.order_by(messages.c.seq.desc()).limit(1))
            return StoodFor(request, int(await connection.scalar(turns) or 0))
