"""The audit trail is one chain: nothing in it can be changed, taken out, added or moved without being found."""

from __future__ import annotations

import asyncio
import json
import subprocess
import sys
from collections.abc import Awaitable, Callable
from datetime import datetime, timedelta, timezone
from typing import Any

import pytest
from sqlalchemy import text
from sqlalchemy.exc import DBAPIError

from horarium.audit import BEGINNING, AuditReport, Flaw, entry_hash, verify
from horarium.ledger.audit import AuditEntry, AuditTrail, append
from horarium.ledger.database import Ledger
from horarium.ledger.threads import Threads
from horarium.secrets import conceal
from tests.core.ledgers import NOON, open_run, thread_of

Lines = list[str]
NewLedger = Callable[[], Awaitable[Ledger]]


@pytest.fixture
async def empty(fresh: NewLedger) -> Ledger:
    """A ledger of the test's own."""
    return await fresh()


def entry(number: int = 1, **more: Any) -> AuditEntry:
    """Somebody decided something."""
    data = {"by": "ana", "verdict": "approve", "comment": f"Number {number}, is it?", "digest": "sha256:00"}
    return AuditEntry(**{"kind": "approval.decided", "at": NOON, "tenant": "default", "data": data, **more})


async def write(ledger: Ledger, *entries: AuditEntry) -> None:
    """Each in a transaction of its own."""
    for one in entries:
        async with ledger.write() as connection:
            await append(connection, one)


async def export(ledger: Ledger) -> Lines:
    """All lines."""
    return [line async for line in AuditTrail(ledger).export()]


def chain(length: int, author: str = "ana") -> Lines:
    """An exported trail, made without a ledger."""
    lines, previous = [], BEGINNING
    for seq in range(1, length + 1):
        made = {"seq": seq, "at": NOON.isoformat(), "kind": "approval.decided", "tenant": "default", "run": None}
        made |= {"subject": f"apr_{seq}", "data": {"by": author, "comment": "Sure?"}, "previous": previous}
        previous = entry_hash(made)
        lines.append(json.dumps(made | {"hash": previous}))
    return lines


def hash_of(line: str) -> str:
    """The hash that stands in a line."""
    found: str = json.loads(line)["hash"]
    return found


def changed(line: str, **fields: Any) -> str:
    """The line with other fields, and the hash that it had."""
    return json.dumps(json.loads(line) | fields)


def rehashed(line: str, **fields: Any) -> str:
    """The line with other fields and a hash that fits them."""
    other = json.loads(line) | fields
    return json.dumps(other | {"hash": entry_hash(other)})


def flaw(report: AuditReport) -> tuple[Flaw, int | None] | None:
    """What is wrong, and on which line."""
    return (report.problem.flaw, report.problem.line) if report.problem else None


# Writing


async def test_two_hundred_appends_at_once_through_two_ledgers_make_one_chain_without_gaps(
    fresh: NewLedger,
) -> None:
    ledgers = [await fresh(), await fresh()]

    await asyncio.gather(*(write(ledgers[number % 2], entry(number)) for number in range(200)))

    lines = await export(ledgers[0])
    head = await AuditTrail(ledgers[1]).head()
    assert [json.loads(line)["seq"] for line in lines] == list(range(1, 201))
    assert len({json.loads(line)["data"]["comment"] for line in lines}) == 200
    assert verify(lines, head=head.hash) == AuditReport(entries=200, head=head.hash)


async def test_what_is_exported_is_intact_and_is_what_was_appended(empty: Ledger) -> None:
    berlin = NOON.astimezone(timezone(timedelta(hours=1)))
    data = {"by": "ana", "comment": "für \u202eana\x1b[31m", "bounds": {"amount": {"maximum": 1e22}}, "key": None}
    await write(empty, entry(at=berlin, run_id="run_1", subject="apr_1", data=data), entry(kind="notice.failed"))

    lines = await export(empty)

    assert verify(lines).intact
    assert all(line.isascii() and "\x1b" not in line for line in lines)
    first, second = map(json.loads, lines)
    assert (first["run"], first["subject"], first["data"]) == ("run_1", "apr_1", data)
    assert datetime.fromisoformat(first["at"]) == NOON
    assert (first["previous"], second["previous"]) == (BEGINNING, first["hash"])
    assert second["kind"] == "notice.failed"


