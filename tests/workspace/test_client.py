"""Files of threads from outside: listed, fetched, put and removed by the ledger and the blob store alone."""

from __future__ import annotations

import io
import zipfile
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path

import pytest

from horarium.errors import NotFound, ThreadNotFound, WorkspaceError
from horarium.ledger.database import Ledger
from horarium.ledger.threads import Threads
from horarium.settings import Settings, WorkspacesSettings
from horarium.workspace_client import ThreadFiles
from tests.workspace.hosts import Host, in_tool, new_host, new_thread, settle


@pytest.fixture
async def ledger(fresh: Callable[[], Awaitable[Ledger]]) -> Ledger:
    return await fresh()


@pytest.fixture
async def thread(ledger: Ledger) -> str:
    return await new_thread(ledger)


@pytest.fixture
def client(ledger: Ledger, tmp_path: Path) -> ThreadFiles:
    limits = WorkspacesSettings(max_files=3, max_bytes=2_000, max_file_bytes=1_500)
    return ThreadFiles(ledger, Settings(root=tmp_path, workspaces=limits))


@pytest.fixture
async def host(ledger: Ledger, tmp_path: Path) -> AsyncIterator[Host]:
    made = new_host(ledger, tmp_path)
    yield made
    await made.workspaces.close()


async def whole(pieces: AsyncIterator[bytes]) -> bytes:
    return b"".join([piece async for piece in pieces])


async def test_a_file_that_was_put_is_listed_fetched_and_removed(client: ThreadFiles, thread: str, tmp_path: Path):
    (tmp_path / "local").write_bytes(b"from a file")

    assert await client.upload_file(thread, "a/b.txt", b"one", by="ana") == 1
    assert await client.upload_file(thread, "a/b.txt", b"one", by="ana") is None
    assert await client.upload_file(thread, "local", tmp_path / "local", executable=True) == 2
    assert await client.upload_file(thread, "a/b.txt", io.BytesIO(b"two"), by="ben") == 3

    assert [(file.name, file.size, file.executable) for file in await client.workspace_files(thread)] == [
        ("a/b.txt", 3, False),
        ("local", 11, True),
    ]
    assert [file.name for file in await client.workspace_files(thread, pattern="a/**", version=1)] == ["a/b.txt"]
    assert await whole(client.download_file(thread, "./a/b.txt")) == b"two"
    assert await whole(client.download_file(thread, "a/b.txt", version=1)) == b"one"
    assert await client.delete_file(thread, "a", by="ana") == 4
    assert [file.name for file in await client.workspace_files(thread)] == ["local"]
    assert [version.by for version in await client.workspace_versions(thread)] == ["ana", "ben", None, "ana"]


async def test_all_files_come_as_one_archive(client: ThreadFiles, thread: str):
    await client.upload_file(thread, "a", b"1")
    await client.upload_file(thread, "d/b", bytes(1_500))

    with zipfile.ZipFile(io.BytesIO(await whole(client.download_workspace(thread)))) as archive:
        assert archive.testzip() is None
        assert {name: len(archive.read(name)) for name in archive.namelist()} == {"a": 1, "d/b": 1_500}


async def test_what_is_not_there_is_said(client: ThreadFiles, thread: str):
    await client.upload_file(thread, "a", b"1")

    with pytest.raises(NotFound):
        await whole(client.download_file(thread, "b"))
    with pytest.raises(NotFound):
        await client.workspace_files(thread, version=2)
    with pytest.raises(NotFound):
        await client.delete_file(thread, "b")
    for nobodys in ("thr_none", await _deleted(client, thread)):
        with pytest.raises(ThreadNotFound):
            await client.workspace_files(nobodys)
        with pytest.raises(ThreadNotFound):
            await client.upload_file(nobodys, "a", b"1")


async def _deleted(client: ThreadFiles, thread: str) -> str:
    await Threads(client.require_ledger()).delete(thread)
    return thread


async def test_another_tenant_sees_no_file(client: ThreadFiles, thread: str):
    await client.upload_file(thread, "a", b"1", tenant="default")

    for refused in (
        client.workspace_files(thread, tenant="other"),
        client.workspace_versions(thread, tenant="other"),
        whole(client.download_file(thread, "a", tenant="other")),
        whole(client.download_workspace(thread, tenant="other")),
        client.upload_file(thread, "b", b"1", tenant="other"),
        client.delete_file(thread, "a", tenant="other"),
    ):
        with pytest.raises(ThreadNotFound):
            await refused


async def test_what_is_put_has_the_same_names_and_quotas_as_a_tool_has(client: ThreadFiles, thread: str):
    await client.upload_file(thread, "a", bytes(1_000))
    refused = [("../up", b"x"), ("/etc/passwd", b"x"), ("large", bytes(1_501)), ("much", bytes(1_001)), ("a/b", b"x")]

    for name, content in refused:
        with pytest.raises(WorkspaceError):
            await client.upload_file(thread, name, content)
    await client.upload_file(thread, "b", b"")
    await client.upload_file(thread, "c", b"")
    with pytest.raises(WorkspaceError, match="3 files"):
        await client.upload_file(thread, "d", b"")


async def test_a_file_that_is_put_during_a_call_stays_unless_the_call_changes_it_too(
    client: ThreadFiles, host: Host, thread: str
):
    await client.upload_file(thread, "a", b"before")

    async with host.call(thread) as files:
        await in_tool(files, lambda workspace: workspace.write_text("b", "call"))
        await client.upload_file(thread, "a", b"ana", by="ana")
        await client.upload_file(thread, "b", b"ana", by="ana")
        note = await settle(host, files)

    assert await whole(client.download_file(thread, "a")) == b"ana"
    assert await whole(client.download_file(thread, "b")) == b"call"
    assert note is not None
    assert "b had been changed elsewhere" in note
