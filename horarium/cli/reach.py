"""How a command reaches the ledger and Temporal, and how it finds what was named with a few letters.

Looking needs the ledger only, so lists and evidence work while the server is down; only what talks to a
run needs Temporal.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import timedelta
from typing import TYPE_CHECKING

from sqlalchemy import ColumnElement, select
from sqlalchemy.exc import DBAPIError

from horarium.contract import RunStatus
from horarium.errors import ApprovalNotFound, HorariumError, NotFound, RunNotFound, ThreadNotFound, Unreachable
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.database import Ledger, is_unreachable
from horarium.ledger.runs import RunRecord, Runs
from horarium.ledger.schema import approvals as approvals_table
from horarium.ledger.schema import runs as runs_table
from horarium.ledger.schema import threads as threads_table
from horarium.ledger.threads import ThreadRecord, Threads
from horarium.settings import Settings

if TYPE_CHECKING:
    from horarium.client import Client

GLANCE = timedelta(seconds=3)  # for a look at a run that is only a nicety
_NAMED = 3  # candidates that an ambiguous prefix is answered with


@asynccontextmanager
async def opened_ledger(settings: Settings | None = None) -> AsyncIterator[Ledger]:
    """The project's ledger, closed at the end.

    Raises:
        Unreachable: It does not answer, or went away meanwhile.
        ConfigError: The settings are wrong.
    """
    ledger = await Ledger.open(settings or Settings.load())
    try:
        yield ledger
    except DBAPIError as error:
        if not is_unreachable(error):
            raise
        reason = str(error.orig).splitlines()[0]
        raise Unreachable(f"The ledger does not answer: {reason}.", hint="Look why: horarium doctor") from error
    finally:
        await ledger.close()


@asynccontextmanager
async def opened_client(settings: Settings | None = None) -> AsyncIterator[tuple[Client, Ledger]]:
    """A client on the project's Temporal, and the ledger it uses.

    Raises:
        Unreachable: Temporal or the ledger does not answer.
        ConfigError: The settings are wrong.
    """
    from horarium.client import Client  # brings Temporal's SDK, which most commands do without

    settings = settings or Settings.load()
    async with opened_ledger(settings) as ledger:
        client = await Client.connect(settings, ledger=False)
        yield Client(client.temporal, ledger, settings), ledger


async def find_run(ledger: Ledger, said: str) -> RunRecord:
    """The run of this id, or the only one whose id begins so.

    Raises:
        RunNotFound: There is none, or there are several.
    """
    found = await _begins(ledger, runs_table.c.id, runs_table.c.created_at, said)
    if not found:
        raise RunNotFound(f"There is no run {said!r}.", hint="See which there are: horarium runs list")
    return await Runs(ledger).get(_only(found, said, "run", RunNotFound))


async def run_id(ledger: Ledger, said: str) -> str:
    """As `find_run`, for what goes to Temporal: an id the ledger does not know may be known there."""
    found = await _begins(ledger, runs_table.c.id, runs_table.c.created_at, said)
    return _only(found, said, "run", RunNotFound) if found else said


async def find_approval(ledger: Ledger, said: str) -> ApprovalRecord:
    """The approval of this id, or the only one whose id begins so.

    Raises:
        ApprovalNotFound: There is none, or there are several.
    """
    found = await _begins(ledger, approvals_table.c.id, approvals_table.c.requested_at, said)
    if not found:
        raise ApprovalNotFound(f"There is no approval {said!r}.", hint="See the open ones: horarium approvals list")
    return await Approvals(ledger).get(_only(found, said, "approval", ApprovalNotFound))


async def find_thread(ledger: Ledger, said: str, tenant: str | None = None) -> ThreadRecord:
    """The thread of this id, or the only one whose id begins so; `tenant`: whose it has to be.

    Raises:
        ThreadNotFound: There is none, or there are several.
    """
    found = await _begins(ledger, threads_table.c.id, threads_table.c.created_at, said)
    if not found:
        raise ThreadNotFound(f"There is no thread {said!r}.", hint="See which there are: horarium threads list")
    return await Threads(ledger).get(_only(found, said, "thread", ThreadNotFound), tenant=tenant)


async def glance(settings: Settings, run: str) -> RunStatus | None:
    """What the run itself says now; None when nobody answers within a few seconds."""
    from horarium.client import Client  # as above

    try:
        async with asyncio.timeout(GLANCE.total_seconds()):
            client = await Client.connect(settings, ledger=False)
            return await client.run(run).status()
    except (HorariumError, TimeoutError):
        return None


async def _begins(ledger: Ledger, column: ColumnElement[str], newest: ColumnElement[object], said: str) -> list[str]:
    if not said:
        return []
    query = select(column).where(column.istartswith(said, autoescape=True)).order_by(newest.desc()).limit(_NAMED + 1)
    async with ledger.read() as connection:
        exact = await connection.scalar(select(column).where(column == said))
        return [exact] if exact is not None else list(await connection.scalars(query))


def _only(found: list[str], said: str, noun: str, kind: type[NotFound]) -> str:
    if len(found) > 1:
        some = ", ".join(found[:_NAMED]) + (", …" if len(found) > _NAMED else "")
        raise kind(f"{said!r} begins the ids of several {noun}s: {some}.", hint="Type more of it.")
    return found[0]
