"""No way out of a workspace: by names, links, archives or races."""

from __future__ import annotations

import ctypes
import os
import socket
import threading
from pathlib import Path

import pytest

from horarium.errors import WorkspaceError
from horarium.workspace import Workspace
from tests.workspace.conftest import SECRET

AT_FDCWD, RENAME_EXCHANGE = -100, 2
NO_NAMES = [
    "",
    ".",
    "/",
    "/etc/passwd",
    "//etc/passwd",
    "..",
    "../outside/secret",
    "a/../../outside/secret",
    "a/..",
    "./../outside/secret",
    "nul\x00.txt",
    "line\nfeed",
    "..\\outside\\secret",
    "a\\b",
    "C:",
    "C:/Windows/system.ini",
    "c:secret",
    "CON",
    "logs/nul",
    "half \ud800 of a pair",
    "x" * 256,
    "/".join(["d"] * 41),
    "/".join(["x" * 200] * 6),
]


@pytest.mark.parametrize("name", NO_NAMES)
def test_a_name_that_could_lead_out_is_refused_by_every_method(workspace: Workspace, outside: Path, name: str):
    for refused in (
        lambda: workspace.open(name),
        lambda: workspace.open(name, "w"),
        lambda: workspace.read_text(name),
        lambda: workspace.write_text(name, "x"),
        lambda: workspace.mkdir(name),
        lambda: workspace.remove(name),
        lambda: workspace.extract(name),
    ):
        with pytest.raises(WorkspaceError):
            refused()

    assert (outside / "secret").read_text() == SECRET
    assert workspace.list() == []


@pytest.mark.parametrize(
    "name", ["%2e%2e/x", "..%2fsecret", "...", "a..b", ".hidden", "~", "$HOME", "ＣＯＮ", "12:30.log"]
)
def test_what_only_looks_like_a_way_out_is_an_odd_name(workspace: Workspace, directory: Path, name: str):
    workspace.write_text(name, "here")

    assert workspace.read_text(name) == "here"
    assert workspace.list() == [name]
    assert (directory / name).read_text() == "here"


def test_a_link_at_the_end_is_not_followed(workspace: Workspace, directory: Path, outside: Path):
    (directory / "link").symlink_to(outside / "secret")

    for refused in (lambda: workspace.read_text("link"), lambda: workspace.write_text("link", "gone")):
        with pytest.raises(WorkspaceError, match="link"):
            refused()
    workspace.remove("link")

    assert (outside / "secret").read_text() == SECRET


def test_a_link_in_the_middle_is_not_followed(workspace: Workspace, directory: Path, outside: Path):
    (directory / "d").symlink_to(outside, target_is_directory=True)

    for refused in (
        lambda: workspace.read_text("d/secret"),
        lambda: workspace.write_text("d/new", "x"),
        lambda: workspace.mkdir("d/new"),
        lambda: workspace.remove("d/secret"),
    ):
        with pytest.raises(WorkspaceError, match="link"):
            refused()

    assert workspace.list() == []
    assert [path.name for path in outside.iterdir()] == ["secret"]


def test_a_link_to_the_process_itself_is_not_followed(workspace: Workspace, directory: Path, outside: Path):
    with (outside / "secret").open() as secret:
        (directory / "fd").symlink_to(f"/proc/self/fd/{secret.fileno()}")
        (directory / "self").symlink_to("/proc/self", target_is_directory=True)
        (directory / "up").symlink_to("/proc/self/cwd", target_is_directory=True)

        for name in ("fd", f"self/fd/{secret.fileno()}", "self/environ", "up/pyproject.toml"):
            with pytest.raises(WorkspaceError):
                workspace.read_text(name)


def test_a_hard_link_to_outside_is_not_written_to(workspace: Workspace, directory: Path, outside: Path):
    os.link(outside / "secret", directory / "mine")

    for mode in ("w", "a", "r+"):
        with pytest.raises(WorkspaceError, match="another name"):
            workspace.open("mine", mode)

    assert (outside / "secret").read_text() == SECRET


