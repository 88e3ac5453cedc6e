"""`horarium up`: real server, real workers, real signals."""

from __future__ import annotations

import os
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Callable

import pytest

from horarium.client import Client
from horarium.settings import Settings
from horarium.stack import Process, read_stack
from tests.stack.conftest import AGENT, SCRIPT, Up, Write, gone, greet, processes
from tests.support.stack import CHECKOUT, free_port, until

pytestmark = [pytest.mark.slow, pytest.mark.timeout(180)]
Start = Callable[..., Up]


async def test_ctrl_c_leaves_no_process_behind_and_the_state_survives(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    first = up(settings)
    pids = processes(await first.ready())
    run = await greet(settings)

    assert first.stop() == 0

    assert gone(pids)
    assert read_stack(settings) is None
    again = up(settings)
    await again.ready()
    async with await Client.connect(settings) as client:
        assert (await client.run(run).status()).status == "completed"
        assert (await client.temporal.get_workflow_handle(run).describe()).close_time is not None


async def test_a_second_up_is_refused_and_names_process_and_address(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    stack = await up(settings).ready()

    done = again(settings)

    assert done.returncode == 1
    assert f"process {stack.pid}, at {stack.address}" in done.stderr
    assert f"kill -INT {stack.pid}" in done.stderr
    assert read_stack(settings) == stack


async def test_a_killed_server_comes_back_on_its_address_with_its_data(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    running = up(settings)
    before = await running.ready()
    run = await greet(settings)

    os.kill(pid_of(before.server), signal.SIGKILL)

    await until(lambda: pid_of(running.now.server) != pid_of(before.server), "another server", running.process)
    await until(lambda: status(f"{before.health}/readyz") == 200, "the stack is ready again", running.process)
    assert running.now.address == before.address
    async with await Client.connect(settings) as client:
        assert (await client.temporal.get_workflow_handle(run).describe()).close_time is not None
    await greet(settings)
    assert "server was ended by SIGKILL; started again" in running.said


async def test_a_killed_worker_is_replaced_at_once(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    running = up(settings, "--workers", "2")
    before = await running.ready()

    os.kill(pid_of(before.worker), signal.SIGKILL)

    await until(lambda: running.now.worker not in (None, before.worker), "another worker", running.process)
    assert "worker was ended by SIGKILL; started again as process" in running.said
    assert running.now.more_workers == before.more_workers
    await greet(settings)


async def test_a_crashed_up_takes_its_children_along_and_does_not_block_the_next(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    crashed = up(settings)
    stack = await crashed.ready()

    crashed.kill()

    await until(lambda: gone(processes(stack)), "its children are dead", timeout=10)
    assert read_stack(settings) is None
    await up(settings).ready()
    await greet(settings)


async def test_ctrl_c_while_it_starts_stops_it_at_once(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    starting = up(settings)
    await until(lambda: (settings.state / "temporal.db").exists(), "the server has begun", starting.process)

    assert starting.stop() == 0

    assert "Ready." not in starting.said
    assert not (settings.state / "logs" / "worker.log").exists()


async def test_readiness_says_what_is_wrong_and_strangers_are_refused(write: Write, up: Start):
    settings = write(agents__hello=AGENT, scripts__hello=SCRIPT)
    running = up(settings)
    stack = await running.ready()

    assert status(f"{stack.health}/readyz") == 200
    assert status(f"{stack.health}/readyz", host="evil.example") == 400
    os.kill(pid_of(stack.server), signal.SIGSTOP)
    try:
        await until(lambda: status(f"{stack.health}/readyz") == 503, "the server is missed", running.process)
        assert status(f"{stack.health}/healthz") == 200
    finally:
        os.kill(pid_of(stack.server), signal.SIGCONT)
    await until(lambda: status(f"{stack.health}/readyz") == 200, "it is ready again", running.process)


async def test_tools_that_want_an_engine_name_get_a_process_of_their_own(write: Write, up: Start):
    tool = '''
from horarium import tool

@tool(effect="read")
def whose() -> str:
    """Say whose module it is."""
    import workflows
    return workflows.OWNER
'''
    settings = write(
        agents__hello="model: scripted:scripts/hello.yaml\ntools: [whose]\n",
        scripts__hello="- calls: [{name: whose}]\n- text: Good morning.\n",
        tools__whose=tool,
    )
    (settings.root / "workflows").mkdir(exist_ok=True)
    (settings.root / "workflows" / "__init__.py").write_text("OWNER = 'the project'\n")
    running = up(settings)
    stack = await running.ready()

    run = await greet(settings)

    assert stack.tool_worker is not None
    assert "tools/whose.py:7: imports 'workflows'" in running.said
    async with await Client.connect(settings) as client:
        calls = [step for step in await client.run(run).steps() if step.kind == "tool_call"]
    assert [(step.status, step.output) for step in calls] == [("completed", "the project")]


def test_a_wrong_agent_file_stops_it_before_anything_is_started(write: Write):
    settings = write(agents__hello="model: lokal\nlimit: {}\n")

    done = again(settings)

    assert done.returncode == 2
    assert "agents/hello.yaml:2: limit: unknown field; did you mean 'limits'?" in done.stderr
    assert not (settings.state / "temporal.db").exists()


def test_a_state_directory_that_cannot_be_written_is_said_before_anything_is_started(write: Write):
    settings = write(agents__hello=AGENT)
    settings.state.write_text("a file stands where the directory belongs")

    done = again(settings)

    assert done.returncode == 2
    assert "cannot be written" in done.stderr


def test_a_server_that_the_settings_name_is_not_started_here(write: Write):
    settings = write(agents__hello=AGENT)
    (settings.root / "horarium.toml").write_text('[temporal]\naddress = "temporal.example:7233"\n')

    done = again(settings)

    assert done.returncode == 2
    assert "horarium worker" in done.stderr


def test_a_port_that_is_taken_is_refused_when_it_was_asked_for(write: Write):
    settings = write(agents__hello=AGENT)
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", free_port()))
        taken.listen()
        port = taken.getsockname()[1]
        done = again(settings, "--port", str(port))

    assert done.returncode == 2
    assert f"Port {port} is taken" in done.stderr


def again(settings: Settings, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "horarium", "up", *options]
    environment = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    return subprocess.run(command, cwd=settings.root, env=environment, capture_output=True, text=True, timeout=60)


def status(url: str, *, host: str | None = None) -> int:
    request = urllib.request.Request(url, headers={"Host": host} if host else {})
    try:
        with urllib.request.urlopen(request, timeout=15) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        return error.code


def pid_of(process: Process | None) -> int:
    assert process is not None
    return int(process.pid)
