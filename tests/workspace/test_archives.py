"""Archives: what is taken out of one stays inside, and is as large as a workspace may be."""

from __future__ import annotations

import gzip
import io
import stat
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

from horarium.errors import WorkspaceError
from horarium.workspace import Workspace
from horarium.workspaces.manifest import Limits
from tests.workspace.conftest import SECRET

SMALL = Limits(max_bytes=10_000, max_files=20, max_file_bytes=5_000)


def zipped(*members: tuple[str | zipfile.ZipInfo, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def tarred(*members: tuple[str, bytes], mode: str = "w", **attributes: object) -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode=mode) as archive:  # type: ignore[call-overload]
        for name, content in members:
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
        if attributes:
            info = tarfile.TarInfo(str(attributes.pop("name", "odd")))
            for attribute, value in attributes.items():
                setattr(info, attribute, value)
            archive.addfile(info)
    return out.getvalue()


@pytest.mark.parametrize("make", [zipped, tarred], ids=["zip", "tar"])
@pytest.mark.parametrize(
    "name", ["../outside/secret", "/etc/passwd", "a/../../x", "..\\outside\\secret", "C:\\x", "C:/x"]
)
def test_a_member_that_leads_out_keeps_the_whole_archive_out(
    workspace: Workspace, outside: Path, make: Callable[..., bytes], name: str
):
    with pytest.raises(WorkspaceError):
        workspace.extract(make(("good.txt", b"fine"), (name, b"bad")))

    assert workspace.list() == []
    assert (outside / "secret").read_text() == SECRET


@pytest.mark.parametrize(
    "attributes",
    [
        {"type": tarfile.SYMTYPE, "linkname": "../outside"},
        {"type": tarfile.LNKTYPE, "linkname": "../outside/secret"},
        {"type": tarfile.LNKTYPE, "linkname": "good.txt"},
        {"type": tarfile.CHRTYPE, "devmajor": 1, "devminor": 3},
        {"type": tarfile.BLKTYPE},
        {"type": tarfile.FIFOTYPE},
        {"type": tarfile.DIRTYPE, "name": "../up"},
    ],
    ids=lambda attributes: attributes["type"].decode(),
)
def test_a_tar_with_links_or_devices_is_refused(workspace: Workspace, attributes: dict[str, object]):
    with pytest.raises(WorkspaceError):
        workspace.extract(tarred(("good.txt", b"fine"), **attributes))

    assert workspace.list() == []


def test_a_link_in_a_zip_is_refused(workspace: Workspace):
    link = zipfile.ZipInfo("link")
    link.external_attr = (stat.S_IFLNK | 0o777) << 16

    with pytest.raises(WorkspaceError, match="no plain file"):
        workspace.extract(zipped((link, b"../outside/secret")))


def test_a_name_with_nul_in_a_zip_is_refused_and_not_cut(workspace: Workspace):
    archive = zipped(("good.txtX.exe", b"x")).replace(b"good.txtX.exe", b"good.txt\x00.exe")

    with pytest.raises(WorkspaceError):
        workspace.extract(archive)

    assert workspace.list() == []


def test_a_link_that_is_there_before_is_not_written_through(workspace: Workspace, directory: Path, outside: Path):
    (directory / "d").symlink_to(outside, target_is_directory=True)
    (directory / "f").symlink_to(outside / "secret")

    for name in ("d/secret", "f"):
        for archive in (zipped((name, b"bad")), tarred((name, b"bad"))):
            with pytest.raises(WorkspaceError):
                workspace.extract(archive)

    assert (outside / "secret").read_text() == SECRET


@pytest.mark.parametrize("mode", ["w", "w:gz", "w:bz2", "w:xz"])
def test_a_tar_is_taken_apart_however_it_is_compressed(workspace: Workspace, mode: str):
    content = bytes(range(256)) * 20
    workspace.write_bytes("in.tar", tarred(("a.txt", b"one"), ("d/b.bin", content), mode=mode))

    assert workspace.extract("in.tar", into="out") == ["out/a.txt", "out/d/b.bin"]

    assert workspace.read_text("out/a.txt") == "one"
    assert workspace.read_bytes("out/d/b.bin") == content


def test_a_zip_is_taken_apart_and_keeps_what_can_be_run(workspace: Workspace, directory: Path):
    program = zipfile.ZipInfo("bin/run")
    program.external_attr = (stat.S_IFREG | 0o755) << 16

    assert workspace.extract(zipped((program, b"#!"), ("notes/", b""), ("notes/a", b"x"))) == ["bin/run", "notes/a"]

    assert (directory / "bin" / "run").stat().st_mode & stat.S_IXUSR
    assert not (directory / "notes" / "a").stat().st_mode & stat.S_IXUSR


@pytest.mark.parametrize("make", [zipped, lambda *members: tarred(*members, mode="w:gz")], ids=["zip", "tar.gz"])
def test_a_bomb_is_refused_before_anything_is_written(directory: Path, make: Callable[..., bytes]):
    workspace = Workspace(directory, SMALL)
    too_large = make(("zeros", bytes(6_000)))
    too_much = make(*((f"{number}", bytes(4_000)) for number in range(3)))
    too_many = make(*((f"{number}", b"") for number in range(21)))

    for archive in (too_large, too_much, too_many):
        with pytest.raises(WorkspaceError):
            workspace.extract(archive)

    assert workspace.list() == []
    workspace.close()


def test_a_zip_that_lies_about_its_sizes_is_cut_off(directory: Path):
    workspace = Workspace(directory, SMALL)
    honest = zipped(("zeros", bytes(1_000_000)))
    lying = honest.replace((1_000_000).to_bytes(4, "little"), (100).to_bytes(4, "little"))
    assert lying != honest

    with pytest.raises(WorkspaceError):
        workspace.extract(lying)

    assert sum(path.stat().st_size for path in directory.iterdir()) <= SMALL.max_file_bytes
    workspace.close()


def test_a_tar_whose_header_claims_gigabytes_is_refused_before_they_are_read(workspace: Workspace):
    header = tarfile.TarInfo("pax")
    header.type = tarfile.XHDTYPE
    header.size = 8 << 30
    bomb = gzip.compress(header.tobuf(tarfile.GNU_FORMAT) + bytes(1 << 20))

    with pytest.raises(WorkspaceError, match="header"):
        workspace.extract(bomb)


@pytest.mark.parametrize("content", [b"", b"no archive", b"PK\x03\x04 broken", b"\x1f\x8b broken", b"BZh broken"])
def test_what_is_no_archive_is_refused_in_words(workspace: Workspace, content: bytes):
    with pytest.raises(WorkspaceError):
        workspace.extract(content)
