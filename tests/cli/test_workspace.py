"""`horarium workspace`: files of a thread from the command line, without Temporal."""

from __future__ import annotations

import asyncio
import json
import tarfile
from pathlib import Path

import pytest
from click.testing import Result
from typer.testing import CliRunner

from horarium.cli import workspace
from horarium.ledger.database import Ledger
from horarium.ledger.threads import Threads
from horarium.settings import Settings

THREAD = "thr_01AAAAAAAAAAAAAAAAAAAAAAAA"


def horarium(*words: str) -> Result:
    return CliRunner().invoke(workspace.app, list(words))


@pytest.fixture
def thread(project: Path) -> str:
    async def make() -> None:
        ledger = await Ledger.open(Settings.load(project))
        async with ledger.write() as connection:
            await Threads(ledger).ensure(connection, THREAD, "default")
        await ledger.close()

    asyncio.run(make())
    return THREAD


def test_files_are_put_listed_fetched_and_removed(project: Path, thread: str):
    (project / "prices.csv").write_text("a,1\n")

    put = horarium("put", thread, "prices.csv", "data/prices.csv", "--by", "ana")
    assert (put.exit_code, put.stdout) == (0, "data/prices.csv is in version 1.\n")
    assert horarium("put", thread, "prices.csv", "--by", "ana").exit_code == 0

    listed = [json.loads(line) for line in horarium("list", thread, "--json").stdout.splitlines()]
    assert [(file["name"], file["bytes"]) for file in listed] == [("data/prices.csv", 4), ("prices.csv", 4)]
    assert "data/prices.csv" in horarium("list", thread, "data/*").stdout
    assert horarium("get", thread, "data/prices.csv", "--to", "-").stdout == "a,1\n"
    assert horarium("get", thread, "--to", "all.tar").exit_code == 0
    with tarfile.open(project / "all.tar") as archive:
        assert archive.getnames() == ["data/prices.csv", "prices.csv"]

    assert horarium("delete", thread, "data", "--by", "ben").stdout == "data is not in version 3.\n"
    kept = [json.loads(line) for line in horarium("versions", thread, "--json").stdout.splitlines()]
    assert [(version["version"], version["by"], version["files"]) for version in kept] == [
        (3, "ben", 1),
        (2, "ana", 2),
        (1, "ana", 1),
    ]
    assert "ben" in horarium("versions", thread).stdout


def test_what_cannot_be_is_said_in_words_and_by_the_exit_code(project: Path, thread: str):
    (project / "a").write_text("x")

    for words, code, said in (
        (("list", "thr_none"), 2, "There is no thread"),
        (("get", thread, "nothing"), 2, "There is no file"),
        (("delete", thread, "nothing", "--by", "ana"), 2, "There is no file"),
        (("put", thread, "missing", "--by", "ana"), 2, "Cannot read"),
        (("put", thread, "a", "../a", "--by", "ana"), 1, "leads up"),
        (("list", thread, "--version", "7"), 2, "Version 7"),
    ):
        result = horarium(*words)
        assert (result.exit_code, said in result.stderr) == (code, True), (words, result.output)
    assert not (project / "nothing").exists()
    assert list(project.glob(".*.part")) == []


def test_a_thread_may_be_named_by_how_its_id_begins_and_what_is_missing_says_where_to_look(project: Path, thread: str):
    (project / "prices.csv").write_text("a,1\n")

    put = horarium("put", thread[:12], "prices.csv", "--by", "ana")
    no_thread, no_file = horarium("list", "thr_zz"), horarium("get", thread, "nix")

    assert put.stdout == "prices.csv is in version 1.\n"
    assert "See which there are: horarium threads list" in no_thread.stderr
    assert f"See which there are: horarium workspace list {thread}" in no_file.stderr