async def test_a_trail_longer_than_a_page_is_exported_whole(empty: Ledger) -> None:
    async with empty.write() as connection:
        for number in range(2_001):
            await append(connection, entry(number))

    assert verify(await export(empty), head=(await AuditTrail(empty).head()).hash).entries == 2_001


async def test_a_transaction_that_is_rolled_back_leaves_nothing_and_no_gap(empty: Ledger) -> None:

    async def change_my_mind() -> None:
        async with empty.write() as connection:
            await append(connection, entry(2))
            raise RuntimeError("changed my mind")

    await write(empty, entry(1))
    with pytest.raises(RuntimeError, match="changed my mind"):
        await change_my_mind()
    await write(empty, entry(3))

    found = await AuditTrail(empty).entries()

    assert [(one.seq, one.data["comment"]) for one in found] == [(1, "Number 1, is it?"), (2, "Number 3, is it?")]
    assert verify(await export(empty)).intact


async def test_an_entry_that_is_written_once_is_there_once_however_often_and_at_once_it_is_repeated(
    fresh: NewLedger,
) -> None:
    ledgers = [await fresh(), await fresh()]

    await asyncio.gather(*(write(ledgers[number % 2], entry(number, once="asked:apr_1")) for number in range(20)))
    await write(ledgers[0], entry(99, once="asked:apr_2"), entry(100))

    assert [one.seq for one in await AuditTrail(ledgers[0]).entries()] == [1, 2, 3]


async def test_several_entries_of_one_transaction_follow_each_other(empty: Ledger) -> None:
    async with empty.write() as connection:
        for number in (1, 2, 2):
            await append(connection, entry(number, once=f"n{number}"))

    assert verify(await export(empty)).entries == 2


async def test_a_stranger_s_words_are_made_storable_and_secrets_stay_out(empty: Ledger) -> None:
    conceal("hunter2-hunter2")
    said = {"by": "nul \x00 half \ud800", "comment": "the password is hunter2-hunter2", "loud": float("nan")}

    await write(empty, entry(kind="decision.refused", subject="apr_\x00" + "x" * 5_000, data=said))

    (line,) = await export(empty)
    assert verify([line]).intact
    assert "hunter2" not in line
    assert len(json.loads(line)["subject"]) == 200


async def test_an_empty_trail_ends_where_it_begins(empty: Ledger) -> None:
    assert await AuditTrail(empty).head() == (0, BEGINNING)
    assert await export(empty) == []
    assert verify([], head=BEGINNING).intact


async def test_entries_are_found_by_run_and_by_place(empty: Ledger) -> None:
    await write(empty, *(entry(number, run_id=f"run_{number % 2}") for number in range(1, 7)))
    trail = AuditTrail(empty)

    assert [one.seq for one in await trail.entries(run="run_1")] == [1, 3, 5]
    assert [one.seq for one in await trail.entries(after=2, limit=2)] == [3, 4]
    assert [one.seq for one in await trail.entries(limit=2, newest=True)] == [5, 6]


