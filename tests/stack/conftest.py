"""Projects on disk, and `horarium up` on them: real processes, ended with the test."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from horarium.client import Client
from horarium.settings import Settings
from horarium.stack import Stack, is_alive, read_stack
from tests.support.stack import CHECKOUT, until

AGENT = "model: scripted:scripts/hello.yaml\ninstructions: Greet.\n"
SCRIPT = "- text: Good morning.\n"
PATIENCE = 60.0

Write = Callable[..., Settings]


@pytest.fixture
def write(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Write:
    """Writes files into the test's project; gives its settings."""
    for name in [name for name in os.environ if name.startswith("HORARIUM_")]:
        monkeypatch.delenv(name)
    root = tmp_path / "project"
    root.mkdir()
    (root / "horarium.toml").touch()

    def _write(**files: str) -> Settings:
        for name, text in files.items():
            file = root / name.replace("__", "/")
            # agents__hello="…" is agents/hello.yaml; the folder says what its files are.
            suffix = {"agents": ".yaml", "scripts": ".yaml", "prompts": ".md", "tools": ".py"}
            file = file.with_name(file.name + suffix.get(file.parent.name, ".py"))
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
        return Settings.load(root)

    return _write


class Up:
    """One `horarium up`."""

    def __init__(self, settings: Settings, *options: str) -> None:
        self.settings = settings
        self.log = settings.root / "up.log"
        with self.log.open("wb") as output:
            self.process = subprocess.Popen(
                [sys.executable, "-m", "horarium", "up", *options],
                cwd=settings.root,
                env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )

    async def ready(self) -> Stack:
        """Wait until it says so, and read what it wrote down."""
        await until(lambda: "Ready." in self.said, f"it is ready; see {self.log}", self.process, timeout=PATIENCE)
        return self.now

    @property
    def now(self) -> Stack:
        """What is written down now."""
        stack = read_stack(self.settings)
        assert stack is not None
        return stack

    @property
    def said(self) -> str:
        return self.log.read_text("utf-8", "replace")

    def stop(self, number: int = signal.SIGINT) -> int:
        """Ctrl-C, and the exit code."""
        self.process.send_signal(number)
        return self.process.wait(40)

    def kill(self) -> None:
        """SIGKILL of the supervisor alone."""
        self.process.kill()
        self.process.wait(10)


@pytest.fixture
def up() -> Iterator[Callable[..., Up]]:
    """Starts `horarium up` on a project; whatever still runs in the end is killed."""
    started: list[Up] = []

    def start(settings: Settings, *options: str) -> Up:
        started.append(Up(settings, *options))
        return started[-1]

    yield start
    for one in started:
        if one.process.poll() is None:
            with contextlib.suppress(subprocess.TimeoutExpired):
                one.stop()
        if one.process.poll() is None:
            one.kill()


def processes(stack: Stack) -> list[int]:
    """The process ids of a stack, the supervisor's included."""
    children = (stack.server, stack.worker, stack.tool_worker, stack.gateway_process, *stack.more_workers)
    return [stack.pid, *(child.pid for child in children if child is not None)]


def gone(pids: list[int]) -> bool:
    """Whether none of them lives."""
    return not any(is_alive(pid) and not _is_zombie(pid) for pid in pids)


async def greet(settings: Settings) -> str:
    """One run of the agent `hello`, to its end: its id."""
    async with await Client.connect(settings) as client:
        run = await client.start("hello", "Good morning.")
        result = await run.result()
    assert (result.status, result.output) == ("completed", "Good morning."), result.message
    return run.id


def _is_zombie(pid: int) -> bool:
    """Dead, but nobody has asked for its exit code yet: in a container there may be nobody who does."""
    with contextlib.suppress(OSError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    return False
