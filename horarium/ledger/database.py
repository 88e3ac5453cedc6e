"""The ledger's connections, and its migrations at start.

Repositories are written once, for both databases. A transaction that must survive a power cut (the claim of an
external effect) says `durable`; on SQLite the others survive the death of the process.
"""

from __future__ import annotations

import asyncio
import contextlib
import fcntl
import sqlite3
import time
from collections.abc import AsyncIterator, Coroutine
from contextlib import AbstractAsyncContextManager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, Self

from sqlalchemy import Connection, Dialect, Executable, create_engine, event, inspect, text
from sqlalchemy.engine import make_url
from sqlalchemy.exc import DBAPIError, IntegrityError, OperationalError, SQLAlchemyError

from horarium.errors import ConfigError, Unreachable
from horarium.ledger.blobs import Blobs
from horarium.settings import Settings

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncConnection

LOCK_PATIENCE = 15.0  # seconds, for another process that writes
KEPT_STATEMENTS = 512  # compiled, on each connection
CHECKPOINT_EVERY = 500  # commits of this process
MOST_PAGES = 8_000  # of 4 KiB in the log, before a commit waits until they are in the file
_MIGRATION_LOCK = 7_206_017  # any number, the same in every process of ours
_LOCK = text("SELECT pg_advisory_xact_lock(:lock)")


class Prepared:
    """A statement that runs many times: compiled once, then handed to SQLite's driver as it is.

    Building and looking up a statement costs SQLAlchemy several times what SQLite needs to run it; only the journal,
    the reading of threads and what every call asks are hot enough to care.
    """

    def __init__(self, statement: Any) -> None:
        self.statement = statement
        self._plan: tuple[str, list[tuple[str, Any]], list[Any]] | None = None

    def sqlite(self, dialect: Dialect) -> tuple[str, list[tuple[str, Any]], list[Any]]:
        """SQL text, parameters in order with their processors, processors of the columns that come back."""
        if self._plan is None:
            compiled = self.statement.compile(dialect=dialect)
            names = compiled.positiontup or []
            binds = [(name, compiled.binds[name].type.bind_processor(dialect)) for name in names]
            columns = [column.type.result_processor(dialect, None) for column in self.statement.exported_columns]
            self._plan = (str(compiled), binds, columns)
        return self._plan


class Statements(Protocol):
    """What a repository does with a connection, whichever database it is."""

    async def run(self, prepared: Prepared, **values: Any) -> list[tuple[Any, ...]]:
        """Run a prepared statement; its rows, read whole."""
        ...

    async def execute(self, statement: Executable, parameters: Any = None) -> Any:
        """Run a statement; its rows are to be read at once."""
        ...

    async def scalar(self, statement: Executable) -> Any:
        """The first column of the first row, or None."""
        ...

    async def scalars(self, statement: Executable) -> Any:
        """The first column of each row."""
        ...

    async def lock(self, number: int) -> None:
        """Within a transaction that writes: wait for whoever holds the lock of this number, and hold it to the end."""
        ...


class Ledger:
    """One database and one blob store; one object for each process, open as long as it lives."""

    def __init__(self, backend: _Sqlite | _Postgres, blobs: Blobs) -> None:
        self.blobs = blobs
        self.is_sqlite = isinstance(backend, _Sqlite)
        self._backend = backend

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
            backend = _Sqlite(url) if url.startswith("sqlite") else _Postgres(url)
        except ModuleNotFoundError as error:
            raise ConfigError(
                f"The driver for {safe_url} is not installed.", hint="Install it: pip install 'horarium[postgres]'"
            ) from error
        try:
            await backend.migrate()
        except (OSError, SQLAlchemyError) as error:
            await backend.close()
            reason = str(getattr(error, "orig", None) or error).splitlines()[0]
            raise Unreachable(
                f"The ledger at {safe_url} cannot be used: {reason}.",
                hint="Check that it is running, that its disk has room, and [ledger] in horarium.toml.",
            ) from error
        return cls(backend, Blobs(settings.blobs_url))

    async def close(self) -> None:
        """Close every connection."""
        await self._backend.close()

    def write(self, *, durable: bool = False) -> AbstractAsyncContextManager[Statements]:
        """A transaction that writes: committed at the end, rolled back on an exception.

        `durable`: it must survive a power cut, and not only the death of the process.
        """
        return self._backend.write(durable)

    def read(self) -> AbstractAsyncContextManager[Statements]:
        """A connection to look with; what is seen is consistent within one statement."""
        return self._backend.read()


