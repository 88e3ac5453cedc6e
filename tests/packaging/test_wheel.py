"""The wheel, installed into an environment of its own beside a package that has one of the engine's names."""

from __future__ import annotations

import json
import signal
import subprocess
import sys
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.support.stack import until

ROOT = Path(__file__).resolve().parents[2]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(420)]

NEIGHBOUR = """
[build-system]
requires = ["hatchling"]
build-backend = "hatchling.build"
[project]
name = "neighbour"
version = "1"
[tool.hatch.build.targets.wheel]
only-include = ["workflows"]
"""
AGENT = """
name: hello
model: scripted:scripts/hello.yaml
instructions: Greet.
"""


@dataclass(frozen=True)
class Installed:
    """An environment with the wheel and its neighbour in it, and a directory to work in."""

    python: Path
    directory: Path

    def horarium(self, *arguments: str, where: Path, timeout: float = 90) -> subprocess.CompletedProcess[str]:
        command = [self.python.with_name("horarium"), *arguments]
        return subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=timeout)


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return built(ROOT, tmp_path_factory.mktemp("wheel"))


@pytest.fixture(scope="module")
def installed(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Installed:
    directory = tmp_path_factory.mktemp("installed")
    neighbour = directory / "neighbour"
    (neighbour / "workflows").mkdir(parents=True)
    (neighbour / "workflows" / "__init__.py").write_text('WHOSE = "the neighbour\'s"\n')
    (neighbour / "pyproject.toml").write_text(NEIGHBOUR)
    run(sys.executable, "-m", "venv", str(directory / "env"))
    python = directory / "env" / "bin" / "python"
    pip = (str(python), "-m", "pip", "install", "--quiet", "--disable-pip-version-check")
    run(*pip, "-c", str(ROOT / "constraints.txt"), str(wheel))
    # Installed second, it would overwrite ours if ours had the same name.
    run(*pip, "--no-deps", str(built(neighbour, directory)))
    return Installed(python, directory)


@pytest.fixture
def project(installed: Installed, tmp_path: Path) -> Path:
    made = tmp_path / "project"
    done = installed.horarium("init", str(made), where=tmp_path)
    assert done.returncode == 0, done.stderr
    (made / "scripts").mkdir(exist_ok=True)
    (made / "scripts" / "hello.yaml").write_text("- text: Good morning.\n")
    (made / "agents" / "hello.yaml").write_text(AGENT)
    return made


@pytest.fixture
def up(installed: Installed, project: Path) -> Iterator[subprocess.Popen[bytes]]:
    with (project / "up.log").open("wb") as log:
        process = subprocess.Popen(
            [installed.python.with_name("horarium"), "up"], cwd=project, stdout=log, stderr=subprocess.STDOUT
        )
    yield process
    if process.poll() is None:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def test_the_wheel_has_one_top_level_name(wheel: Path):
    with zipfile.ZipFile(wheel) as archive:
        names = archive.namelist()

    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"horarium"}
    assert {"workflows", "activities", "workers", "schedules"} <= {
        n.split("/")[2] for n in names if "horarium/_engine/" in n
    }
    assert "horarium/py.typed" in names
    assert any(name.startswith("horarium/ledger/migrations/versions/") for name in names)


def test_the_neighbour_keeps_its_name(installed: Installed):
    said = run(
        str(installed.python), "-c", "import horarium, workflows; print(workflows.WHOSE)", where=installed.directory
    )

    assert said.strip() == "the neighbour's"


async def test_an_installed_wheel_runs_an_agent_beside_the_neighbour(
    installed: Installed, project: Path, up: subprocess.Popen[bytes]
):
    await until(lambda: (project / ".horarium" / "stack.json").exists(), "the stack is up", up, timeout=90)

    done = installed.horarium("run", "hello", "Say good morning.", "--wait", "--json", where=project)

    assert done.returncode == 0, done.stderr + (project / "up.log").read_text()
    result = json.loads(done.stdout.strip().splitlines()[-1])
    assert (result["status"], result["output"]) == ("completed", "Good morning.")
    up.send_signal(signal.SIGINT)
    assert up.wait(30) == 0


def built(source: Path, into: Path) -> Path:
    run(sys.executable, "-m", "build", "--wheel", "--no-isolation", "--outdir", str(into), str(source))
    return next(into.glob("*.whl"))


def run(*command: str, where: Path | None = None) -> str:
    done = subprocess.run(command, cwd=where, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout}\n{done.stderr}"
    return done.stdout
