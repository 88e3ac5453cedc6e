"""A project whose ledger was filled through its own repositories, and the commands run on it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest
import typer
from click.testing import Result
from typer.testing import CliRunner

from horarium.cli import agents, approvals, runs, threads
from horarium.content import canonical
from horarium.contract import RunRequest, Usage
from horarium.definitions import Agent
from horarium.ids import approval_id, step_id
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import Approvals, Asking
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Answered, Held, Journal, StepClaim
from horarium.ledger.runs import Runs
from horarium.protocol import ApprovalRequest, Call
from horarium.settings import Settings
from horarium.tools import Effect
from horarium.turns import StoredTurn

DONE = "run_01AAAAAAAAAAAAAAAAAAAAAAAA"
WAITS = "run_01BBBBBBBBBBBBBBBBBBBBBBBB"
BROKEN = "run_01BCCCCCCCCCCCCCCCCCCCCCCC"
APPROVAL = approval_id(step_id(WAITS, 3))
ANSWER = "Two errors.\nThe disk is full."
ARGUMENTS = {"to": "bob\u202egnp.exe\u200b", "amount": 12}
DIGEST = "sha256:" + "ab" * 32

Horarium = Callable[..., Result]


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    # Nobody listens on port 1: whatever asks Temporal here is told so at once.
    (tmp_path / "horarium.toml").write_text('[temporal]\naddress = "127.0.0.1:1"\n')
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TZ", "UTC")
    for name in ("FORCE_COLOR", "HORARIUM_BY"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path


@pytest.fixture
def filled(project: Path) -> Path:
    asyncio.run(_fill(Settings.load(project)))
    return project


@pytest.fixture
def horarium() -> Horarium:
    app = typer.Typer(rich_markup_mode=None)
    app.command()(runs.run)
    app.add_typer(runs.app, name="runs")
    app.add_typer(agents.app, name="agents")
    app.add_typer(approvals.app, name="approvals")
    app.add_typer(threads.app, name="threads")
    runner = CliRunner()

    def invoke(*words: str, input: str | None = None) -> Result:
        result = runner.invoke(app, list(words), input=input)
        assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
        return result

    return invoke


async def _fill(settings: Settings) -> None:
    ledger = await Ledger.open(settings)
    try:
        await Agents(ledger).register(Agent("clerk", model="scripted:turns.yaml"))
        await _a_run_that_is_done(ledger)
        await _a_run_that_waits(ledger)
        await _a_run_that_failed(ledger)
    finally:
        await ledger.close()


async def _opened(ledger: Ledger, run: str) -> str:
    request = RunRequest(agent="clerk", input="Look at the log.", requested_by="ana")
    record = await Runs(ledger).create(run, request, key=None, request_digest="sha256:00")
    await Runs(ledger).open(run, record.thread_id, request, 1)
    return record.thread_id


async def _a_run_that_is_done(ledger: Ledger) -> None:
    thread, journal = await _opened(ledger, DONE), Journal(ledger)
    tool = await journal.claim(StepClaim(DONE, 1, "tool_call", "read_log", Effect.READ, arguments='{"lines":3}'))
    assert isinstance(tool, Held)
    await journal.settle(tool, "failed", "", code="tool_error", message="no \x1b[31msuch\u202e file")
    model = await journal.claim(StepClaim(DONE, 2, "model_call", "scripted:turns.yaml", Effect.IDEMPOTENT))
    assert isinstance(model, Held)
    usage = Usage(input_tokens=1200, output_tokens=34)
    append = [Answered("assistant", step=step_id(DONE, 2))]
    turn = StoredTurn(text=ANSWER).model_dump_json()
    await journal.settle(model, "completed", turn, usage=usage, thread=thread, append=append, keep=True)
    await Runs(ledger).close(DONE, "completed", reason=None, message=None, turns=1, steps=2, usage=usage)


async def _a_run_that_waits(ledger: Ledger) -> None:
    await _opened(ledger, WAITS)
    call = Call(id="c1", tool="pay", digest=DIGEST, key="k", source=step_id(WAITS, 1), effect=Effect.EXTERNAL)
    request = ApprovalRequest(id=APPROVAL, number=2, guards=3, call=call)
    await Approvals(ledger).ask(
        WAITS, "default", "clerk", [Asking(request=request, arguments=canonical(ARGUMENTS))], datetime.now(UTC)
    )
    await Runs(ledger).mark(WAITS, "requires_action")


async def _a_run_that_failed(ledger: Ledger) -> None:
    await _opened(ledger, BROKEN)
    await Runs(ledger).close(
        BROKEN, "incomplete", reason="max_turns", message="50 of 50.", turns=50, steps=0, usage=Usage()
    )
