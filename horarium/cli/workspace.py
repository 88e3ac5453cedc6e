"""`horarium workspace`: the files of a thread, by the ledger and the blob store, from wherever these are reached."""

from __future__ import annotations

import contextlib
import os
import secrets
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from typing import IO, Annotated, Any

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.reach import find_thread, opened_ledger
from horarium.errors import ConfigError
from horarium.ledger.workspaces import WorkspaceVersion
from horarium.settings import Settings
from horarium.workspace_client import ThreadFiles, WorkspaceFile

app = typer.Typer(no_args_is_help=True, help="See, fetch, put and remove the files of a thread.")

ThreadArgument = Annotated[str, typer.Argument(metavar="THREAD", help="A thread's id, or as much of it as is unique.")]
VersionOption = Annotated[
    int | None, typer.Option("--version", metavar="N", help="As it was at this version.", show_default="the latest")
]
ByOption = Annotated[
    str, typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who does it; kept with the version.")
]
JsonLinesOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command("list")
def list_(
    thread: ThreadArgument,
    pattern: Annotated[str, typer.Argument(metavar="[PATTERN]", help="Like reports/**; all, if left out.")] = "**",
    version: VersionOption = None,
    as_json: JsonLinesOption = False,
) -> None:
    """List the files of a thread.

    \b
    Exit codes: 0 done, 2 there is no such thread or version, 3 cannot reach the ledger.

    \b
    Examples:
      horarium workspace list thr_01JD8
      horarium workspace list thr_01JD8 "**/*.csv" --version 3
    """

    async def work() -> int:
        async with _files(thread) as (files, whole):
            found = await files.workspace_files(whole, pattern=pattern, version=version)
        if as_json:
            for file in found:
                talk.emit(_file_json(file))
        elif found:
            rows = [(words.one_line(file.name), f"{file.size:,}", file.digest[:19]) for file in found]
            talk.out().print(talk.table(("name", "bytes", "digest"), rows))
        else:
            talk.say("There are no files.")
        return talk.DONE

    talk.perform(work())


@app.command()
def versions(thread: ThreadArgument, as_json: JsonLinesOption = False) -> None:
    """List the versions that are kept, the latest first, and who made each.

    \b
    Exit codes: 0 done, 2 there is no such thread, 3 cannot reach the ledger.

    \b
    Example:
      horarium workspace versions thr_01JD8
    """

    async def work() -> int:
        async with _files(thread) as (files, whole):
            found = await files.workspace_versions(whole)
        if as_json:
            for version in found:
                talk.emit(_version_json(version))
        elif found:
            columns = ("version", "at", "files", "bytes", "by", "note")
            talk.out().print(talk.table(columns, [_row(version) for version in found], keep=("version", "at")))
        else:
            talk.say("Nothing was ever kept there.")
        return talk.DONE

    talk.perform(work())


@app.command()
def get(
    thread: ThreadArgument,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="One file; all of them, if left out.")] = None,
    to: Annotated[
        Path | None, typer.Option("--to", metavar="FILE", help="Where to; `-` is stdout.", show_default="its own name")
    ] = None,
    version: VersionOption = None,
) -> None:
    """Fetch a file; without its name, all of them as a zip archive, or as a tar archive if `--to` ends so.

    \b
    Exit codes: 0 done, 2 there is no such thread, version or file, 3 cannot reach the ledger.

    \b
    Examples:
      horarium workspace get thr_01JD8 reports/june.csv
      horarium workspace get thr_01JD8 --to all.tar
    """

    async def work() -> int:
        target = to or Path(Path(name).name if name is not None else f"{thread}.zip")
        async with _files(thread) as (files, whole):
            if name is not None:
                pieces = files.download_file(whole, name, version=version)
            else:
                packing = "tar" if target.suffix == ".tar" else "zip"
                pieces = files.download_workspace(whole, format=packing, version=version)  # type: ignore[arg-type]
            size = await _write(pieces, target)
        if target != Path("-"):
            talk.out().print(Text(f"{target}: {size:,} bytes"), soft_wrap=True)
        return talk.DONE

    talk.perform(work())