async def test_the_audit_stays_when_a_thread_is_deleted(empty: Ledger) -> None:
    run = await open_run(empty)
    await write(empty, entry(run_id=run))
    before = await export(empty)
    async with empty.write() as connection:
        await connection.execute(text("UPDATE threads SET open_run = NULL"))

    await Threads(empty).delete(await thread_of(empty, run))

    *kept, last = await export(empty)
    assert kept == before
    assert json.loads(last)["kind"] == "thread.deleted"
    assert verify([*kept, last]).intact


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("kind", "'approval.expired'"),
        ("at", "at + 1"),
        ("tenant", "'other'"),
        ("run_id", "'run_2'"),
        ("subject", "NULL"),
        ("data", "replace(data, 'ana', 'bob')"),
        ("data", "'no longer JSON'"),
        ("hash", "previous"),
        ("previous", "hash"),
    ],
)
async def test_a_changed_row_of_the_database_is_found(empty: Ledger, column: str, value: str) -> None:
    await write(empty, *(entry(number, run_id="run_1", subject="apr_1") for number in range(4)))

    async with empty.write() as connection:
        await connection.execute(text(f"UPDATE audit SET {column} = {value} WHERE seq = 3"))

    assert flaw(verify(await export(empty))) == ("changed", 3)


async def test_a_row_that_was_deleted_from_the_database_is_found(empty: Ledger) -> None:
    await write(empty, *(entry(number) for number in range(4)))
    head = await AuditTrail(empty).head()

    async with empty.write() as connection:
        await connection.execute(text("DELETE FROM audit WHERE seq = 2"))
    assert flaw(verify(await export(empty))) == ("missing", 2)

    async with empty.write() as connection:
        await connection.execute(text("DELETE FROM audit WHERE seq > 1"))
    assert flaw(verify(await export(empty), head=head.hash)) == ("cut", None)


async def test_two_entries_cannot_have_one_place_even_when_somebody_writes_past_us(empty: Ledger) -> None:
    await write(empty, entry())

    with pytest.raises(DBAPIError):
        async with empty.write() as connection:
            await connection.execute(text("INSERT INTO audit SELECT * FROM audit"))


# Verifying, which needs no ledger