class _OnThisThread:
    """SQLite's statements, run where they are asked for.

    One takes tens of microseconds; handing it to a thread and back takes ten times that. What can take long, waiting
    for another process's lock or for the disk to have it for good, is waited for elsewhere.
    """

    def __init__(self, connection: Connection) -> None:
        self.connection = connection
        self._raw: Any = connection.connection.dbapi_connection
        self._dialect = connection.dialect

    async def run(self, prepared: Prepared, **values: Any) -> list[tuple[Any, ...]]:
        sql, binds, columns = prepared.sqlite(self._dialect)
        given = [values[name] if process is None else process(values[name]) for name, process in binds]
        try:
            rows = self._raw.execute(sql, given).fetchall()
        except sqlite3.OperationalError as error:
            raise OperationalError(sql, None, error) from error
        except sqlite3.IntegrityError as error:
            raise IntegrityError(sql, None, error) from error
        if not any(columns):
            return rows  # type: ignore[no-any-return]
        return [
            tuple(value if process is None else process(value) for value, process in zip(row, columns, strict=True))
            for row in rows
        ]

    async def execute(self, statement: Executable, parameters: Any = None) -> Any:
        return self.connection.execute(statement, parameters)

    async def scalar(self, statement: Executable) -> Any:
        return self.connection.scalar(statement)

    async def scalars(self, statement: Executable) -> Any:
        return self.connection.scalars(statement)

    async def lock(self, number: int) -> None:
        """Nothing to do: a transaction that writes is the only one."""

    def control(self, sql: str) -> None:
        """BEGIN, COMMIT and their like."""
        try:
            self._raw.execute(sql)
        except sqlite3.OperationalError as error:
            raise OperationalError(sql, None, error) from error

    def done(self) -> None:
        """Let SQLAlchemy forget the transaction that it believes it is in."""
        if self.connection.in_transaction():
            self.connection.rollback()