def test_a_pipe_a_socket_or_a_directory_is_no_file_and_does_not_keep_anybody_waiting(
    workspace: Workspace, directory: Path, monkeypatch: pytest.MonkeyPatch
):
    os.mkfifo(directory / "pipe")
    monkeypatch.chdir(directory)  # a socket's path is short
    with socket.socket(socket.AF_UNIX) as listening:
        listening.bind("socket")
    (directory / "d").mkdir()

    for name in ("pipe", "socket", "d"):
        for mode in ("r", "w"):
            with pytest.raises(WorkspaceError):
                workspace.open(name, mode)


def test_a_link_that_is_put_in_the_way_at_any_moment_is_never_followed(
    workspace: Workspace, directory: Path, outside: Path
):
    """Another thread swaps a directory and a link to outside as fast as it can, while files are read and written."""
    (directory / "d").mkdir()
    (directory / "d" / "secret").write_text("inside")
    (directory / "link").symlink_to(outside, target_is_directory=True)
    done = threading.Event()
    swaps = 0

    exchange = ctypes.CDLL(None, use_errno=True).renameat2
    names = (AT_FDCWD, bytes(directory / "d"), AT_FDCWD, bytes(directory / "link"), RENAME_EXCHANGE)

    def swap() -> None:
        nonlocal swaps
        while not done.is_set():
            assert exchange(*names) == 0
            swaps += 1

    swapper = threading.Thread(target=swap)
    swapper.start()
    read: set[str] = set()
    refused = 0
    try:
        for _ in range(3_000):
            try:
                read.add(workspace.read_text("d/secret"))
                with workspace.open("d/secret", "r+") as file:
                    file.write("inside")
            except WorkspaceError:
                refused += 1
    finally:
        done.set()
        swapper.join()

    assert swaps > 0
    assert refused > 0
    assert read == {"inside"}
    assert (outside / "secret").read_text() == SECRET


def test_removing_a_directory_removes_links_and_not_what_they_lead_to(
    workspace: Workspace, directory: Path, outside: Path
):
    (directory / "d" / "e").mkdir(parents=True)
    (directory / "d" / "e" / "link").symlink_to(outside, target_is_directory=True)

    workspace.remove("d")

    assert list(directory.iterdir()) == []
    assert (outside / "secret").read_text() == SECRET


def test_a_tree_of_a_thousand_directories_is_refused_when_looked_through_and_can_be_removed(
    workspace: Workspace, directory: Path
):
    here = os.open(directory, os.O_RDONLY)
    for _ in range(1_500):
        os.mkdir("d", dir_fd=here)
        deeper = os.open("d", os.O_RDONLY, dir_fd=here)
        os.close(here)
        here = deeper
    os.close(here)

    with pytest.raises(WorkspaceError, match="deep"):
        workspace.list()
    workspace.remove("d")

    assert list(directory.iterdir()) == []


def test_after_the_call_is_over_nothing_can_be_done_with_its_workspace(workspace: Workspace):
    workspace.write_text("a", "1")
    workspace.close()

    for refused in (lambda: workspace.read_text("a"), lambda: workspace.write_text("a", "2"), workspace.list):
        with pytest.raises(WorkspaceError, match="over"):
            refused()


def test_files_are_read_written_listed_and_removed_by_name(workspace: Workspace, directory: Path):
    workspace.write_text("reports/june.csv", "a,b\n")
    workspace.write_bytes("./reports//raw/june.bin", b"\x00\x01")
    with workspace.open("reports/june.csv", "a") as file:
        file.write("1,2\n")
    workspace.mkdir("empty/one")

    assert Path(workspace) == directory
    assert workspace.read_text("reports/june.csv") == "a,b\n1,2\n"
    assert workspace.list() == ["reports/june.csv", "reports/raw/june.bin"]
    assert workspace.list("reports/*") == ["reports/june.csv"]
    assert workspace.list("**/*.bin") == ["reports/raw/june.bin"]
    assert workspace.list("*.csv") == []
    with pytest.raises(WorkspaceError, match=r"no 'reports/may\.csv'"):
        workspace.read_text("reports/may.csv")
    with pytest.raises(WorkspaceError, match="already"):
        workspace.open("reports/june.csv", "x")
    workspace.remove("reports")
    assert workspace.list() == []


def test_a_pattern_of_a_model_cannot_take_for_ever(workspace: Workspace):
    workspace.write_text("/".join(["a"] * 30)[:200], "x")

    assert workspace.list("/".join(["**", "*a*"] * 20) + "/b") == []
    with pytest.raises(WorkspaceError):
        workspace.list("*" * 301)
