"""The example of a tool worker does what it says, in an environment that the engine could not live in."""

from __future__ import annotations

import importlib.metadata
import json
import os
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from horarium.client import Client, Run
from horarium.contract import Waiting
from horarium.settings import Settings
from horarium.stack import read_stack
from tests.support.examples import ENVIRONMENT, ROOT, example_up
from tests.support.stack import until

EXAMPLE = ROOT / "examples" / "tool-worker"
# The letters' own environment must find its own packages, and none of this one's.
APART = {name: value for name, value in os.environ.items() if name not in ("PYTHONPATH", "VIRTUAL_ENV")}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The interpreter of the letters' environment, as the example makes it."""
    place = tmp_path_factory.mktemp("letters")
    command = [EXAMPLE / "letters" / "environment.sh", place / "venv"]
    environment = APART | {"PYTHON": sys.executable, "HORARIUM": str(ROOT)}
    made = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=240)
    assert made.returncode == 0, made.stdout + made.stderr
    return place / "venv" / "bin" / "python"


@pytest.fixture
async def project(tmp_path: Path) -> AsyncIterator[Path]:
    """A copy of the example with `horarium up` on it."""
    async with example_up("tool-worker", tmp_path) as copy:
        yield copy


@contextmanager
def serving(python: Path, project: Path, **more: str) -> Iterator[subprocess.Popen[bytes]]:
    """The letters' worker, until the context ends or somebody kills it; `more`: of its environment."""
    with (project / "letters.log").open("ab") as log:
        command = [python, project / "letters" / "serve.py"]
        worker = subprocess.Popen(command, env=APART | more, cwd=project.parent, stdout=log, stderr=subprocess.STDOUT)
    try:
        yield worker
    finally:
        worker.terminate()
        worker.wait(30)


def doctor(project: Path) -> list[dict[str, str]]:
    """What it says of tool workers."""
    command = [sys.executable, "-m", "horarium", "doctor", "--json"]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, timeout=60)
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    return [line for line in lines if line["check"] == "tool workers"]


def through_the_gateway(project: Path) -> dict[str, str]:
    """What a worker needs in its environment that does without the ledger, which then it cannot open."""
    stack = read_stack(Settings.load(project))
    assert stack is not None
    assert stack.gateway is not None
    command = [sys.executable, "-m", "horarium", "api-keys", "create", "--name", "desk", "--tools", "letters"]
    key = subprocess.check_output(command, cwd=project, env=ENVIRONMENT, text=True, timeout=60).strip()
    return {
        "HORARIUM_TOOLS__GATEWAY": stack.gateway,
        "HORARIUM_GATEWAY_KEY": key,
        "HORARIUM_LEDGER__URL": "postgresql://nobody@127.0.0.1:9/none",
    }


async def waits_for(run: Run, kind: str) -> Waiting:
    """What the run waits for, as soon as it is of this kind."""
    found: list[Waiting] = []

    async def there() -> bool:
        found[:] = [waiting for waiting in (await run.status()).waiting_for if waiting.kind == kind]
        return bool(found)

    await until(there, f"the run waits for {kind}")
    return found[0]


async def test_a_tool_with_a_dependency_that_clashes_with_the_engines_works_and_is_waited_for(
    python: Path, project: Path
) -> None:
    theirs = "import importlib.metadata as m; print(m.version('Jinja2'))"
    assert subprocess.check_output([python, "-c", theirs], env=APART, text=True).strip() == "3.0.3"
    assert importlib.metadata.version("Jinja2") >= "3.1.6"

    async with await Client.connect(Settings.load(project)) as client:
        with serving(python, project) as worker:
            await until(lambda: bool(doctor(project)), f"the letters; see {project}/letters.log", worker)
            [found] = doctor(project)
            assert (found["state"], found["found"].split(":")[0]) == ("ok", "letters")
            run = await client.start("correspondent", "Mrs Okafor asks about plot 14.")
            await waits_for(run, "approval")
            worker.kill()
            worker.wait(10)

        [approval] = await run.approvals()
        await run.approve(approval, by="chair")
        waiting = await waits_for(run, "tool_worker")
        assert waiting.text.startswith("No worker serves write_letter")
        assert not (project / "outbox").exists()
        [found] = doctor(project)
        assert (found["state"], "nobody serves write_letter" in found["found"]) == ("fail", True)

        with serving(python, project, **through_the_gateway(project)):
            result = await run.result()

        assert (result.status, result.output) == ("completed", "The letter to Mrs Okafor is in the outbox.")
        [step] = [step for step in await run.steps() if (step.kind, step.name) == ("tool_call", "write_letter")]
        assert "set with Jinja2 3.0.3" in (step.output or "")
    [letter] = (project / "outbox").iterdir()
    assert "Dear Mrs Okafor, dear friend of Allotment Gardens Elmfield," in letter.read_text()
