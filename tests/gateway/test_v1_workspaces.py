"""The files of threads over REST: up, down, all at once, and nothing outside of them."""

from __future__ import annotations

import io
import tarfile
from collections.abc import AsyncIterator

import pytest

from horarium.settings import WorkspacesSettings
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRANGER, STRICT, Rest, rest_of
from tests.support.engine import Engine

LARGE = 2_500_000  # more than a JSON body may have


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    small = WorkspacesSettings(max_file_bytes=3_000_000, max_files=3, max_bytes=5_000_000)
    engine.settings = engine.client.settings = engine.settings.model_copy(update={"workspaces": small})
    async with rest_of(engine, serve) as rest:
        yield rest


@pytest.fixture
async def files(rest: Rest) -> str:
    """Where the files of a thread are."""
    thread = await rest.engine.client.create_thread()
    return f"/v1/threads/{thread.id}"


async def test_a_file_comes_back_as_it_went_and_a_browser_only_saves_it(rest: Rest, files: str) -> None:
    content = bytes(range(256)) * (LARGE // 256)

    put = await rest.ok("PUT", f"{files}/files/reports/mäi%20x.bin", "operator", content=content)
    got = await rest("GET", f"{files}/files/reports/mäi%20x.bin", "viewer")

    assert put == {"version": 1}
    assert got.content == content
    assert got.headers["content-disposition"] == "attachment; filename*=UTF-8''m%C3%A4i%20x.bin"
    assert (got.headers["x-content-type-options"], got.headers["content-type"]) == (
        "nosniff",
        "application/octet-stream",
    )


async def test_files_are_listed_by_name_at_each_version_that_is_kept(rest: Rest, files: str) -> None:
    for name in ("b.txt", "a.txt", "c/d.csv"):
        await rest.ok("PUT", f"{files}/files/{name}", "operator", content=name.encode())
    await rest.ok("DELETE", f"{files}/files/c", "operator")

    pages = await rest.pages(f"{files}/files", 1)
    before = await rest.ok("GET", f"{files}/files", params={"version": 3, "pattern": "**/*.csv"})
    versions = await rest.ok("GET", f"{files}/file-versions")

    assert [[item["name"] for item in page] for page in pages] == [["a.txt"], ["b.txt"]]
    assert [(item["name"], item["size"]) for item in before["data"]] == [("c/d.csv", 7)]
    assert [(item["version"], item["by"]) for item in versions["data"]] == [
        (number, "operator") for number in (4, 3, 2, 1)
    ]


async def test_all_of_them_come_in_one_archive(rest: Rest, files: str) -> None:
    for name in ("a.txt", "c/d.csv"):
        await rest.ok("PUT", f"{files}/files/{name}", "operator", content=name.encode())

    answer = await rest("GET", f"{files}/archive", "viewer")

    with tarfile.open(fileobj=io.BytesIO(answer.content), mode="r:gz") as archive:
        found = {member.name: archive.extractfile(member) for member in archive}
        assert {name: file.read() for name, file in found.items() if file} == {"a.txt": b"a.txt", "c/d.csv": b"c/d.csv"}
    assert answer.headers["content-disposition"].startswith("attachment;")


@pytest.mark.parametrize(
    "name", ["..%2f..%2fetc%2fpasswd", "%2e%2e/x", "a/%2e%2e/%2e%2e/x", "%2fetc%2fpasswd", "a%00b", "C%3A%5Cx"]
)
async def test_a_name_that_leads_out_is_refused(rest: Rest, files: str, name: str) -> None:
    answers = [
        await rest(method, f"{files}/files/{name}", content=b"x" if method == "PUT" else None)
        for method in ("PUT", "GET", "DELETE")
    ]

    assert {answer.status_code for answer in answers} <= {404, 422}
    assert (await rest.ok("GET", f"{files}/files"))["data"] == []


async def test_more_than_a_workspace_may_have_is_refused_and_nothing_of_it_is_kept(rest: Rest, files: str) -> None:
    async def endless() -> AsyncIterator[bytes]:
        for _ in range(5):
            yield bytes(1_000_000)

    large = await rest("PUT", f"{files}/files/large", content=endless())
    for name in "abc":
        await rest.ok("PUT", f"{files}/files/{name}", content=b"x")
    many = await rest("PUT", f"{files}/files/d", content=b"x")

    assert (large.status_code, large.json()["code"]) == (413, "too_large")
    assert (many.status_code, many.json()["code"]) == (422, "workspace_error")
    assert [item["name"] for item in (await rest.ok("GET", f"{files}/files"))["data"]] == ["a", "b", "c"]


async def test_another_tenant_finds_no_thread_and_a_viewer_puts_nothing_into_it(rest: Rest, files: str) -> None:
    await rest.ok("PUT", f"{files}/files/a", content=b"secret")
    calls = [("GET", "/files"), ("GET", "/files/a"), ("GET", "/archive"), ("GET", "/file-versions")]
    changes = [("PUT", "/files/a"), ("DELETE", "/files/a")]

    foreign = [await rest(method, files + path, STRANGER) for method, path in calls + changes]
    small = [await rest(method, files + path, "viewer") for method, path in changes]

    assert {answer.status_code for answer in foreign} == {404}
    assert {answer.status_code for answer in small} == {403}
    assert (await rest("GET", f"{files}/files/a")).content == b"secret"


async def test_a_key_is_asked_for_before_anything_is_taken_in(rest: Rest, files: str) -> None:
    assert (await rest("PUT", f"{files}/files/a", None, content=b"x")).status_code == 401
    assert STRICT.anonymous is False
