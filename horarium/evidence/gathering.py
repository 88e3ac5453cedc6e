"""What the evidence of a run says, from the ledger's rows.

Texts that a digest was made of are given as they are stored. What was said in the thread by earlier runs is given by
its digest: it is evidence of theirs. Secrets that this process knows are taken out once more.
"""

from __future__ import annotations

import asyncio
import base64
from collections.abc import Iterable
from datetime import UTC, datetime

from horarium.content import clean_json, digest_text
from horarium.errors import Conflict
from horarium.ids import step_id
from horarium.ledger.audit import AuditTrail
from horarium.ledger.database import Ledger
from horarium.ledger.evidence import Row, RunEvidence, RunRows
from horarium.ledger.threads import ThreadMessage
from horarium.proof import Key
from horarium.secrets import redact
from horarium.tools import ToolSpec

MOST_RUNS = 200  # in one file, sub-agents' included
MOST_BYTES = 64 * 1024 * 1024  # of whole outputs in one file
_DONE = {"pending": "planned", "claimed": "sent", "completed": "confirmed", "unknown": "unknown", "failed": "failed"}
_USAGE = ("input_tokens", "output_tokens", "cost_micro_usd")
_RUN = (
    *("tenant", "agent", "version", "status", "reason", "message", "requested_by", "key", "request_digest"),
    *("resume_from", "tick", "parent_run", "parent_step", "path", "metadata", "turns", "steps", *_USAGE),
    *("created_at", "opened_at", "closed_at"),
)
_STEP = (
    *("number", "kind", "name", "status", "effect", "attempts", "failures", "permit", "call_id", "input_digest"),
    *("arguments", "output", "output_bytes", "output_blob", "changes", "code", "message", "note", "by", "model"),
    *(*_USAGE, "claimed_at", "settled_at"),
)
_TICK = (
    *("id", "routine", "trigger", "source", "scheduled_at", "status", "reason", "message", "input", "attempts"),
    *("run_id", "definition", "event", "started_at", "closed_at"),
)


class TooLarge(Conflict):
    """The evidence of a run does not fit into one file."""

    code = "evidence_too_large"


async def gathered(ledger: Ledger, run: str, *, tenant: str, whole: bool = False, keys: Iterable[Key] = ()) -> Row:
    """The body: the run, the runs of its sub-agents inside of it, the public keys that proofs name, and the chain.

    Args:
        whole: Outputs that were cut for the model are given as they are kept.
        keys: Approver keys of the project; of those that are named, the public part is given.

    Raises:
        RunNotFound: There is none, or it is another tenant's.
        TooLarge: It has too many runs below it, or its outputs are too large to be given whole.
    """
    gathering = _Gathering(ledger, tenant, whole=whole)
    found = await gathering.run(run)
    head = await AuditTrail(ledger).head()
    public = [key.only_public().model_dump(mode="json", exclude={"private"}) for key in keys]
    named = [key for key in public if key["id"] in gathering.keys]
    body = {"run": found, "keys": named, "chain": {"seq": head.seq, "hash": head.hash}}
    cleaned: Row = await asyncio.to_thread(clean_json, body)
    return cleaned


