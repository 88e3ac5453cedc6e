"""The gateway dies, or what is behind it does: a decision counts once or not at all, and whoever made it is told.

What a person sees meanwhile is a page in words, within seconds, with the form still on it.
"""

from __future__ import annotations

import asyncio
import contextlib
import re
import sqlite3
import sys
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from sqlalchemy import make_url, text, update
from temporalio.testing import WorkflowEnvironment

from horarium.client import Client, Run
from horarium.contract import Approval
from horarium.definitions import Agent
from horarium.gateway.serving import serving
from horarium.ids import new_run_id
from horarium.ledger import database
from horarium.ledger.agents import Agents
from horarium.ledger.database import Ledger
from horarium.ledger.schema import runs
from horarium.ledger.toolboxes import Toolboxes
from horarium.settings import GatewaySettings
from schedules.previews import preview
from tests.crash.rig import PATIENCE, completed, crash_stack
from tests.engine.conftest import World
from tests.gateway.conftest import of_gateway
from tests.gateway.streams import Event, events
from tests.gateway.test_kills import BANK
from tests.support.engine import Engine, asks, call, says
from tests.support.modes import execution as execution
from tests.support.modes import in_both_modes
from tests.support.stack import Stack, until
from workers.server import free_port

HURRIED = GatewaySettings(start_patience=timedelta(seconds=2))
WITHIN = 15.0  # seconds, for an answer in words on a busy machine
PAYER = Agent("payer", model="scripted:none", tools=["pay"])


@dataclass
class Person:
    """Somebody with a browser on this machine."""

    http: httpx2.AsyncClient

    async def token(self) -> str:
        """Of the forms of his session."""
        return _token((await self.http.get("/runs")).text)

    async def form(self, approval: Approval, **more: str) -> dict[str, str]:
        """What he sends from the page of a question."""
        page = await self.http.get(f"/inbox/{approval.id}")
        return {"token": _token(page.text), "digest": approval.digest, "verdict": "approve", **more}

    async def sends(self, path: str, form: dict[str, str]) -> httpx2.Response:
        """Send a form."""
        return await self.http.post(path, data=form, headers={"Origin": str(self.http.base_url).rstrip("/")})

    async def decides(self, approval: Approval, form: dict[str, str]) -> httpx2.Response:
        """Send the form of a question."""
        return await self.sends(f"/inbox/{approval.id}/decide", form)

    async def sees(self, answer: httpx2.Response) -> str:
        """What is in front of him after an answer."""
        page = await self.http.get(answer.headers["location"]) if answer.status_code == 303 else answer
        return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", page.text))


async def test_a_decision_that_nobody_can_take_is_answered_in_words_and_the_same_form_counts_once_later(
    tmp_path: Path,
) -> None:
    async with crash_stack(tmp_path) as (stack, book), _in_front(stack) as person:
        book.go()
        run, approval = await _asked(stack)
        form = await person.form(approval, comment="Within the budget.")
        stack.kill_worker()
        for _ in range(2):  # without a worker, then without Temporal as well
            began = time.monotonic()
            answer = await person.decides(approval, form)

            assert answer.status_code == 503
            assert time.monotonic() - began < WITHIN
            words = await person.sees(answer)
            assert "No engine worker has taken this up yet" in words
            assert "Within the budget." in answer.text
            looked = [await person.http.get(path) for path in ("/inbox", f"/runs/{run.id}", "/runs", "/routines")]
            assert [page.status_code for page in looked] == [200] * 4
            stack.kill_server()
        await stack.start_server()
        stack.start_worker()
        await stack.worker_ready()

        assert "pay is approved" in await person.sees(await person.decides(approval, form))
        await completed(run)
        assert "pay had been approved" in await person.sees(await person.decides(approval, form))
        other = await person.decides(approval, form | {"verdict": "reject"})

        assert other.status_code == 409
        assert "was approved by anonymous" in await person.sees(other)
        assert len(book.effects(run, "pay")) == 1


