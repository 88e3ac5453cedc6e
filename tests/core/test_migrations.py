"""The tables come up by themselves, also when many processes start at once, and are those of the code."""

from __future__ import annotations

import asyncio
import sys
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any

from alembic.autogenerate import compare_metadata
from alembic.runtime.migration import MigrationContext
from sqlalchemy import Connection, create_engine
from sqlalchemy.ext.asyncio import create_async_engine

from horarium.ledger.database import Ledger
from horarium.ledger.schema import metadata
from horarium.settings import Settings
from tests.core.conftest import Kind, NewSettings
from tests.core.ledgers import NOON

OPENER = """
import asyncio, sys
from pathlib import Path
from horarium.ledger.database import Ledger
from horarium.ledger.threads import Threads
from horarium.settings import LedgerSettings, Settings

async def main(root, url):
    print("ready", flush=True)
    sys.stdin.readline()
    ledger = await Ledger.open(Settings(root=Path(root), ledger=LedgerSettings(url=url or None)))
    await Threads(ledger).read("thr_none")
    await ledger.close()

asyncio.run(main(sys.argv[1], sys.argv[2]))
"""


async def test_six_processes_that_start_at_once_on_an_empty_database_all_find_the_tables(
    kind: Kind, new_settings: NewSettings, tmp_path: Path
) -> None:
    settings = await new_settings(kind, tmp_path)
    command = [sys.executable, "-c", OPENER, str(tmp_path), settings.ledger.url or ""]
    pipe = asyncio.subprocess.PIPE
    processes = [await asyncio.create_subprocess_exec(*command, stdin=pipe, stdout=pipe, stderr=pipe) for _ in range(6)]
    for process in processes:
        assert process.stdout is not None
        assert await asyncio.wait_for(process.stdout.readline(), 60) == b"ready\n"

    said = await asyncio.wait_for(asyncio.gather(*(process.communicate(b"go\n") for process in processes)), 60)

    assert [process.returncode for process in processes] == [0] * 6, [error.decode()[-800:] for _, error in said]


async def test_the_migrated_tables_are_those_of_the_code(kind: Kind, new_settings: NewSettings, tmp_path: Path) -> None:
    settings = await new_settings(kind, tmp_path)
    await (await Ledger.open(settings)).close()

    assert await _differences(kind, settings) == []


async def test_opening_again_keeps_what_is_there(fresh: Callable[[], Awaitable[Ledger]]) -> None:
    first = await fresh()
    async with first.write() as connection:
        await connection.execute(
            metadata.tables["tools"].insert().values(name="look", queue="q", spec={"a": 1}, seen_at=NOON)
        )

    second = await fresh()

    async with second.read() as connection:
        rows = (await connection.execute(metadata.tables["tools"].select())).all()
    assert [(row.name, row.spec) for row in rows] == [("look", {"a": 1})]


async def _differences(kind: Kind, settings: Settings) -> list[Any]:
    def compare(connection: Connection) -> list[Any]:
        context = MigrationContext.configure(connection, opts={"compare_type": True, "include_name": _is_ours})
        return list(compare_metadata(context, metadata))

    if kind == "sqlite":
        engine = create_engine(settings.ledger_url)
        with engine.connect() as connection:
            found = compare(connection)
        engine.dispose()
        return found
    asynchronous = create_async_engine(settings.ledger_url)
    async with asynchronous.connect() as wire:
        differences: list[Any] = await wire.run_sync(compare)
    await asynchronous.dispose()
    return differences


def _is_ours(name: str | None, kind: str, _parents: Any) -> bool:
    """SQLite keeps a full-text index in tables of its own."""
    return kind != "table" or not (name or "").startswith("memory_words")