@app.command()
def put(
    thread: ThreadArgument,
    file: Annotated[Path, typer.Argument(metavar="FILE", help="A file here.")],
    by: ByOption,
    name: Annotated[str | None, typer.Argument(metavar="[NAME]", help="Its name there.")] = None,
) -> None:
    """Put a file into a thread's workspace; the next call that looks finds it.

    \b
    Exit codes: 0 done, 1 it does not fit, 2 there is no such thread or file, 3 cannot reach the ledger.

    \b
    Examples:
      horarium workspace put thr_01JD8 prices.csv --by ana
      horarium workspace put thr_01JD8 prices.csv data/prices.csv --by ana
    """

    async def work() -> int:
        async with _files(thread) as (files, whole):
            wanted = name or file.name
            try:
                executable = os.access(file, os.X_OK)
                version = await files.upload_file(whole, wanted, file, by=by, executable=executable)
            except OSError as error:
                raise ConfigError(f"Cannot read {str(file)!r}: {error.strerror or error}.") from error
        said = f"{wanted} is in version {version}." if version is not None else f"{wanted} was there like that."
        talk.out().print(Text(words.one_line(said)), soft_wrap=True)
        return talk.DONE

    talk.perform(work())


@app.command()
def delete(
    thread: ThreadArgument,
    name: Annotated[str, typer.Argument(metavar="NAME", help="A file, or a directory with all that is in it.")],
    by: ByOption,
) -> None:
    """Delete a file from a thread's workspace. Earlier versions still have it, as long as they are kept.

    \b
    Exit codes: 0 done, 2 there is no such thread or file, 3 cannot reach the ledger.

    \b
    Example:
      horarium workspace delete thr_01JD8 data/prices.csv --by ana
    """

    async def work() -> int:
        async with _files(thread) as (files, whole):
            version = await files.delete_file(whole, name, by=by)
        talk.out().print(Text(words.one_line(f"{name} is not in version {version}.")), soft_wrap=True)
        return talk.DONE

    talk.perform(work())


@contextlib.asynccontextmanager
async def _files(thread: str) -> AsyncIterator[tuple[ThreadFiles, str]]:
    """The files of threads, and the whole id of the one that was meant."""
    settings = Settings.load()
    async with opened_ledger(settings) as ledger:
        yield ThreadFiles(ledger, settings), (await find_thread(ledger, thread)).id


async def _write(pieces: AsyncIterator[bytes], target: Path) -> int:
    """Beside and moved into its place: what breaks off leaves no file that looks whole."""
    if target == Path("-"):
        return await _copy(pieces, sys.stdout.buffer)
    part = target.with_name(f".{target.name}.{secrets.token_hex(4)}.part")
    try:
        with part.open("xb") as file:
            size = await _copy(pieces, file)
        part.replace(target)
    except OSError as error:
        raise ConfigError(f"Cannot write {str(target)!r}: {error.strerror or error}.") from error
    finally:
        part.unlink(missing_ok=True)
    return size


async def _copy(pieces: AsyncIterator[bytes], file: IO[bytes]) -> int:
    size = 0
    async for piece in pieces:
        size += len(piece)
        file.write(piece)
    return size


def _file_json(file: WorkspaceFile) -> dict[str, Any]:
    return {"name": file.name, "bytes": file.size, "digest": file.digest, "executable": file.executable}


def _version_json(version: WorkspaceVersion) -> dict[str, Any]:
    return {
        "thread": version.thread_id,
        "version": version.version,
        "files": version.files,
        "bytes": version.bytes,
        "run": version.run_id,
        "step": version.step,
        "by": version.by,
        "note": version.note,
        "created_at": version.created_at.isoformat(),
    }


def _row(version: WorkspaceVersion) -> tuple[str, ...]:
    by = f"{version.run_id}/{version.step:04d}" if version.run_id is not None else version.by or ""
    return (
        str(version.version),
        words.when(version.created_at),
        f"{version.files:,}",
        f"{version.bytes:,}",
        words.one_line(by),
        words.one_line(version.note or ""),
    )
