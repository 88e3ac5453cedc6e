"""What the ledger gives as evidence, on both databases: files, deleted content, and whose it is."""

from __future__ import annotations

import json
from typing import Any

import pytest

from horarium.contract import Usage
from horarium.definitions import Agent
from horarium.errors import RunNotFound
from horarium.evidence.gathering import gathered
from horarium.evidence.keys import EvidenceKey, encoded
from horarium.evidence.sealing import seal
from horarium.evidence.sides import diff_runs
from horarium.evidence.verifying import verify
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal
from horarium.ledger.runs import Runs
from horarium.ledger.threads import Threads
from horarium.tools import Effect
from horarium.workspaces.manifest import Change, Entry
from tests.core.ledgers import held, open_run, step, thread_of

KEY = EvidenceKey(encoded(bytes(32)))
A, B = Entry(1, "sha256:" + "a" * 64, False), Entry(2, "sha256:" + "b" * 64, False)


async def worked(ledger: Ledger, change: dict[str, Any], *, tenant: str = "default", thread: str | None = None) -> str:
    """A run that has ended, with one step that wrote files."""
    run = await open_run(ledger, tenant=tenant, thread=thread)
    journal, thread = Journal(ledger), await thread_of(ledger, run)
    claimed = await held(journal, step(run, 1, Effect.IDEMPOTENT))
    await journal.settle(claimed, "completed", "x" * 20_000, change=Change(thread=thread, base=None, **change))
    await Runs(ledger).close(run, "completed", reason=None, message=None, turns=0, steps=1, usage=Usage())
    return run


async def evidence(ledger: Ledger, run: str, tenant: str = "default", *, whole: bool = False) -> dict[str, Any]:
    """The body, after it was sealed and verified."""
    body = await gathered(ledger, run, tenant=tenant, whole=whole)
    text = seal(body, {"at": "now"}, KEY)
    assert verify(text, pinned=[KEY.public]).wrong == []
    found: dict[str, Any] = json.loads(text)["body"]["run"]
    return found


async def test_files_are_in_it_by_their_digests_and_are_compared_as_they_were_then(ledger: Ledger) -> None:
    await Agents(ledger).register(Agent("clerk", model="scripted:lines"))
    first = await worked(ledger, {"set": {"notes.txt": A, "old.txt": A}})
    second = await worked(
        ledger, {"set": {"notes.txt": B}, "gone": frozenset({"old.txt"})}, thread=await thread_of(ledger, first)
    )

    (version,) = (await evidence(ledger, second))["workspace"]
    found = await diff_runs(ledger, first, second)

    assert (version["changed"], version["gone"]) == (
        [{"path": "notes.txt", "size": 2, "digest": B.digest}],
        ["old.txt"],
    )
    assert [(one.path, one.change) for one in found.files or ()] == [("notes.txt", "changed"), ("old.txt", "removed")]
    assert [pair.change for pair in found.steps] == ["same"]


async def test_what_earlier_runs_said_is_there_by_its_digest_alone(ledger: Ledger) -> None:
    first = await worked(ledger, {})
    second = await open_run(ledger, thread=await thread_of(ledger, first), input="And now?")

    found = await evidence(ledger, second)

    assert (found["input"], found["status"]) == ("And now?", "in_progress")
    assert [(one["run"] == second, one.get("text"), "digest" in one) for one in found["messages"]] == [
        (False, None, True),
        (True, "And now?", False),
    ]


async def test_another_tenants_run_is_not_there_and_a_deleted_thread_leaves_evidence_without_content(
    ledger: Ledger,
) -> None:
    run = await worked(ledger, {}, tenant="acme")
    whole = (await evidence(ledger, run, "acme", whole=True))["steps"][0]
    with pytest.raises(RunNotFound):
        await gathered(ledger, run, tenant="default")
    with pytest.raises(RunNotFound):
        await diff_runs(ledger, run, run, tenant="default")
    await Threads(ledger).delete(await thread_of(ledger, run), tenant="acme")

    (left,) = (await evidence(ledger, run, "acme"))["steps"]

    assert len(whole["output_whole"]) > 20_000
    assert (left["output"], left["arguments"], left["output_bytes"]) == (None, None, 20_000)
    assert (left["effect_state"], left["idempotency_key"]) == ("confirmed", f"horarium/{run}/1")