class _Sqlite:
    def __init__(self, url: str) -> None:
        self._path = Path(make_url(url).database or "ledger.db")
        self._engine = create_engine(
            f"sqlite:///{self._path}",
            connect_args={
                "timeout": 0.02,
                "isolation_level": None,
                "check_same_thread": False,
                "cached_statements": KEPT_STATEMENTS,
            },
        )
        # One writer at a time whoever asks: those of this process queue here instead of polling the file's lock.
        self._writers = asyncio.Lock()
        self._open: dict[str, _OnThisThread] = {}
        self._commits = 0
        self._checkpoint: asyncio.Future[None] | None = None
        event.listen(self._engine, "connect", self._prepare)

    @staticmethod
    def _prepare(connection: Any, _record: Any) -> None:
        pragmas = ("synchronous=NORMAL", "foreign_keys=ON", "journal_size_limit=67108864")
        for pragma in (*pragmas, f"wal_autocheckpoint={MOST_PAGES}"):
            connection.execute(f"PRAGMA {pragma}")

    def _statements(self, purpose: str) -> _OnThisThread:
        if purpose not in self._open:
            self._open[purpose] = _OnThisThread(self._engine.connect())
        return self._open[purpose]

    def write(self, durable: bool) -> AbstractAsyncContextManager[Statements]:
        return _Writing(self, durable)

    async def begin(self, durable: bool) -> _OnThisThread:
        """Begin a transaction that writes, as soon as nobody else has one."""
        await self._writers.acquire()
        try:
            statements = self._statements("durable" if durable else "write")
            if durable:
                statements.control("PRAGMA synchronous=FULL")
            deadline = time.monotonic() + LOCK_PATIENCE
            while True:
                try:
                    statements.control("BEGIN IMMEDIATE")
                    return statements
                except OperationalError as error:
                    if "locked" not in str(error) or time.monotonic() > deadline:
                        raise
                    await asyncio.sleep(0.002)
        except BaseException:
            self._writers.release()
            raise

    async def end(self, statements: _OnThisThread, durable: bool, *, commit: bool) -> None:
        """End it; what cannot be committed is rolled back."""
        try:
            if commit and durable:
                await _whatever_comes(asyncio.to_thread(statements.control, "COMMIT"))
            elif commit:
                statements.control("COMMIT")
        except BaseException:
            commit = False
            raise
        finally:
            if not commit:
                with contextlib.suppress(DBAPIError):
                    statements.control("ROLLBACK")
            statements.done()
            self._writers.release()
        self._commits += 1
        if self._commits % CHECKPOINT_EVERY == 0:
            self._begin_checkpoint()

    def _begin_checkpoint(self) -> None:
        """Bring what was committed into the file itself, on a thread: the disk is waited for, and nobody else is."""
        if self._checkpoint is None or self._checkpoint.done():
            self._checkpoint = asyncio.get_running_loop().run_in_executor(None, self._bring_in)

    def _bring_in(self) -> None:
        existing = f"{self._path.absolute().as_uri()}?mode=rw"
        with contextlib.suppress(sqlite3.Error), contextlib.closing(sqlite3.connect(existing, uri=True)) as connection:
            connection.execute("PRAGMA wal_checkpoint(PASSIVE)")

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Statements]:
        statements = self._statements("read")
        try:
            yield statements
        finally:
            statements.done()

    async def migrate(self) -> None:
        self._path.parent.mkdir(parents=True, exist_ok=True)
        await asyncio.to_thread(self._migrate)

    def _migrate(self) -> None:
        with self._path.with_suffix(".lock").open("w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with self._engine.connect() as connection:
                connection.exec_driver_sql(f"PRAGMA busy_timeout={int(LOCK_PATIENCE * 1000)}")
                connection.exec_driver_sql("PRAGMA journal_mode=WAL")
                _upgrade(connection)
                connection.commit()
                connection.invalidate()

    async def close(self) -> None:
        if self._checkpoint is not None:
            await self._checkpoint
        for statements in self._open.values():
            statements.connection.close()
        self._engine.dispose()


async def _whatever_comes(work: Coroutine[Any, Any, None]) -> None:
    """Wait for a thread to its end, also when cancelled: until then the connection is its own."""
    task, cancelled = asyncio.ensure_future(work), False
    while not task.done():
        try:
            await asyncio.wait({task})
        except asyncio.CancelledError:
            cancelled = True
    task.result()
    if cancelled:
        raise asyncio.CancelledError


class _Writing:
    """One transaction of SQLite's; a class, because a generator costs as much as some of its statements."""

    __slots__ = ("_durable", "_ledger", "_statements")

    def __init__(self, ledger: _Sqlite, durable: bool) -> None:
        self._ledger = ledger
        self._durable = durable

    async def __aenter__(self) -> Statements:
        self._statements = await self._ledger.begin(self._durable)
        return self._statements

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self._ledger.end(self._statements, self._durable, commit=kind is None)


class _OverTheWire:
    """PostgreSQL's statements; the driver keeps them prepared by itself."""

    def __init__(self, connection: AsyncConnection) -> None:
        self._connection = connection
        self.execute = connection.execute
        self.scalar = connection.scalar
        self.scalars = connection.scalars

    async def run(self, prepared: Prepared, **values: Any) -> list[tuple[Any, ...]]:
        result = await self._connection.execute(prepared.statement, values)
        return [tuple(row) for row in result] if result.returns_rows else []

    async def lock(self, number: int) -> None:
        await self._connection.execute(_LOCK, {"lock": number})


class _Postgres:
    def __init__(self, url: str) -> None:
        from sqlalchemy.ext.asyncio import create_async_engine  # brings the whole ORM, which SQLite does without

        self._engine = create_async_engine(url, pool_size=8, max_overflow=24, pool_recycle=1800)

    @contextlib.asynccontextmanager
    async def write(self, durable: bool) -> AsyncIterator[Statements]:
        async with self._engine.begin() as connection:  # every commit is durable
            yield _OverTheWire(connection)

    @contextlib.asynccontextmanager
    async def read(self) -> AsyncIterator[Statements]:
        async with self._engine.connect() as connection:
            yield _OverTheWire(connection)

    async def migrate(self) -> None:
        async with self._engine.begin() as connection:
            await connection.execute(_LOCK, {"lock": _MIGRATION_LOCK})
            await connection.run_sync(_upgrade)

    async def close(self) -> None:
        await self._engine.dispose()


def is_unreachable(error: BaseException) -> bool:
    """Whether an exception means that the database is away, locked or full, and may come back."""
    return isinstance(error, OperationalError) or (isinstance(error, DBAPIError) and error.connection_invalidated)


def _upgrade(connection: Connection) -> None:
    migrations = Path(__file__).parent / "migrations"
    newest = max(file.name for file in (migrations / "versions").glob("[0-9]*.py")).partition("_")[0]
    if _revision(connection) == newest:
        return
    # Every process comes by here, and nearly all of them find nothing to do: that should not cost them its import.
    from alembic import command
    from alembic.config import Config

    config = Config()
    config.set_main_option("script_location", str(migrations))
    config.attributes["connection"] = connection
    command.upgrade(config, "head")


def _revision(connection: Connection) -> str | None:
    if not inspect(connection).has_table("alembic_version"):
        return None
    revision: str | None = connection.scalar(text("SELECT version_num FROM alembic_version"))
    return revision