@in_both_modes
async def test_a_gateway_killed_in_mid_decision_leaves_one_effect_and_a_stream_that_goes_on(tmp_path: Path) -> None:
    seen: list[Event] = []
    async with crash_stack(tmp_path) as (stack, book):
        book.go()
        await Toolboxes(stack.client.require_ledger()).register(BANK)
        port = free_port()
        gateway = stack.spawn(_gateway(port), "gateway")
        run, approval = await _asked(stack)
        body = {"digest": approval.digest, "verdict": "approve"}
        async with httpx2.AsyncClient(base_url=f"http://127.0.0.1:{port}", timeout=20) as http:
            await until(lambda: _answers(http), "the gateway answers", gateway)
            watching = asyncio.create_task(_watch(http, run.id, seen))
            await until(lambda: len(seen) > 3, "the stream has begun", gateway)
            stack.kill_worker()  # so that the decision is on its way when the gateway dies
            deciding = asyncio.create_task(http.post(f"/v1/approvals/{approval.id}/decide", json=body))
            await asyncio.wait({deciding}, timeout=0.5)
            assert not deciding.done()
            gateway.kill()
            gateway.wait(10)
            await asyncio.wait({deciding, watching}, timeout=20)
            assert isinstance(deciding.exception(), httpx2.TransportError)
            stack.start_worker()
            gateway = stack.spawn(_gateway(port), "gateway")
            await stack.worker_ready()
            await until(lambda: _answers(http), "the next gateway answers", gateway)

            again = await http.post(f"/v1/approvals/{approval.id}/decide", json=body)
            await _watch(http, run.id, seen)
        gateway.kill()
        gateway.wait(10)

        assert (again.status_code, again.json()["approval"]["status"]) == (200, "approved"), again.text
        await completed(run)
        assert len(book.effects(run, "pay")) == 1
        told = [event for event in seen if event.kind != "text"]
        assert len({event.id for event in told}) == len(told)
        assert [event.data["status"] for event in told if event.kind == "status"][-1] == "completed"
        assert [event.kind for event in told].count("step.settled") == len(await run.steps())


@pytest.mark.parametrize("fault", ["locked", "full"])
async def test_a_ledger_that_cannot_be_written_is_said_in_words_and_the_same_again_is_one_run(
    env: WorkflowEnvironment, engine: Engine, fault: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "LOCK_PATIENCE", 0.3)
    await Agents(engine.ledger).register(PAYER)
    engine.model.lines[:] = [says("Done.")]
    ledger = await Ledger.open(engine.settings)
    client = Client(env.client, ledger, engine.settings)
    key, body = {"Idempotency-Key": new_run_id()}, {"agent": "payer", "input": "Go." * 50_000}
    settings = of_gateway(engine.settings, HURRIED)
    async with (
        serving(client, settings, host="127.0.0.1", port=0) as served,
        httpx2.AsyncClient(base_url=served.url, timeout=20) as http,
    ):
        person = Person(http)
        form = {"token": await person.token(), **body, "key": new_run_id()}
        async with _unwritable(engine.settings.ledger_url, ledger, fault):
            refused = await http.post("/v1/runs", json=body, headers=key)
            words = await person.sees(await person.sends("/runs/start", form))
            shown = [(await http.get(path)).status_code for path in ("/inbox", "/runs", "/v1/runs", "/agents/payer")]

        assert (refused.status_code, refused.json()["code"]) == (503, "unreachable")
        assert refused.headers["retry-after"] == "1"
        assert "The ledger does not answer." in words
        assert shown == [200] * 4
        started = [await http.post("/v1/runs", json=body, headers=key) for _ in range(2)]
        twice = await asyncio.gather(*(person.sends("/runs/start", form) for _ in range(2)))

    assert [answer.status_code for answer in started] == [201, 201]
    assert len({answer.json()["id"] for answer in started}) == 1
    assert len({answer.headers["location"] for answer in twice}) == 1
    begun = await engine.client.runs()
    assert len(begun) == 2
    for run in begun:
        await engine.finish(engine.client.run(run.id))
    await ledger.close()


