"""Pages about the audit trail: who did what, whether the chain is whole, and a copy of it."""

from __future__ import annotations

import json
from collections.abc import AsyncIterator, Mapping
from datetime import UTC, date, datetime, time, timedelta
from typing import Annotated, Any, get_args
from urllib.parse import urlencode

from fastapi import Query, Request
from fastapi.responses import StreamingResponse
from starlette.responses import Response

from horarium.errors import ConfigError
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import HEADERS, page, said
from horarium.gateway.console.routing import pages
from horarium.gateway.console.words import count
from horarium.gateway.context import Admin, TheClient, Viewer
from horarium.gateway.v1 import audit as v1
from horarium.gateway.v1.fields import page_end
from horarium.gateway.v1.paging import Cursor, cursor_of, read_cursor
from horarium.ledger.audit import AuditKind, AuditRecord, AuditTrail

ON_A_PAGE = 50
KINDS = tuple(sorted(get_args(AuditKind)))
DIGEST = "sha256:"  # of content: it tells a person nothing

router = pages()
Words = Annotated[str, Query(max_length=200)]


@router.get("/system/audit")
async def list_page(
    request: Request,
    client: TheClient,
    caller: Viewer,
    kind: Words = "",
    subject: Words = "",
    run: Words = "",
    by: Words = "",
    first: Words = "",
    last: Words = "",
    cursor: Cursor = None,
) -> Response:
    """The tenant's entries, the newest first; `first` and `last` are days of UTC."""
    before = read_cursor(cursor, int)
    of_kind = next((one for one in KINDS if one == kind), None)
    until = _day(last)
    found = await AuditTrail(client.require_ledger()).latest(
        tenant=caller.tenant,
        before=before[0] if before else None,
        kind=of_kind,
        run=run.strip() or None,
        subject=subject.strip() or None,
        by=by.strip() or None,
        since=_day(first),
        until=until + timedelta(days=1) if until else None,
        limit=ON_A_PAGE + 1,
    )
    shown, end = page_end(found, ON_A_PAGE, lambda item: cursor_of(item.seq))
    filters = {"kind": of_kind or "", "subject": subject, "run": run, "by": by, "first": first, "last": last}
    asked = {name: value for name, value in filters.items() if value}
    return page(
        request,
        "audit.html",
        title="Audit",
        entries=[(entry, by_of(entry), words_of(entry.data), place_of(entry)) for entry in shown],
        kinds=KINDS,
        filters=filters,
        is_filtered=bool(asked),
        next=f"/system/audit?{urlencode({**asked, 'cursor': end})}" if end else None,
    )


def _day(text: str) -> datetime | None:
    if not text.strip():
        return None
    try:
        return datetime.combine(date.fromisoformat(text.strip()), time(), UTC)
    except ValueError as error:
        raise ConfigError(f"{text[:40]!r} is no day.", hint="Write it like 2026-12-01.") from error


def by_of(entry: AuditRecord) -> str:
    """Who did it, as far as the entry says."""
    said_by = entry.data.get("by") if isinstance(entry.data, Mapping) else None
    return str(said_by) if said_by is not None else ""


def words_of(data: Any) -> str:
    """What an entry tells besides who did it."""
    told = data if isinstance(data, Mapping) else {"data": data}
    parts = [
        f"{name.replace('_', ' ')}: {_value(name, value)}"
        for name, value in told.items()
        if value not in (None, "", {}, []) and name not in ("by", "proof") and not str(value).startswith(DIGEST)
    ]
    return "; ".join(parts)


def _value(name: str, value: Any) -> str:
    if name == "step" and isinstance(value, str):
        return value.rpartition("/")[2].lstrip("0")  # the run is beside it
    return value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)


def place_of(entry: AuditRecord) -> str | None:
    """The page of what an entry is about, when there is one."""
    subject, family = entry.subject or "", entry.kind.partition(".")[0]
    if family == "routine" and subject:
        return f"/routines/{subject}"
    if subject.startswith("mem_") and entry.kind != "memory.deleted":
        return f"/memory/{subject}"
    if family == "toolbox" and subject:
        return f"/agents/toolboxes/{subject}"
    if subject.startswith("apr_") and family in ("approval", "decision"):
        return f"/inbox/{subject}"
    return None


@router.post("/system/audit/verify")
async def verify(request: Request, client: TheClient, caller: Admin, form: TheForm) -> Response:
    """Whether every entry is as it was written, and none is missing."""
    report = await v1.audit_verify(client, caller, _hash(form, "head"), _hash(form, "anchor"))
    entries = count(report.entries, "entry", "entries")
    if report.problem is None:
        hint = f"It ends with {report.head}. Keep this elsewhere: with it a cut chain is found."
        return said(request, f"The chain is whole: {entries}.", back="/system/audit", hint=hint)
    text = f"The chain is broken after {entries}: {report.problem.message}"
    return said(request, text, back="/system/audit", tone="bad", hint="Export it, and keep a copy of the database.")


def _hash(form: TheForm, name: str) -> str | None:
    value = (form.get(name) or "").strip()
    if not value:
        return None
    digits = value.removeprefix("sha256:")
    if len(digits) != 64 or not set(digits) <= set("0123456789abcdef"):
        raise ConfigError("That is no hash of an entry.", hint="It is written like sha256:3f0c…, as a check says it.")
    return f"sha256:{digits}"


@router.get("/system/audit/export")
async def export(request: Request, client: TheClient, caller: Viewer) -> Response:
    """The tenant's entries as JSON Lines, the oldest first."""

    async def lines() -> AsyncIterator[str]:
        async for line in AuditTrail(client.require_ledger()).export(tenant=caller.tenant):
            yield f"{line}\n"

    headers = {**HEADERS, "Content-Disposition": 'attachment; filename="audit.jsonl"'}
    return StreamingResponse(lines(), media_type="application/x-ndjson", headers=headers)
