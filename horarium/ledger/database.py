"""The ledger's connections, and its migrations at start.

On SQLite there is one writer at a time whoever asks, so writers of one process queue here, in
order, instead of polling the file's lock. A transaction that must survive a power cut (the claim of an
external effect) says `durable`; the others survive the death of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any, Self

from alembic import command
from alembic.config import Config
from alembic.runtime.migration import MigrationContext
from alembic.script import ScriptDirectory
from sqlalchemy import Connection, event, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, OperationalError, SQLAlchemyError
from sqlalchemy.ext.asyncio import AsyncConnection, AsyncEngine, create_async_engine

from horarium.errors import ConfigError, Unreachable
from horarium.ledger.blobs import Blobs
from horarium.settings import Settings

_MIGRATION_LOCK = 7_206_017  # any number, the same in every process of ours


class Ledger:
    """One database and one blob store; one object for each process, open as long as it lives."""

    def __init__(self, engine: AsyncEngine, blobs: Blobs) -> None:
        self.engine = engine
        self.blobs = blobs
        self.is_sqlite = engine.dialect.name == "sqlite"
        self._writers = asyncio.Lock()

    @classmethod
    async def open(cls, settings: Settings) -> Self:
        """Connect, and bring the tables up to date; safe to do from many processes at once.

        Raises:
            ConfigError: The URL is wrong, or its driver is not installed.
            Unreachable: The database does not answer, or cannot be written.
        """
        url = settings.ledger_url
        safe_url = make_url(url).render_as_string(hide_password=True)
        try:
            engine = _sqlite(url) if url.startswith("sqlite") else _postgres(url)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"The driver for {safe_url} is not installed.",
                hint="Install it: pip install 'horarium[postgres]'",
            ) from error
        ledger = cls(engine, Blobs(settings.blobs_url))
        try:
            await ledger._migrate(Path(make_url(url).database or "ledger"))
        except (OSError, SQLAlchemyError) as error:
            await engine.dispose()
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise Unreachable(
                f"The ledger at {safe_url} cannot be used: {reason}.",
                hint="Check that it is running, that its disk has room, and [ledger] in horarium.toml.",
            ) from error
        return ledger

    async def close(self) -> None:
        """Close every connection."""
        await self.engine.dispose()

    @contextlib.asynccontextmanager
    async def write(self, *, durable: bool = False) -> AsyncIterator[AsyncConnection]:
        """A transaction that writes: committed at the end, rolled back on an exception."""
        if not self.is_sqlite:
            async with self.engine.begin() as connection:
                yield connection
            return
        async with self._writers, self.engine.connect() as connection:
            if durable:
                await connection.exec_driver_sql("PRAGMA synchronous=FULL")
            await connection.exec_driver_sql("BEGIN IMMEDIATE")
            try:
                yield connection
                await connection.exec_driver_sql("COMMIT")
            except BaseException:
                with contextlib.suppress(DBAPIError):
                    await connection.exec_driver_sql("ROLLBACK")
                raise
            finally:
                if durable:
                    with contextlib.suppress(DBAPIError):
                        await connection.exec_driver_sql("PRAGMA synchronous=NORMAL")

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[AsyncConnection]:
        """A connection to look with; what is seen is consistent within one statement."""
        async with self.engine.connect() as connection:
            yield connection

    async def _migrate(self, path: Path) -> None:
        if self.is_sqlite:
            path.parent.mkdir(parents=True, exist_ok=True)
            with path.with_suffix(".lock").open("w") as lock:
                await asyncio.to_thread(fcntl.flock, lock, fcntl.LOCK_EX)
                async with self.engine.connect() as connection:
                    await connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                    await connection.run_sync(_upgrade)
                    await connection.commit()
            return
        async with self.engine.begin() as connection:
            await connection.execute(text("SELECT pg_advisory_xact_lock(:lock)"), {"lock": _MIGRATION_LOCK})
            await connection.run_sync(_upgrade)


def is_unreachable(error: BaseException) -> bool:
    """Whether an exception means that the database is away, locked or full, and may come back."""
    return isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _sqlite(url: str) -> AsyncEngine:
    engine = create_async_engine(
        url, pool_size=8, max_overflow=24, connect_args={"timeout": 15, "isolation_level": None}
    )

    @event.listens_for(engine.sync_engine, "connect")
    def _prepare(connection: Any, _record: Any) -> None:
        cursor = connection.cursor()
        for pragma in ("synchronous=NORMAL", "foreign_keys=ON", "journal_size_limit=67108864"):
            cursor.execute(f"PRAGMA {pragma}")
        cursor.close()

    return engine


def _postgres(url: str) -> AsyncEngine:
    return create_async_engine(url, pool_size=8, max_overflow=24, pool_pre_ping=False, pool_recycle=1800)


def _upgrade(connection: Connection) -> None:
    config = Config()
    config.set_main_option("script_location", str(Path(__file__).parent / "migrations"))
    config.attributes["connection"] = connection
    head = ScriptDirectory.from_config(config).get_current_head()
    if MigrationContext.configure(connection).get_current_revision() != head:
        command.upgrade(config, "head")
