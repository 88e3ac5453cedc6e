"""What a call finds in its workspace, what of it is kept, and what becomes of calls that run at once."""

from __future__ import annotations

import asyncio
import os
import socket
import stat
import threading
import time
from collections.abc import AsyncIterator, Awaitable, Callable
from datetime import timedelta
from pathlib import Path

import pytest

from horarium.errors import Unreachable, WorkspaceError
from horarium.ledger.database import Ledger
from horarium.ledger.schema import workspace_files, workspace_uploads
from horarium.ledger.threads import Threads
from horarium.workspace import Workspace
from horarium.workspaces import host as hosting
from tests.workspace.hosts import Host, contents, in_tool, new_host, new_thread, settle, tree

OpenLedger = Callable[[], Awaitable[Ledger]]


@pytest.fixture
async def ledger(fresh: OpenLedger) -> Ledger:
    return await fresh()


@pytest.fixture
async def thread(ledger: Ledger) -> str:
    return await new_thread(ledger)


@pytest.fixture
async def host(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Host]:
    made = new_host(ledger, tmp_path)
    yield made
    await made.workspaces.close()


@pytest.fixture
async def other(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Host]:
    """Another host, on the same ledger and blob store."""
    made = new_host(ledger, tmp_path / "elsewhere")
    yield made
    await made.workspaces.close()


async def has(host: Host, thread: str) -> dict[str, bytes]:
    """What a call on a host finds."""
    async with host.call(thread) as files:
        found: dict[str, bytes] = await in_tool(files, lambda workspace: tree(Path(workspace)))
        return found


async def test_what_a_call_leaves_is_found_by_the_next_one_on_any_host(host: Host, other: Host, thread: str):
    def work(workspace: Workspace) -> None:
        workspace.write_text("notes.txt", "one")
        workspace.write_bytes("deep/er/raw", b"\x00\xff")
        (Path(workspace) / "run").write_text("#!/bin/sh")
        (Path(workspace) / "run").chmod(0o4755)

    await host.does(thread, work)

    expected = {"notes.txt": b"one", "deep/er/raw": b"\x00\xff", "run": b"#!/bin/sh"}
    assert await has(host, thread) == await has(other, thread) == expected
    async with other.call(thread) as files:
        mode = await in_tool(files, lambda workspace: (Path(workspace) / "run").stat().st_mode)
    assert mode & stat.S_IXUSR
    assert not mode & stat.S_ISUID


async def test_a_call_that_does_not_touch_its_workspace_costs_nothing(host: Host, thread: str):
    async with host.call(thread) as files:
        assert await files.change() is None

    assert not host.workspaces.base.exists()


async def test_a_call_that_changed_nothing_makes_no_version(host: Host, thread: str):
    await host.does(thread, lambda workspace: workspace.write_text("a", "1"))
    await host.does(thread, lambda workspace: workspace.write_text("a", "1"))
    await host.does(thread, lambda workspace: workspace.list())

    assert [version.version for version in await host.workspaces.workspaces.versions(thread)] == [1]


async def test_what_a_call_that_never_settled_left_behind_is_gone(host: Host, thread: str, outside: Path):
    await host.does(thread, lambda workspace: workspace.write_text("kept", "1"))

    def work(workspace: Workspace) -> None:
        here = Path(workspace)
        workspace.write_text("kept", "other")
        workspace.write_text("new/file", "x")
        (here / "link").symlink_to(outside, target_is_directory=True)
        (here / "d").mkdir()
        os.mkfifo(here / "d" / "pipe")

    async with host.call(thread) as files:
        await in_tool(files, work)

    assert await has(host, thread) == {"kept": b"1"}
    async with host.call(thread) as files:
        assert await in_tool(files, lambda workspace: [path.name for path in Path(workspace).iterdir()]) == ["kept"]
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_a_changed_file_of_the_same_size_and_time_is_noticed(host: Host, thread: str):
    await host.does(thread, lambda workspace: workspace.write_text("a", "one"))

    def work(workspace: Workspace) -> None:
        file = Path(workspace) / "a"
        before = file.stat()
        file.write_text("two")
        os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))

    await host.does(thread, work)

    assert await has(host, thread) == {"a": b"two"}


