"""The files of threads over REST: streamed both ways, never whole in memory.

What is downloaded was written by agents, so a browser is told to save it and to believe nothing about its kind.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from tempfile import SpooledTemporaryFile
from typing import Annotated, Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Path, Query, Request
from fastapi.responses import StreamingResponse
from pydantic import Field
from starlette.exceptions import HTTPException

from horarium.gateway.context import Operator, TheClient, TheSettings, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Answer, Time, page_end
from horarium.gateway.v1.paging import LARGEST, Cursor, Limit, Page, cursor_of, read_cursor

router = APIRouter(prefix="/v1/threads/{thread}", tags=["workspaces"])
ThreadId = Annotated[str, Path(min_length=1, max_length=200)]
FileName = Annotated[str, Path(min_length=1, max_length=1_000, description="With its directories: `reports/may.csv`.")]
AtVersion = Annotated[int | None, Query(ge=1, le=LARGEST, description="One that is kept. Without it, the latest.")]
IN_MEMORY = 1 << 20
_BINARY: dict[str, Any] = {"schema": {"type": "string", "format": "binary"}}


class File(Answer):
    """One file of a workspace."""

    name: str
    size: int = Field(description="Bytes.")
    digest: str = Field(description="Of its content: `sha256:…`.")
    executable: bool


class FileVersion(Answer):
    """One version of a workspace that is kept."""

    version: int
    files: int
    bytes: int
    run: str | None = Field(description="Whose step made it; null: a person did.")
    step: int | None
    by: str | None
    note: str | None
    created_at: Time


class FileVersions(Answer):
    """The versions that are kept, the latest first."""

    data: list[FileVersion]


class Changed(Answer):
    """The version that a change made; null: it was so before."""

    version: int | None


class _Download(StreamingResponse):
    """Bytes, whatever they are."""

    media_type = "application/octet-stream"


def _download_words(description: str, media_type: str) -> dict[int | str, dict[str, Any]]:
    return {200: {"description": description, "content": {media_type: _BINARY}}}


@router.get("/files", operation_id="files_list", summary="List files", responses=errors(404))
async def files_list(
    client: TheClient,
    caller: Viewer,
    thread: ThreadId,
    pattern: Annotated[str, Query(min_length=1, max_length=500, description="Like `reports/**/*.csv`.")] = "**",
    version: AtVersion = None,
    limit: Limit = 50,
    cursor: Cursor = None,
) -> Page[File]:
    """The files of a thread, by name."""
    after = read_cursor(cursor, str)
    files = await client.workspace_files(thread, pattern=pattern, version=version, tenant=caller.tenant)
    found = [item for item in files if after is None or item.name > after[0]]
    shown, end = page_end(found, limit, lambda item: cursor_of(item.name))
    return Page(data=[File.model_validate(item) for item in shown], next=end)


@router.get("/file-versions", operation_id="files_versions", summary="List versions", responses=errors(404))
async def files_versions(client: TheClient, caller: Viewer, thread: ThreadId) -> FileVersions:
    """The versions of a thread's files that are kept, the latest first, and who made each."""
    found = await client.workspace_versions(thread, tenant=caller.tenant)
    same = [name for name in FileVersion.model_fields if name != "run"]
    return FileVersions(
        data=[FileVersion(**{name: getattr(item, name) for name in same}, run=item.run_id) for item in found]
    )


@router.get(
    "/archive",
    operation_id="files_archive",
    summary="Download all",
    response_class=_Download,
    responses={**errors(404), **_download_words("A tar archive, compressed with gzip.", "application/gzip")},
)
async def files_archive(
    client: TheClient, caller: Viewer, thread: ThreadId, version: AtVersion = None
) -> StreamingResponse:
    """Every file of a thread, in one archive."""
    pieces = client.download_workspace(thread, format="tar.gz", version=version, tenant=caller.tenant)
    return await _downloaded(pieces, f"{thread}.tar.gz", "application/gzip")


@router.get(
    "/files/{name:path}",
    operation_id="files_download",
    summary="Download a file",
    response_class=_Download,
    responses={**errors(404), **_download_words("The file's content.", "application/octet-stream")},
)
async def files_download(
    client: TheClient, caller: Viewer, thread: ThreadId, name: FileName, version: AtVersion = None
) -> StreamingResponse:
    """One file."""
    pieces = client.download_file(thread, name, version=version, tenant=caller.tenant)
    return await _downloaded(pieces, name.rpartition("/")[2], "application/octet-stream")


@router.put(
    "/files/{name:path}",
    operation_id="files_upload",
    summary="Upload a file",
    responses=errors(404),
    # No body at all is a file with nothing in it.
    openapi_extra={"requestBody": {"required": False, "content": {"application/octet-stream": _BINARY}}},
)
async def files_upload(
    client: TheClient,
    settings: TheSettings,
    caller: Operator,
    request: Request,
    thread: ThreadId,
    name: FileName,
    executable: Annotated[bool, Query()] = False,
) -> Changed:
    """Put a file, in place of the one of this name if there is one. The body is its content.

    413: it is larger than a file may be. 422: its name leads out, or there would be more than a workspace may have.
    """
    await client.workspace_versions(thread, tenant=caller.tenant)  # before anything is taken in
    most = settings.workspaces.max_file_bytes
    with SpooledTemporaryFile(max_size=IN_MEMORY) as spool:
        size = 0
        async for piece in request.stream():
            size += len(piece)
            if size > most:
                raise HTTPException(413, f"A file has at most {most:,} bytes.")
            await anyio.to_thread.run_sync(spool.write, piece)
        spool.seek(0)
        version = await client.upload_file(
            thread, name, spool, by=caller.name, executable=executable, tenant=caller.tenant
        )
    return Changed(version=version)


@router.delete("/files/{name:path}", operation_id="files_delete", summary="Remove a file", responses=errors(404))
async def files_delete(client: TheClient, caller: Operator, thread: ThreadId, name: FileName) -> Changed:
    """Remove a file, or all below a directory; versions that are kept still have it."""
    return Changed(version=await client.delete_file(thread, name, by=caller.name, tenant=caller.tenant))


async def _downloaded(pieces: AsyncIterator[bytes], name: str, media_type: str) -> StreamingResponse:
    # What is not there is told before anything is sent: after that there is no other status.
    first = await anext(pieces, b"")

    async def whole() -> AsyncIterator[bytes]:
        yield first
        async for piece in pieces:
            yield piece

    headers = {
        "Content-Disposition": f"attachment; filename*=UTF-8''{quote(name, safe='', errors='replace')}",
        "X-Content-Type-Options": "nosniff",
        "Cache-Control": "private, no-store",
    }
    return StreamingResponse(whole(), media_type=media_type, headers=headers)
