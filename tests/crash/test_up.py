"""`horarium up` that is killed in mid-run, with everything it started: the next one finishes the run."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from horarium.client import Client
from horarium.settings import SETTINGS_FILE, Settings
from tests.crash.rig import AGENTS, SCRIPTS, TOOLS, Book, begin, completed, of_kind, settled_before
from tests.stack.conftest import Up, gone, processes
from tests.support.stack import until

pytestmark = pytest.mark.slow


async def test_an_up_that_was_killed_leaves_nothing_behind_and_the_next_one_finishes_the_run(tmp_path: Path) -> None:
    settings, book = project(tmp_path), Book(tmp_path)
    first = Up(settings)
    second: Up | None = None
    try:
        stack = await first.ready()
        async with await Client.connect(settings) as client:
            run = (await begin(client, "pay", "after")).id
            await book.stands(client.run(run), "pay", "after")

        first.process.send_signal(signal.SIGKILL)

        await until(lambda: gone(processes(stack)), "its children are dead", timeout=10)
        book.go()
        second = Up(settings)
        await second.ready()
        async with await Client.connect(settings) as client:
            await completed(client.run(run))
            steps = await client.run(run).steps()
            paid = book.effects(client.run(run), "pay")
        left = processes(second.now)
        assert second.stop() == 0
        assert gone(left)
    finally:
        for up in (first, second):
            if up is not None and up.process.poll() is None:
                up.kill()
    settled_before(steps)
    assert of_kind(steps, "tool_call")[1].output == "pay after: done, says the bank"
    assert len(paid) == 1


def project(root: Path) -> Settings:
    files = {
        SETTINGS_FILE: "",
        "tools/project_tools.py": TOOLS,
        **{f"agents/{name}.yaml": text for name, text in AGENTS.items()},
        **{f"scripts/{name}": text for name, text in SCRIPTS.items()},
    }
    for name, text in files.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_text(text, "utf-8")
    return Settings.load(root)