async def test_only_what_differs_is_stored(host: Host, thread: str, tmp_path: Path):
    settings = hosting.Settings(root=tmp_path)

    def many(workspace: Workspace) -> None:
        for number in range(100):
            workspace.write_text(f"{number}", f"content {number}")

    await host.does(thread, many)
    before = contents(settings)
    await host.does(thread, lambda workspace: workspace.write_text("7", "changed"))
    await host.does(thread, lambda workspace: workspace.write_text("copy of 8", "content 8"))

    assert len(before) == 100
    assert len(contents(settings) - before) == 1
    async with host.workspaces.workspaces._ledger.read() as connection:
        rows = (await connection.execute(workspace_files.select().where(workspace_files.c.since > 1))).fetchall()
    assert {(row.path, row.since) for row in rows} == {("7", 2), ("copy of 8", 3)}


async def test_links_devices_and_odd_names_are_not_kept_and_it_is_said(
    host: Host, thread: str, outside: Path, monkeypatch: pytest.MonkeyPatch
):
    def work(workspace: Workspace) -> None:
        here = Path(workspace)
        workspace.write_text("kept", "1")
        os.link(here / "kept", here / "kept too")
        (here / "link").symlink_to(outside / "secret")
        os.link(outside / "secret", here / "hard")
        os.mkfifo(here / "pipe")
        (here / "back\\slash").write_text("x")
        (here / os.fsdecode(b"not utf-8 \xff")).write_text("x")
        monkeypatch.chdir(here)
        with socket.socket(socket.AF_UNIX) as listening:
            listening.bind("socket")

    note = await host.does(thread, work)

    assert await has(host, thread) == {"kept": b"1", "kept too": b"1"}
    assert note is not None
    for word in ("link (a link)", "hard (a hard link)", "pipe (a pipe)", "socket (a socket)", "backslash", "UTF-8"):
        assert word in note


async def test_a_workspace_that_was_itself_replaced_by_a_link_is_refused(host: Host, thread: str, outside: Path):
    def work(workspace: Workspace) -> None:
        here = Path(workspace)
        here.rmdir()
        here.symlink_to(outside, target_is_directory=True)

    with pytest.raises(WorkspaceError, match="removed or replaced"):
        await host.does(thread, work)

    assert await has(host, thread) == {}
    assert [path.name for path in outside.iterdir()] == ["secret"]


async def test_quotas_hold_for_files_bytes_and_sparse_giants(ledger: Ledger, tmp_path: Path, thread: str):
    host = new_host(ledger, tmp_path, max_files=100, max_bytes=10_000, max_file_bytes=5_000)

    def too_many(workspace: Workspace) -> None:
        for number in range(101):
            workspace.write_text(f"d{number % 7}/{number}", "")

    def too_much(workspace: Workspace) -> None:
        for number in range(3):
            workspace.write_bytes(f"{number}", bytes(4_000))

    def sparse(workspace: Workspace) -> None:
        with workspace.open("huge", "wb") as file:
            os.truncate(file.fileno(), 1 << 40)

    for work, word in ((too_many, "100 files"), (too_much, "12,000 bytes"), (sparse, "5,000 bytes")):
        with pytest.raises(WorkspaceError, match=word):
            await host.does(thread, work)

    assert await has(host, thread) == {}
    await host.workspaces.close()


async def test_calls_at_once_begin_with_the_same_files_and_are_put_together(host: Host, other: Host, thread: str):
    await host.does(thread, lambda workspace: workspace.write_text("both", "0"))

    async with host.call(thread) as first, host.call(thread) as second, other.call(thread) as third:
        for number, files in enumerate((first, second, third)):
            found = await in_tool(files, lambda workspace: tree(Path(workspace)))
            await in_tool(files, lambda workspace, n=number: workspace.write_text(f"own {n}", str(n)))
            assert found == {"both": b"0"}
        notes = [await settle(host, first), await settle(host, second), await settle(other, third)]

    everything = {"both": b"0", "own 0": b"0", "own 1": b"1", "own 2": b"2"}
    assert notes == [None] * 3
    assert await has(host, thread) == await has(other, thread) == everything


async def test_of_a_file_that_two_calls_changed_the_later_settlement_stands_and_says_so(
    host: Host, other: Host, thread: str
):
    await host.does(thread, lambda workspace: [workspace.write_text(name, "0") for name in ("a", "b", "c")])

    async with host.call(thread) as first, other.call(thread) as second:
        await in_tool(first, lambda workspace: [workspace.write_text(name, "first") for name in ("a", "b")])
        await in_tool(second, lambda workspace: [workspace.write_text("a", "second"), workspace.remove("c")])
        note = await settle(host, first)
        later = await settle(other, second)

    assert note is None
    assert later is not None
    assert later.startswith("[Workspace: a had been changed elsewhere")
    assert await has(host, thread) == {"a": b"second", "b": b"first"}


