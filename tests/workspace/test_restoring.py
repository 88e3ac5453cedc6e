"""Any tree comes back as it was, from any other that was there before; an archive of it has the same files."""

from __future__ import annotations

import asyncio
import io
import os
import shutil
import stat
import tarfile
import tempfile
import tracemalloc
import zipfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horarium.errors import WorkspaceError
from horarium.ledger.blobs import Blobs
from horarium.workspaces.copies import Copy
from horarium.workspaces.manifest import Limits, difference, directories_of
from horarium.workspaces.packing import packed
from tests.workspace.hosts import tree

LIMITS = Limits()
PARTS = st.sampled_from(["a", "b", "c", "ä", "…", "with space", ".hidden", "x" * 100])
NAMES = st.lists(PARTS, min_size=1, max_size=4).map("/".join)
FILES = st.tuples(st.sampled_from([b"", b"one", b"two", b"\x00" * 3, bytes(70_000)]), st.booleans())


def possible(files: dict[str, tuple[bytes, bool]]) -> dict[str, tuple[bytes, bool]]:
    """Without those that would be a directory as well."""
    directories = {above for name in files for above in directories_of(name)}
    return {name: content for name, content in files.items() if name not in directories}


TREES = st.dictionaries(NAMES, FILES, max_size=8).map(possible)


def write(directory: Path, files: dict[str, tuple[bytes, bool]]) -> None:
    """Make the directory hold these files alone."""
    for path in list(directory.iterdir()):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    for name, (content, executable) in files.items():
        path = directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content)
        path.chmod(0o755 if executable else 0o644)


def seen(directory: Path) -> dict[str, tuple[bytes, bool]]:
    """What it holds."""
    return {
        name: (content, bool((directory / name).stat().st_mode & stat.S_IXUSR))
        for name, content in tree(directory).items()
    }


@settings(max_examples=30, deadline=None)
@given(trees=st.lists(TREES, min_size=1, max_size=4), left=TREES)
def test_each_of_a_row_of_trees_comes_back_whatever_was_left_there(
    trees: list[dict[str, tuple[bytes, bool]]], left: dict[str, tuple[bytes, bool]]
):
    with tempfile.TemporaryDirectory() as base:
        contents = Blobs(f"file://{base}/blobs")
        here, there = Copy.make(Path(base) / "here"), Copy.make(Path(base) / "there")
        manifests = []
        before: dict[str, object] = {}
        for files in trees:
            write(here.directory, files)
            found = here.look(LIMITS).files
            changed, gone = difference(before, found)  # type: ignore[arg-type]
            here.store(changed, contents)
            before = {**{name: entry for name, entry in before.items() if name not in gone}, **changed}
            assert before == found
            manifests.append(found)
        write(there.directory, left)

        for files, manifest in [*zip(trees, manifests, strict=True), (trees[0], manifests[0])]:
            there.restore(manifest, contents, LIMITS)
            assert seen(there.directory) == files
            needed = {above for name in files for above in directories_of(name)}
            assert {path.relative_to(there.directory).as_posix() for path in there.directory.rglob("*/")} == needed
            there.look(LIMITS)

        for files, manifest in zip(trees, manifests, strict=True):
            assert unzipped(b"".join(packed(manifest, contents, "zip"))) == files
            assert untarred(b"".join(packed(manifest, contents, "tar"))) == files
        for copy in (here, there):
            copy.discard()


def unzipped(archive: bytes) -> dict[str, tuple[bytes, bool]]:
    with zipfile.ZipFile(io.BytesIO(archive)) as opened:
        assert opened.testzip() is None
        return {
            info.filename: (opened.read(info), bool(info.external_attr >> 16 & 0o100)) for info in opened.infolist()
        }


def untarred(archive: bytes) -> dict[str, tuple[bytes, bool]]:
    found = {}
    with tarfile.open(fileobj=io.BytesIO(archive), mode="r:") as opened:
        for info in opened:
            file = opened.extractfile(info)
            assert file is not None
            found[info.name] = (file.read(), bool(info.mode & 0o100))
    return found


def test_a_large_file_is_stored_and_fetched_in_pieces(tmp_path: Path):
    """Of what is read and written at once there is never more than a few megabytes."""
    contents = Blobs(f"file://{tmp_path}/blobs")
    here, there = Copy.make(tmp_path / "here"), Copy.make(tmp_path / "there")
    with (here.directory / "large").open("wb") as file:
        for number in range(64):
            file.write(bytes([number]) * (1 << 20))

    tracemalloc.start()
    manifest = here.look(LIMITS).files
    here.store(manifest, contents)
    there.restore(manifest, contents, LIMITS)
    size = sum(len(piece) for piece in packed(manifest, contents, "tar"))
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()

    assert (there.directory / "large").stat().st_size == 64 << 20
    assert size > 64 << 20
    assert most < 16 << 20


def test_a_hundred_thousand_files_are_refused_and_leave_nothing(tmp_path: Path):
    copy = Copy.make(tmp_path / "thread")
    for number in range(100_000):
        os.close(os.open(f"{copy.directory}/{number}", os.O_CREAT | os.O_WRONLY))

    with pytest.raises(WorkspaceError, match="10,000 files"):
        copy.look(LIMITS)
    copy.discard()

    assert list((tmp_path / "thread").iterdir()) == []


async def test_a_copy_is_taken_by_one_at_a_time(tmp_path: Path):
    first = Copy.make(tmp_path / "thread")

    assert await asyncio.to_thread(Copy.take, first.home, None) is None
    first.free()
    again = Copy.take(first.home, first.known)

    assert again is not None
    again.discard()
    assert not first.home.exists()
    assert Copy.take(first.home, None) is None
