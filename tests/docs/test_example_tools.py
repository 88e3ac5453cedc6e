"""The tools of the example: what they refuse, and what they do once."""

from __future__ import annotations

import importlib.util
import sqlite3
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest

from horarium import Effect, NotPerformed, Performed, ToolContext, ToolError

TOOLS = Path(__file__).resolve().parents[2] / "examples" / "log-triage" / "tools"


@pytest.fixture
def tickets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.setenv("TICKET_BOOK", str(tmp_path / "tickets.db"))
    return loaded("tickets")


def test_the_log_that_ships_shows_the_failure_and_not_the_warnings():
    shown = loaded("read_log").read_log("build.log")

    assert "fatal error: cairo/cairo.h: No such file or directory" in shown
    assert "unused variable" not in shown
    assert len(shown) < 1_000


@pytest.mark.parametrize("path", ["../horarium.toml", "/etc/hostname", "logs/../../log-triage/horarium.toml", "no.log"])
def test_a_path_that_leads_out_of_the_logs_is_refused_with_the_logs_that_there_are(path: str):
    with pytest.raises(ToolError, match=r"There are: build\.log"):
        loaded("read_log").read_log(path)


def test_the_same_key_twice_is_one_ticket(tickets: ModuleType):
    receipts = {tickets.open_ticket("It broke", "line 7", "high", call("k1")) for _ in range(3)}
    tickets.open_ticket("It broke", "line 7", "high", call("k2"))

    with closing(sqlite3.connect(tickets.BOOK)) as book:
        assert book.execute("SELECT key FROM tickets ORDER BY number").fetchall() == [("k1",), ("k2",)]
    assert len(receipts) == 1


def test_the_probe_knows_whether_the_ticket_was_opened(tickets: ModuleType):
    assert tickets.was_opened(call("k1"), {}) == NotPerformed()

    receipt = tickets.open_ticket("It broke", "line 7", "high", call("k1"))

    assert tickets.was_opened(call("k1"), {}) == Performed(receipt)
    assert tickets.was_opened(call("k2"), {}) == NotPerformed()


def test_the_tools_say_what_they_do_to_the_world(tickets: ModuleType):
    assert loaded("read_log").read_log.spec.effect is Effect.READ
    assert tickets.open_ticket.spec.effect is Effect.EXTERNAL
    assert tickets.open_ticket.spec.has_verify


def call(key: str) -> ToolContext:
    return ToolContext("run_1", "run_1/0005", key, 1, "log-triage", "default")


def loaded(name: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"example_{name}", TOOLS / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module