async def test_a_file_where_another_call_made_a_directory_gives_way_to_the_later_settlement(
    host: Host, other: Host, thread: str
):
    async with host.call(thread) as first, other.call(thread) as second:
        await in_tool(first, lambda workspace: workspace.write_text("x/y/z", "first"))
        await in_tool(second, lambda workspace: workspace.write_text("x/y", "second"))
        await settle(host, first)
        note = await settle(other, second)

    assert note is not None
    assert "x/y/z" in note
    assert await has(host, thread) == await has(other, thread) == {"x/y": b"second"}


async def test_a_call_that_runs_on_after_its_end_reaches_nothing(host: Host, thread: str):
    late: list[Workspace] = []
    async with host.call(thread) as files:
        await asyncio.to_thread(lambda: late.append(files.open()))  # it never says that it ended: it timed out
    await host.workspaces.idle()

    with pytest.raises(WorkspaceError, match="over"):
        late[0].write_text("a", "late")
    with pytest.raises(FileNotFoundError):
        (Path(late[0]) / "a").write_text("late")
    assert await has(host, thread) == {}
    with pytest.raises(WorkspaceError, match="over"):
        await asyncio.to_thread(files.open)


async def test_one_call_uses_its_workspace_from_many_threads(host: Host, thread: str):
    async with host.call(thread) as files:
        opened = await asyncio.gather(*(asyncio.to_thread(files.open) for _ in range(8)))

    assert len({id(workspace) for workspace in opened}) == 1


async def test_a_process_does_not_get_the_copy_that_another_one_works_in(ledger: Ledger, tmp_path: Path, thread: str):
    first, second = new_host(ledger, tmp_path), new_host(ledger, tmp_path)  # two processes of one host

    async with first.call(thread) as one, second.call(thread) as two:
        ways = [await in_tool(files, os.fspath) for files in (one, two)]

    assert ways[0] != ways[1]
    await first.workspaces.close()
    await second.workspaces.close()


async def test_a_free_copy_is_used_again(host: Host, thread: str):
    ways = []
    for _ in range(3):
        async with host.call(thread) as files:
            ways.append(await in_tool(files, os.fspath))
            await settle(host, files)
        await host.workspaces.idle()

    assert len(set(ways)) == 1


async def test_copies_that_nobody_uses_any_more_are_thrown_away(ledger: Ledger, tmp_path: Path, thread: str):
    host = new_host(ledger, tmp_path)
    await host.does(thread, lambda workspace: workspace.write_text("a", "1"))
    await host.workspaces.close()
    assert (host.workspaces.base / thread).exists()

    later = new_host(ledger, tmp_path, keep_copies=timedelta(0))
    await later.does(await new_thread(ledger), lambda workspace: workspace.list())
    await later.workspaces.idle()

    assert not (host.workspaces.base / thread).exists()
    assert await has(later, thread) == {"a": b"1"}


async def test_while_the_blob_store_is_away_a_call_waits_and_then_says_so(
    ledger: Ledger, tmp_path: Path, thread: str, monkeypatch: pytest.MonkeyPatch
):
    host = new_host(ledger, tmp_path)
    await host.does(thread, lambda workspace: workspace.write_text("a", "1"))
    store = next(tmp_path.rglob("blobs"))
    away = store.rename(store.with_name("away"))
    monkeypatch.setattr(hosting, "PREPARE_PATIENCE", timedelta(seconds=0.3))
    elsewhere = new_host(ledger, tmp_path / "elsewhere")

    with pytest.raises(Unreachable):
        await has(elsewhere, thread)
    away.rename(store)

    assert await has(elsewhere, thread) == {"a": b"1"}
    await host.workspaces.close()
    await elsewhere.workspaces.close()


async def test_a_content_that_was_damaged_in_the_blob_store_is_not_handed_out(
    ledger: Ledger, tmp_path: Path, thread: str, monkeypatch: pytest.MonkeyPatch
):
    host = new_host(ledger, tmp_path)
    await host.does(thread, lambda workspace: workspace.write_text("a", "1"))
    stored = next(path for path in (tmp_path / ".horarium" / "blobs").rglob("*") if path.is_file())
    stored.write_text("2")
    monkeypatch.setattr(hosting, "PREPARE_PATIENCE", timedelta(seconds=0.3))

    with pytest.raises(Unreachable, match="damaged"):
        await has(new_host(ledger, tmp_path / "elsewhere"), thread)