async def test_a_form_that_is_sent_twice_at_once_is_one_decision(engine: Engine, world: World) -> None:
    run = await engine.start(PAYER, asks(call("pay", amount=5)), says("Paid."))
    approval = await run.next_approval(PATIENCE)
    settings = of_gateway(engine.settings, GatewaySettings())
    async with (
        serving(engine.client, settings, host="127.0.0.1", port=0) as served,
        httpx2.AsyncClient(base_url=served.url, timeout=20) as http,
    ):
        person = Person(http)
        form = await person.form(approval)

        answers = await asyncio.gather(*(person.decides(approval, form) for _ in range(3)))

    await engine.finish(run)
    assert [answer.status_code for answer in answers] == [303] * 3
    assert [amount for _, amount in world.effects] == ["5"]


async def test_whoever_has_a_clock_that_is_ahead_starts_runs_whose_steps_are_all_shown(engine: Engine) -> None:
    run = await engine.start(PAYER, says("Done."))
    await engine.finish(run)
    ahead = (await engine.client.run_record(run.id)).created_at + timedelta(minutes=2)
    async with engine.ledger.write() as connection:
        await connection.execute(update(runs).where(runs.c.id == run.id).values(created_at=ahead))
    settings = of_gateway(engine.settings, GatewaySettings())
    async with (
        serving(engine.client, settings, host="127.0.0.1", port=0) as served,
        httpx2.AsyncClient(base_url=served.url, timeout=20) as http,
    ):
        page = (await http.get(f"/runs/{run.id}")).text

    assert "taken over" not in page
    assert re.search(r'<svg.*href="[^"]*#step-1"', page, re.DOTALL)


@asynccontextmanager
async def _in_front(stack: Stack) -> AsyncIterator[Person]:
    settings = of_gateway(stack.settings, HURRIED)
    async with (
        serving(stack.client, settings, host="127.0.0.1", port=0, preview=preview) as served,
        httpx2.AsyncClient(base_url=served.url, timeout=60) as http,
    ):
        yield Person(http)


@asynccontextmanager
async def _unwritable(url: str, ledger: Ledger, fault: str) -> AsyncIterator[None]:
    """While another process holds the file, or while the gateway's disk has no room."""
    if fault == "locked":
        with contextlib.closing(sqlite3.connect(make_url(url).database or "", isolation_level=None)) as other:
            other.execute("BEGIN EXCLUSIVE")
            yield
            other.execute("ROLLBACK")
        return
    async with ledger.write() as connection:
        pages = await connection.scalar(text("PRAGMA page_count"))
        await connection.execute(text(f"PRAGMA max_page_count={pages}"))
    yield
    async with ledger.write() as connection:
        await connection.execute(text("PRAGMA max_page_count=1000000"))


async def _asked(stack: Stack) -> tuple[Run, Approval]:
    run = await stack.client.start("pay-through", "Go.")
    return run, await run.next_approval(PATIENCE)


async def _watch(http: httpx2.AsyncClient, run: str, seen: list[Event]) -> None:
    """Read on after what was seen, to the end of the stream, however it ends."""
    with contextlib.suppress(httpx2.TransportError):
        async for event in events(http, run, seen[-1].id if seen else None):
            seen.append(event)


async def _answers(http: httpx2.AsyncClient) -> bool:
    try:
        return (await http.get("/v1/runs")).status_code == 200
    except httpx2.TransportError:
        return False


def _gateway(port: int) -> list[Any]:
    return [sys.executable, "-m", "horarium", "toolbox", "serve", "--all", "--port", str(port)]


def _token(page: str) -> str:
    found = re.search(r'name="token" value="([^"]+)"', page)
    assert found is not None
    return found.group(1)
