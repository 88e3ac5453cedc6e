"""Runs of sub-agents on the command line: hidden in lists, shown as a tree, and asked for in one inbox."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from horarium.content import canonical
from horarium.contract import RunRequest, Usage
from horarium.ids import sub_run_id
from horarium.ledger.approvals import Approvals, Asking
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepClaim
from horarium.ledger.runs import Runs
from horarium.protocol import ApprovalRequest, Call
from horarium.settings import Settings
from horarium.tools import Effect
from tests.cli.conftest import Horarium

CHIEF = "run_01JD8CHIEF0000000000000000"
RESEARCHER = sub_run_id(f"{CHIEF}/0002", 0)
CLERK = sub_run_id(f"{RESEARCHER}/0002", 0)
SCOUT = sub_run_id(f"{CHIEF}/0003", 0)
ASKED = "apr_7XK20000000000000000000000"
pytestmark = pytest.mark.usefixtures("tree")


@pytest.fixture
def tree(project: Path) -> None:
    asyncio.run(_fill(Settings.load(project)))


async def _fill(settings: Settings) -> None:
    ledger = await Ledger.open(settings)
    try:
        runs = Runs(ledger)
        chief = await runs.create(
            CHIEF, RunRequest(agent="chief", input="Go.", requested_by="dora"), key=None, request_digest="sha256:00"
        )
        await runs.open(CHIEF, chief.thread_id, RunRequest(agent="chief", input="Go."), 1)
        await _below(ledger, CHIEF, 2, RESEARCHER, "researcher")
        await _below(ledger, CHIEF, 3, SCOUT, "scout")
        await _below(ledger, RESEARCHER, 2, CLERK, "clerk")
        usage = Usage(input_tokens=1200, output_tokens=34)
        await runs.close(SCOUT, "completed", reason=None, message=None, turns=1, steps=1, usage=usage)
        call = Call(id="c1", tool="pay", digest="sha256:aa", key="k", source=f"{CLERK}/0001", effect=Effect.EXTERNAL)
        asking = Asking(ApprovalRequest(id=ASKED, number=2, guards=3, call=call), canonical({"amount": 7}))
        await Approvals(ledger).ask(CLERK, "default", "clerk", [asking], datetime.now(UTC))
        for run in (CHIEF, RESEARCHER, CLERK):
            await runs.mark(run, "requires_action")
    finally:
        await ledger.close()


async def _below(ledger: Ledger, parent: str, step: int, run: str, agent: str) -> None:
    runs = Runs(ledger)
    await Journal(ledger).claim(StepClaim(parent, step, "handoff", agent, Effect.READ))
    request = RunRequest(agent=agent, requested_by="dora", parent=f"{parent}/{step:04d}")
    record = await runs.create_below(run, request, "See to it.", parent=await runs.get(parent), step=step)
    await runs.open(run, record.thread_id, request, 1)


def test_a_list_of_runs_has_those_that_somebody_started_and_with_all_the_others_with_their_path(
    horarium: Horarium,
) -> None:
    assert horarium("runs", "list", "-q").stdout.split() == [CHIEF]

    everything = horarium("runs", "list", "--all").stdout

    assert "chief > researcher > clerk@1" in everything
    assert len(everything.splitlines()) == 5


def test_a_run_is_shown_with_its_sub_agents_as_a_tree_and_the_commands_that_answer(horarium: Horarium) -> None:
    shown = horarium("runs", "show", CHIEF).stdout

    tree = shown[shown.index("Sub-agents") :].splitlines()[1:5]
    assert [line.partition("  run_")[0] for line in tree] == [
        "  #2  researcher  waiting for a person",
        "      #2  clerk  waiting for a person",
        f"          waits for: Approve or reject pay. ({ASKED})",
        "  #3  scout  completed",
    ]
    assert f"horarium approvals approve {ASKED} --by " in shown
    assert '"amount": 7' in shown


def test_a_sub_agents_run_says_who_handed_it_its_task(horarium: Horarium) -> None:
    assert f"{RESEARCHER}/0002, as chief > researcher > clerk" in horarium("runs", "show", CLERK).stdout


def test_a_tree_as_json_has_each_run_with_what_it_waits_for(horarium: Horarium) -> None:
    shown = json.loads(horarium("runs", "show", CHIEF, "--json").stdout)

    researcher, scout = shown["sub_runs"]
    (clerk,) = researcher["sub_runs"]
    assert (clerk["run"]["parent"], clerk["run"]["path"]) == (f"{RESEARCHER}/0002", ["chief", "researcher", "clerk"])
    assert clerk["waiting_for"][0]["question"] == ASKED
    assert scout["run"]["usage"]["input_tokens"] == 1200
    waits = shown["waiting_for"][0]
    assert (waits["kind"], waits["id"], waits["question"]) == ("sub_agent", CLERK, ASKED)
    assert waits["text"] == "researcher: clerk: Approve or reject pay."


def test_the_inbox_shows_the_path_of_who_asks(horarium: Horarium) -> None:
    assert "path      chief > researcher > clerk" in horarium("approvals", "list").stdout
    assert json.loads(horarium("approvals", "show", ASKED, "--json").stdout)["path"] == "chief > researcher > clerk"