async def test_old_versions_go_with_what_only_they_had(ledger: Ledger, tmp_path: Path, thread: str):
    host = new_host(ledger, tmp_path, keep_versions=3)
    for number in range(9):
        await host.does(thread, lambda workspace, n=number: workspace.write_text("a", f"content {n}"))

    workspaces = host.workspaces.workspaces
    kept = [version.version for version in await workspaces.versions(thread)]
    assert kept == [9, 8, 7, 6]  # it is tidied every eighth version
    assert len(contents(hosting.Settings(root=tmp_path))) == 4
    assert [(await workspaces.manifest(thread, version))["a"].size for version in kept] == [9] * 4
    await workspaces.tidy(thread, 3)
    assert len(contents(hosting.Settings(root=tmp_path))) == 3
    await host.workspaces.close()


async def test_a_content_is_deleted_with_the_last_thread_that_has_it(ledger: Ledger, tmp_path: Path, host: Host):
    one, two = await new_thread(ledger), await new_thread(ledger)
    for thread in (one, two):
        await host.does(thread, lambda workspace: workspace.write_text("same", "the same"))
    await host.does(one, lambda workspace: workspace.write_text("own", "its own"))
    settings = hosting.Settings(root=tmp_path)
    assert len(contents(settings)) == 2

    await Threads(ledger).delete(one)

    assert len(contents(settings)) == 1
    assert await has(host, two) == {"same": b"the same"}
    await Threads(ledger).delete(two)
    assert contents(settings) == set()


async def test_a_content_that_is_being_stored_is_not_deleted_meanwhile(ledger: Ledger, tmp_path: Path, host: Host):
    going, coming = await new_thread(ledger), await new_thread(ledger)
    await host.does(going, lambda workspace: workspace.write_text("a", "the same"))

    async with host.call(coming) as files:
        await in_tool(files, lambda workspace: workspace.write_text("b", "the same"))
        change = await files.change()  # stored, and not yet recorded
        await Threads(ledger).delete(going)
        assert change is not None
        await host.workspaces.workspaces.record(change)

    assert await has(new_host(ledger, tmp_path / "elsewhere"), coming) == {"b": b"the same"}
    async with ledger.read() as connection:
        assert (await connection.execute(workspace_uploads.select())).fetchall() == []


async def test_a_fork_has_the_files_and_goes_its_own_way(ledger: Ledger, host: Host, thread: str):
    await Threads(ledger).append(thread, "Begin.")
    await host.does(thread, lambda workspace: workspace.write_text("a", "before"))
    await Threads(ledger).append(thread, "Go on.")
    await host.does(thread, lambda workspace: workspace.write_text("a", "after"))

    whole = (await Threads(ledger).fork(thread)).id
    earlier = (await Threads(ledger).fork(thread, at=1)).id
    first = (await Threads(ledger).fork(thread, at=0)).id
    await host.does(whole, lambda workspace: workspace.write_text("b", "fork"))

    assert await has(host, whole) == {"a": b"after", "b": b"fork"}
    assert await has(host, earlier) == {"a": b"before"}
    assert await has(host, first) == {}
    assert await has(host, thread) == {"a": b"after"}
    await Threads(ledger).delete(thread)
    assert await has(host, earlier) == {"a": b"before"}


async def test_a_file_that_changes_while_it_is_kept_is_looked_at_again(host: Host, thread: str):
    """Something that a tool left running writes on; what is kept is one whole moment of each file, or nothing."""
    stop = threading.Event()

    def work(workspace: Workspace) -> threading.Thread:
        def write() -> None:
            number = 0
            while not stop.is_set():
                number += 1
                (Path(workspace) / "busy").write_text(f"{number:06}" * 100)

        workspace.write_text("calm", "1")
        busy = threading.Thread(target=write)
        busy.start()
        while not workspace.list("busy"):
            time.sleep(0.001)
        return busy

    async with host.call(thread) as files:
        busy = await in_tool(files, work)
        try:
            await settle(host, files)
        except WorkspaceError as error:
            assert "still runs" in str(error) or "cannot be read" in str(error)  # noqa: PT017
        finally:
            stop.set()
            busy.join()

    found = await has(host, thread)
    assert found.keys() in (set(), {"calm", "busy"})
