"""The statuses that a run has had, in order: so that whoever was not looking can be told of each."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import NamedTuple, cast

from sqlalchemy import bindparam, insert, literal_column, select

from horarium.contract import Status
from horarium.ledger.database import Prepared, Statements
from horarium.ledger.schema import run_statuses

_LAST = Prepared(
    select(run_statuses.c.seq, run_statuses.c.status)
    .where(run_statuses.c.run_id == bindparam("of_run"))
    .order_by(run_statuses.c.seq.desc())
    .limit(literal_column("1"))
    .offset(literal_column("0"))
)
_NOTE = Prepared(
    insert(run_statuses)
    .values({name: bindparam(name) for name in ("run_id", "seq", "status", "at")})
    .returning(run_statuses.c.seq)
)
_SINCE = Prepared(
    select(run_statuses.c.seq, run_statuses.c.status, run_statuses.c.at)
    .where(run_statuses.c.run_id == bindparam("of_run"), run_statuses.c.seq > bindparam("after"))
    .order_by(run_statuses.c.seq)
)


class StatusChange(NamedTuple):
    """A status that a run took on. `seq` counts from 1 within the run."""

    seq: int
    status: Status
    at: datetime


async def note_status(connection: Statements, run_id: str, status: Status) -> None:
    """Write down that a run has this status now, unless it had it before.

    In the transaction that has just written the run's row, whose lock keeps two of them in order.
    """
    last = await connection.run(_LAST, of_run=run_id)
    if last and last[0][1] == status:
        return
    seq = int(last[0][0]) + 1 if last else 1
    await connection.run(_NOTE, run_id=run_id, seq=seq, status=status, at=datetime.now(UTC))


async def statuses_since(connection: Statements, run_id: str, after: int) -> list[StatusChange]:
    """The statuses of a run from number `after` + 1."""
    rows = await connection.run(_SINCE, of_run=run_id, after=after)
    return [StatusChange(seq, cast("Status", status), at) for seq, status, at in rows]
