"""Parts of the stack on their own: restarts, room on the disk, who owns a state directory, logs without secrets."""

from __future__ import annotations

import json
import logging
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from horarium.errors import AlreadyRunning, ConfigError, Unreachable
from horarium.settings import Settings
from horarium.stack import Stack, read_stack, resolve_address, write_stack
from tests.stack.conftest import Write
from tests.support.stack import CHECKOUT, until
from workers.child import Child
from workers.statedir import check_room, owned

STACK = Stack(pid=os.getpid(), address="127.0.0.1:1", namespace="default", ui="http://x", health="http://y")


async def test_what_dies_is_started_again_at_once_and_then_ever_later(tmp_path: Path):
    child = Child("sleeper", [sys.executable, "-c", "import time; time.sleep(60)"], tmp_path / "log")
    child.start()
    first = child.pid
    os.kill(first, signal.SIGKILL)
    await until(lambda: not child.running, "it is dead")

    said = child.revive()

    assert said == f"sleeper was ended by SIGKILL; started again as process {child.pid}."
    assert child.pid not in (0, first)
    child.terminate()
    child.end(10)
    later = child.revive()
    assert later is not None
    assert "is started again in 0.5 s" in later
    assert not child.running
    assert [child.delay_after_death() for _ in range(7)] == [1, 2, 4, 8, 15, 15, 15]


async def test_a_child_that_does_not_listen_is_ended_after_its_time(tmp_path: Path):
    code = (
        "import signal, time; signal.signal(signal.SIGTERM, signal.SIG_IGN); print('deaf', flush=True); time.sleep(60)"
    )
    child = Child("deaf", [sys.executable, "-c", code], tmp_path / "log")
    child.start()
    await until(lambda: child.said() == "deaf", "it does not listen")

    child.terminate()
    child.end(0.2)

    assert child.ending == "was ended by SIGKILL"


def test_a_full_disk_is_said_before_anything_is_started(tmp_path: Path):
    with pytest.raises(ConfigError, match="MiB free; the stack needs"):
        check_room(tmp_path / "state", least_bytes=1 << 60)

    assert list((tmp_path / "state").iterdir()) == []


def test_a_directory_is_owned_once_and_free_again_after_a_crash(write: Write):
    settings = write()
    code = (
        "import os, sys; from horarium.settings import Settings; from workers.statedir import owned\n"
        f"with owned(Settings.load({str(settings.root)!r})):\n    print('mine', flush=True); sys.stdin.read()"
    )
    owner = subprocess.Popen(
        [sys.executable, "-c", code], cwd=CHECKOUT, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        assert owner.stdout.readline() == "mine\n"
        with pytest.raises(AlreadyRunning, match=f"process {owner.pid}"), owned(settings):
            raise AssertionError("it was owned twice")
        owner.kill()
        owner.wait(10)
        with owned(settings):
            assert (settings.state / "lock").read_text() == f"{os.getpid()}\n"


def test_what_is_written_down_counts_only_while_its_writer_owns_the_directory(write: Write):
    settings = write()
    with owned(settings):
        write_stack(settings, STACK)
        assert read_stack(settings) == STACK
        assert resolve_address(settings) == STACK.address

    assert read_stack(settings) is None
    with pytest.raises(Unreachable) as refused:
        resolve_address(settings)
    assert refused.value.hint == "Start it: horarium up"


def test_the_address_of_the_settings_wins(write: Write, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv("HORARIUM_TEMPORAL__ADDRESS", "temporal.example:7233")

    assert resolve_address(Settings.load(write().root)) == "temporal.example:7233"


def test_logs_are_named_events_with_ids_and_without_the_secrets_that_settings_refer_to(write: Write):
    settings = write()
    (settings.root / "horarium.toml").write_text('[models.openai]\napi_key = "${LOG_TEST_KEY}"\n')
    code = f"""
import logging, structlog
from horarium.logs import hide_secrets, set_up_logging
from horarium.settings import Settings
set_up_logging("info")
hide_secrets(Settings.load({str(settings.root)!r}))
log = structlog.get_logger()
with structlog.contextvars.bound_contextvars(run="run_1", step=3):
    log.info("tool.called", key="canary-7d1f", nested={{"a": ["canary-7d1f"]}})
    logging.getLogger("temporalio.client").warning("refused %s", "canary-7d1f")
    try:
        raise ValueError("canary-7d1f")
    except ValueError:
        log.exception("tool.broke")
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        cwd=CHECKOUT,
        env={**os.environ, "LOG_TEST_KEY": "canary-7d1f"},
        capture_output=True,
        text=True,
        timeout=60,
    )

    lines = [json.loads(line) for line in done.stderr.splitlines()]
    assert [(line["event"], line["run"], line["step"]) for line in lines] == [
        ("tool.called", "run_1", 3),
        ("refused [secret]", "run_1", 3),
        ("tool.broke", "run_1", 3),
    ]
    assert lines[0]["nested"] == {"a": ["[secret]"]}
    assert "ValueError: [secret]" in lines[2]["exception"]
    assert "canary" not in done.stderr
    assert logging.getLevelName(logging.WARNING).lower() == lines[1]["level"]