class _Gathering:
    def __init__(self, ledger: Ledger, tenant: str, *, whole: bool) -> None:
        self._ledger = ledger
        self._tenant = tenant
        self._whole = whole
        self._runs = 0
        self._bytes = 0
        self.keys: set[str] = set()

    async def run(self, run_id: str) -> Row:
        self._runs += 1
        if self._runs > MOST_RUNS:
            raise TooLarge(
                f"More than {MOST_RUNS} runs are below it.", hint="Export the runs of its sub-agents one by one."
            )
        rows = await RunEvidence(self._ledger).of_run(run_id, tenant=self._tenant)
        self.keys |= {
            entry.data["key"] for entry in rows.audit if isinstance(entry.data, dict) and entry.data.get("key")
        }
        steps = [await self._step(row) for row in rows.steps]
        return {
            "id": run_id,
            "thread": rows.run["thread_id"],
            **_picked(rows.run, _RUN),
            "input": next((one.text for one in rows.messages if one.run_id == run_id and one.role == "user"), None),
            "statuses": [_picked(row, ("seq", "status", "at")) for row in rows.statuses],
            "definition": _pinned(rows.agent),
            "toolset": _pinned(rows.toolset),
            "tools": [_tool(row) for row in rows.tools],
            "messages": [_message(one, run_id) for one in rows.messages],
            "steps": steps,
            "approvals": [_approval(row, rows) for row in rows.approvals],
            "grants": [_plain(row) for row in rows.grants],
            "memories": [_picked(row, ("memory_id", "version", "step")) for row in rows.memories],
            "workspace": [_version(row, rows) for row in rows.versions],
            "routine_tick": _picked(rows.tick, _TICK) if rows.tick is not None else None,
            "audit": [entry.json() for entry in rows.audit],
            "audit_upto": rows.audit_upto,
            "sub_runs": [await self.run(child) for child in rows.children],
        }

    async def _step(self, row: Row) -> Row:
        found = _picked(row, _STEP) | {
            "id": step_id(row["run_id"], row["number"]),
            "idempotency_key": row["key"],
            "effect_state": effect_state(row["kind"], row["effect"], row["status"]),
            "untrusted": bool(row["untrusted"]),
        }
        if not self._whole or row["output_blob"] is None:
            return found
        self._bytes += row["output_bytes"] or 0
        if self._bytes > MOST_BYTES:
            raise TooLarge(
                f"Its outputs together have more than {MOST_BYTES:,} bytes.", hint="Export it without whole outputs."
            )
        try:
            data = await self._ledger.blobs.get(row["output_blob"])
        except FileNotFoundError:
            return found
        text = data.decode("utf-8", "replace")
        # In base64 a secret would not be seen: what holds one that is known by now is given as it was shown, cut.
        return found if redact(text) != text else found | {"output_whole": base64.b64encode(data).decode("ascii")}


def effect_state(kind: str, effect: str, status: str) -> str | None:
    """How far the effect of a call came: planned, sent, confirmed, unknown, failed, none; None when it has none."""
    if kind not in ("tool_call", "handoff") or effect == "read":
        return None
    return _DONE.get(status, "none")


def _picked(row: Row, names: Iterable[str]) -> Row:
    return _plain({name: row[name] for name in names})


def _plain(row: Row) -> Row:
    return {name: _moment(value) if isinstance(value, datetime) else value for name, value in row.items()}


def _moment(value: datetime) -> str:
    return value.astimezone(UTC).isoformat(timespec="microseconds")


def _pinned(row: Row | None) -> Row | None:
    return {"digest": row["digest"], "definition": row["definition"]} if row is not None else None


def _tool(row: Row) -> Row:
    """A tool as the catalogue has it today: without a pinned toolset nothing says that it was the same then."""
    spec = ToolSpec.model_validate(row["spec"])
    return {"name": spec.name, "parameters": spec.parameters, "schema_digest": spec.schema_digest}


def _message(one: ThreadMessage, run: str) -> Row:
    said = {
        "seq": one.seq,
        "role": one.role,
        "run": one.run_id,
        "step": one.step,
        "call_id": one.call_id,
        "author": one.author,
        "created_at": _moment(one.created_at),
    }
    content = one.text if one.step is None else one.output
    if one.run_id == run:
        return said | ({"text": content} if one.step is None else {})
    return said | {"digest": digest_text(content) if content is not None else None}


def _approval(row: Row, rows: RunRows) -> Row:
    return _plain(row) | {
        "guards": step_id(row["run_id"], row["guards"]),
        "votes": [_plain(vote) for vote in rows.votes if vote["approval_id"] == row["id"]],
        "edits": [_plain(edit) for edit in rows.edits if edit["approval_id"] == row["id"]],
    }


def _version(row: Row, rows: RunRows) -> Row:
    number = row["version"]
    shown = ("path", "size", "digest")
    made = [{name: file[name] for name in shown} for file in rows.files if file["since"] == number]
    paths = {file["path"] for file in made}
    gone = [file["path"] for file in rows.files if file["until"] == number and file["path"] not in paths]
    return _picked(row, ("version", "step", "files", "bytes", "note", "created_at")) | {"changed": made, "gone": gone}
