"""Servers that other people wrote, unmodified, in runs with approvals."""

from __future__ import annotations

import os
import signal
import sqlite3
from pathlib import Path

import pytest

from horarium.definitions import Agent
from horarium.mcpservers import McpServer
from horarium.tools import Effect
from tests.support.engine import PATIENCE, Engine, asks, call, says
from tests.support.stack import until
from tests.support.thirdparty import filesystem_server, sqlite_server

pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # the first installs


async def test_the_filesystem_server_writes_what_was_approved_and_nothing_else(engine: Engine, tmp_path: Path) -> None:
    files = tmp_path / "files"
    files.mkdir()
    server = McpServer(command=filesystem_server(files), effects={"read_*": Effect.READ, "list_*": Effect.READ})
    agent = Agent("librarian", model="scripted:lines", mcp={"files": server})
    write = call("files__write_file", "c1", path=str(files / "a.txt"), content="Hello.")
    other = call("files__write_file", "c2", path=str(files / "b.txt"), content="No.")
    read = call("files__read_text_file", "c3", path=str(files / "a.txt"))
    outside = call("files__read_text_file", "c4", path="/etc/hostname")
    run = await engine.start(agent, asks(write), asks(other), asks(read, outside), says())

    await run.approve(await run.next_approval(PATIENCE), by="ann")
    await run.reject(await run.next_approval(PATIENCE), by="ann")

    assert (await engine.finish(run)).status == "completed"
    assert {file.name: file.read_text() for file in files.iterdir()} == {"a.txt": "Hello."}
    heard = [text for role, text in engine.model.heard() if role == "tool"]
    assert heard[2] == "Hello."
    assert heard[3].startswith("Error: Access denied")


async def test_the_sqlite_server_changes_what_was_approved(engine: Engine, tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    server = McpServer(command=sqlite_server(database), effects={"read_query": Effect.READ})
    agent = Agent("clerk", model="scripted:lines", mcp={"shop": server})
    run = await engine.start(
        agent,
        asks(call("shop__create_table", "c1", query="CREATE TABLE orders (id INTEGER, paid TEXT)")),
        asks(call("shop__write_query", "c2", query="INSERT INTO orders VALUES (7, 'yes')")),
        asks(call("shop__read_query", "c3", query="SELECT * FROM orders")),
        says(),
    )

    for _ in range(2):
        await run.approve(await run.next_approval(PATIENCE), by="ann")

    assert (await engine.finish(run)).status == "completed"
    assert engine.model.heard()[-1] == ("tool", "[{'id': 7, 'paid': 'yes'}]")
    assert sqlite3.connect(database).execute("SELECT * FROM orders").fetchall() == [(7, "yes")]


async def test_killing_the_sqlite_server_in_mid_call_leaves_an_unknown_outcome(engine: Engine, tmp_path: Path) -> None:
    database = tmp_path / "shop.db"
    agent = Agent("clerk", model="scripted:lines", mcp={"shop": McpServer(command=sqlite_server(database))})
    run = await engine.start(agent, asks(call("shop__write_query", query="INSERT INTO orders VALUES (7)")), says())
    approval = await run.next_approval(PATIENCE)
    # Somebody else has the database: the server waits inside of the call until it is killed.
    holder = sqlite3.connect(database)
    holder.execute("CREATE TABLE orders (id INTEGER)")
    holder.commit()
    holder.execute("BEGIN EXCLUSIVE")

    await run.approve(approval, by="ann")
    await until(lambda: _waits_for_a_lock(database), "the server waits for the database", timeout=10)
    _kill_who_has_open(database)

    waits = (await engine.until(run, "requires_action")).waiting_for[0]
    assert waits.kind == "unknown_outcome"
    holder.rollback()
    await run.resolve(waits.id, "retry", by="ann")
    assert (await engine.finish(run)).status == "completed"
    assert holder.execute("SELECT id FROM orders").fetchall() == [(7,)]


def _servers(database: Path) -> list[int]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            words = (process / "cmdline").read_bytes().split(b"\0")
        except OSError:
            continue
        if str(database).encode() in words and int(process.name) != os.getpid():
            found.append(int(process.name))
    return found


def _waits_for_a_lock(database: Path) -> bool:
    return any(
        str(database) in str(link.readlink())
        for pid in _servers(database)
        for link in Path(f"/proc/{pid}/fd").iterdir()
        if link.exists()
    )


def _kill_who_has_open(database: Path) -> None:
    for pid in _servers(database):
        os.kill(pid, signal.SIGKILL)
