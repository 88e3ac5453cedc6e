"""The gateway that `horarium up` has: reached at its URL, started again when it dies, and no run hangs on it."""

from __future__ import annotations

import asyncio
import os
import signal
from collections.abc import Callable

import httpx2
import pytest

from horarium.cli.doctor import examine
from horarium.client import Client
from horarium.stack import Stack, answers_http
from tests.stack.conftest import AGENT, SCRIPT, Up, Write
from tests.support.stack import until
from workers.server import free_port

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
Start = Callable[..., Up]
WAITING = "from horarium import tool\n\n\n@tool(effect='external')\ndef pay() -> str:\n    return 'paid'\n"


def process(stack: Stack) -> int:
    """Of the gateway."""
    assert stack.gateway_process is not None
    return stack.gateway_process.pid


async def test_up_names_the_gateway_and_starts_it_again_on_its_port(write: Write, up: Start) -> None:
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    running = up(settings)
    before = await running.ready()
    url = str(before.gateway)
    assert f"Console    {url}   (REST" in running.said

    async with httpx2.AsyncClient(base_url=url, timeout=20) as http:
        run = (await http.post("/v1/runs", json={"agent": "hello", "input": "Good morning."})).json()["id"]
        os.kill(process(before), signal.SIGKILL)
        await until(lambda: process(running.now) not in (0, process(before)), "it is started again", running.process)
        await until(lambda: answers_http(url), "it answers again", running.process)

        async with await Client.connect(settings) as client:
            assert (await client.run(run).result()).output == "Good morning."
        assert (await http.get(f"/v1/runs/{run}")).json()["output"] == "Good morning."
        ready = (await http.get(f"{before.health}/readyz")).json()
    assert ready["gateway"] == "ok"
    found = [one async for one in examine(settings)]
    assert [(one.state, one.found) for one in found if one.check == "gateway"] == [("ok", url)]


async def test_sigterm_of_the_gateway_leaves_runs_going_and_ends_its_streams(write: Write, up: Start) -> None:
    script = "- calls: [{name: pay}]\n- text: Done.\n"
    settings = write(agents__hello=AGENT + "tools: [pay]\n", scripts__hello=script, tools__pay=WAITING)
    running = up(settings)
    stack = await running.ready()

    async with httpx2.AsyncClient(base_url=str(stack.gateway), timeout=20) as http:
        run = (await http.post("/v1/runs", json={"agent": "hello", "input": "Pay."})).json()["id"]
        async with asyncio.timeout(30), http.stream("GET", f"/v1/runs/{run}/events") as stream:
            async for line in stream.aiter_lines():  # to the end of the stream
                if "requires_action" in line:
                    os.kill(process(stack), signal.SIGTERM)

        await until(lambda: answers_http(str(stack.gateway)), "another one answers", running.process)
        assert (await http.get(f"/v1/runs/{run}")).json()["status"] == "requires_action"


async def test_a_port_that_is_named_is_the_gateways(write: Write, up: Start) -> None:
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    port = free_port()

    stack = await up(settings, "--gateway-port", str(port)).ready()

    assert stack.gateway == f"http://127.0.0.1:{port}"


async def test_a_gateway_that_wants_keys_is_served_while_there_is_none(write: Write, up: Start) -> None:
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    (settings.root / "horarium.toml").write_text("[gateway]\nanonymous = false\n", "utf-8")

    stack = await up(settings).ready()

    async with httpx2.AsyncClient(base_url=str(stack.gateway), timeout=20) as http:
        assert (await http.get("/v1/runs")).status_code == 401