@pytest.mark.parametrize(
    ("tampered", "expected"),
    [
        pytest.param(lambda x: [*x[:4], changed(x[4], kind="approval.expired"), *x[5:]], ("changed", 5), id="kind"),
        pytest.param(lambda x: [*x[:4], changed(x[4], data={"by": "bob"}), *x[5:]], ("changed", 5), id="data"),
        pytest.param(lambda x: [*x[:4], changed(x[4], at="2020-01-01"), *x[5:]], ("changed", 5), id="time"),
        pytest.param(
            lambda x: [*x[:4], changed(x[4], seq=5.0), *x[5:]], ("unreadable", 5), id="number of another type"
        ),
        pytest.param(lambda x: [*x[:4], changed(x[4], hash=BEGINNING), *x[5:]], ("changed", 5), id="hash"),
        pytest.param(
            lambda x: [*x[:4], changed(x[4], note="by the way"), *x[5:]], ("unreadable", 5), id="a field more"
        ),
        pytest.param(
            lambda x: [*x[:4], x[4].replace("Sure?", "Sure\\ud800"), *x[5:]], ("changed", 5), id="half a pair"
        ),
        pytest.param(
            lambda x: [*x[:4], x[4].replace("Sure?", "Sure\udcff"), *x[5:]], ("changed", 5), id="a broken byte"
        ),
        pytest.param(
            lambda x: [*x[:4], x[4].replace('"by"', '"by": "bob", "by"'), *x[5:]], ("unreadable", 5), id="a name twice"
        ),
        pytest.param(lambda x: [*x[:4], x[4].replace('"Sure?"', "NaN"), *x[5:]], ("unreadable", 5), id="no number"),
        pytest.param(
            lambda x: [*x[:4], x[4].replace('"Sure?"', "1e999"), *x[5:]], ("changed", 5), id="no finite number"
        ),
        pytest.param(lambda x: [*x[:4], x[4][:-9], *x[5:]], ("unreadable", 5), id="half a line"),
        pytest.param(lambda x: [*x[:4], "[" * 100_000, *x[5:]], ("unreadable", 5), id="nested without end"),
        pytest.param(lambda x: [*x[:4], "[]", *x[5:]], ("unreadable", 5), id="no object"),
        pytest.param(lambda x: x[1:], ("missing", 1), id="first line removed"),
        pytest.param(lambda x: [*x[:4], *x[5:]], ("missing", 5), id="a line removed"),
        pytest.param(lambda x: [*x[:4], *x[7:]], ("missing", 5), id="three lines removed"),
        pytest.param(lambda x: x[:-1], ("cut", None), id="last line removed"),
        pytest.param(lambda x: [], ("cut", None), id="all lines removed"),
        pytest.param(lambda x: [*x[:4], x[5], x[4], *x[6:]], ("reordered", 5), id="two lines swapped"),
        pytest.param(lambda x: [*x[:4], *x[5:], x[4]], ("reordered", 5), id="a line moved to the end"),
        pytest.param(lambda x: x[::-1], ("reordered", 1), id="backwards"),
        pytest.param(lambda x: [*x[:5], x[4], *x[5:]], ("repeated", 6), id="a line twice"),
        pytest.param(lambda x: [*x[:5], x[2], *x[5:]], ("repeated", 6), id="an earlier line again"),
        pytest.param(
            lambda x: [*x[:4], rehashed(x[4], data={"by": "bob"}), *x[4:]], ("inserted", 6), id="a line inserted"
        ),
        pytest.param(
            lambda x: [*x, rehashed(x[-1], seq=11, previous=hash_of(x[-1]))], ("longer", None), id="one added"
        ),
        pytest.param(
            lambda x: [*x[:4], rehashed(x[4], data={"by": "bob"}), *x[5:]], ("replaced", 5), id="one line hashed anew"
        ),
        pytest.param(
            lambda x: [rehashed(x[0], previous=hash_of(x[4])), *x[1:]], ("replaced", 1), id="another beginning"
        ),
        pytest.param(lambda x: [*x[:-1], rehashed(x[-1], data={})], ("cut", None), id="the last line hashed anew"),
        pytest.param(lambda x: chain(10, "bob"), ("cut", None), id="all written anew"),
    ],
)
def test_every_kind_of_tampering_is_found_and_named(
    tampered: Callable[[Lines], Lines], expected: tuple[Flaw, int | None]
) -> None:
    lines = chain(10)
    assert verify(lines, head=hash_of(lines[-1])).intact

    report = verify(tampered(lines), head=hash_of(lines[-1]))

    assert flaw(report) == expected
    assert not report.intact


def test_what_was_removed_is_named() -> None:
    lines = chain(10)

    report = verify([*lines[:4], *lines[7:]])

    assert report.problem is not None
    assert report.problem.message == "Line 5 is entry 8: entries 5 to 7 are missing."
    assert (report.entries, report.head) == (4, hash_of(lines[3]))


def test_a_hash_that_was_kept_from_an_earlier_export_is_found_in_a_later_one() -> None:
    lines = chain(10)
    kept = hash_of(lines[5])

    assert verify(lines, anchor=kept).intact
    assert verify(lines, anchor=BEGINNING).intact
    assert flaw(verify(chain(10, "bob"), anchor=kept)) == ("unanchored", None)
    assert flaw(verify(lines[:5], anchor=kept)) == ("unanchored", None)


def test_the_order_of_fields_spaces_and_blank_lines_do_not_matter() -> None:
    other = [json.dumps(dict(sorted(json.loads(line).items(), reverse=True)), indent=None) for line in chain(3)]

    assert verify([f"  {other[0]}\r\n", "\n", *(f"{line}\n" for line in other[1:]), "\n"]).entries == 3


def test_a_trail_is_verified_without_loading_a_ledger_or_a_server_s_client() -> None:
    loaded = "import sys, horarium.audit; print([n for n in ('sqlalchemy', 'horarium.ledger') if n in sys.modules])"

    said = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, timeout=60, check=True)

    assert said.stdout.strip() == "[]"
