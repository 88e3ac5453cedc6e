"""A ledger on each database: SQLite in a file, and a real PostgreSQL."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from typing import Literal

import pytest

from horarium.ledger.database import Ledger
from horarium.settings import LedgerSettings, Settings
from tests.support.ledgers import lay_out
from tests.support.postgres import new_database, postgres_url

Kind = Literal["sqlite", "postgres"]
NewSettings = Callable[[Kind, Path], Awaitable[Settings]]


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    """The URL of a PostgreSQL that lives as long as the tests."""
    with postgres_url() as url:
        yield url


@pytest.fixture(params=["sqlite", "postgres"], scope="session")
def kind(request: pytest.FixtureRequest) -> Kind:
    """Which database."""
    chosen: Kind = request.param
    return chosen


@pytest.fixture(scope="session")
def new_settings(request: pytest.FixtureRequest) -> NewSettings:
    """Make settings for an empty database of one kind, with its state in a directory."""

    async def make(kind: Kind, directory: Path) -> Settings:
        if kind == "sqlite":
            return Settings(root=directory)
        url = await new_database(request.getfixturevalue("postgres"))
        return Settings(root=directory, ledger=LedgerSettings(url=url))

    return make


@pytest.fixture(scope="session")
async def ledger(
    kind: Kind, new_settings: NewSettings, tmp_path_factory: pytest.TempPathFactory
) -> AsyncIterator[Ledger]:
    """A ledger that the tests of a session share; each test uses its own runs and threads."""
    ledger = await Ledger.open(await new_settings(kind, tmp_path_factory.mktemp(kind)))
    yield ledger
    await ledger.close()


@pytest.fixture
async def fresh(
    kind: Kind, new_settings: NewSettings, tmp_path: Path
) -> AsyncIterator[Callable[[], Awaitable[Ledger]]]:
    """Open a ledger of the test's own; each call connects anew to the same database."""
    settings = await new_settings(kind, tmp_path)
    async with AsyncExitStack() as stack:

        async def open_ledger() -> Ledger:
            await lay_out(settings)
            opened = await Ledger.open(settings)
            stack.push_async_callback(opened.close)
            return opened

        yield open_ledger


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """An event loop for tests that Hypothesis drives, which are not async."""
    with asyncio.Runner() as runner:
        yield runner
