"""The console's script, styles and icon. Their names carry a digest, so that browsers keep them until they change."""

from __future__ import annotations

import hashlib
from functools import cache
from importlib import resources

from fastapi import APIRouter
from starlette.requests import Request
from starlette.responses import Response

KINDS = {"css": "text/css", "js": "text/javascript", "svg": "image/svg+xml"}
router = APIRouter(include_in_schema=False)


@cache
def _files() -> dict[str, bytes]:
    folder = resources.files("horarium.gateway.console") / "static"
    return {file.name: file.read_bytes() for file in folder.iterdir() if file.name.rpartition(".")[2] in KINDS}


@cache
def static(name: str) -> str:
    """Where a browser gets a file of ours."""
    return f"/static/{hashlib.sha256(_files()[name]).hexdigest()[:12]}/{name}"


@router.get("/static/{digest}/{name}")
async def file(request: Request, digest: str, name: str) -> Response:
    """One file."""
    if name not in _files():
        return Response(status_code=404)
    kept = static(name) == request.url.path
    headers = {
        "Cache-Control": "public, max-age=31536000, immutable" if kept else "no-store",
        "X-Content-Type-Options": "nosniff",
        "Cross-Origin-Resource-Policy": "same-origin",
    }
    return Response(_files()[name], media_type=KINDS[name.rpartition(".")[2]], headers=headers)
