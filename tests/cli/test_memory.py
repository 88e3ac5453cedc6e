"""`horarium memory`, as people and scripts use it; Temporal is away."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import typer
from typer.testing import CliRunner, Result

from horarium.cli import memory_review
from horarium.contract import Usage
from horarium.ledger.database import Ledger
from horarium.ledger.memories import Memories
from horarium.ledger.memory_lessons import Lessons, Teaching
from horarium.ledger.memory_outbox import Delivery
from horarium.ledger.runs import Runs
from horarium.memories import Judgement, Lesson
from horarium.settings import Settings
from tests.core.ledgers import open_run


@dataclass(frozen=True)
class Known:
    """What the ledger of these tests holds."""

    fact: str
    how: str
    quarantined: str
    run: str


@pytest.fixture
def known(project: Path) -> Known:
    return asyncio.run(_teach(Settings.load(project)))


PASSED = Judgement(True, "check:good", 1.0)


def run(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.add_typer(memory_review.app, name="memory")
    result = CliRunner().invoke(app, ["memory", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit), result.exception
    return result


def lines(*arguments: str) -> list[dict[str, Any]]:
    """What a command says to scripts."""
    result = run(*arguments, "--json")
    assert result.exit_code == 0, result.output
    return [json.loads(line) for line in result.stdout.splitlines()]


async def _teach(settings: Settings) -> Known:
    ledger = await Ledger.open(settings)
    try:
        good = await _taught(ledger, Lesson("user", "Units", "Prefers\x1b[31m metric units."))
        await _taught(ledger, Lesson("user", "Units", "Prefers feet."))
        waits = await _taught(ledger, Lesson("procedural", "Invoices", "Look first."), passed=False)
        tainted = await _taught(ledger, Lesson("user", "Bank", "Pay to account 666."), tainted=True)
        await Memories(ledger).used("run_that_used_it", 1, [(good[1], 2)])
        return Known(fact=good[1], how=waits[1], quarantined=tainted[1], run=waits[0])
    finally:
        await ledger.close()


async def _taught(ledger: Ledger, lesson: Lesson, *, passed: bool = True, tainted: bool = False) -> tuple[str, str]:
    run = await open_run(ledger)
    await Runs(ledger).close(run, "completed", reason=None, message=None, turns=1, steps=1, usage=Usage())
    judgement = Judgement(passed, "check:rubrics/desk.py:good", 0.9 if passed else 0.1)
    teaching = Teaching("default", run, "clerk", "desk", "ana", (lesson,), judgement, tainted=tainted)
    items = [{"type": "message", "role": "user", "content": "Hello."}]
    held = Delivery(run, "default", "desk", "default/user/ana", items, "quarantined") if tainted else None
    report = await Lessons(ledger).learn(teaching, held)
    return run, report["learned"][0]["memory"]


def test_the_list_shows_what_holds_and_nothing_that_steers_a_terminal(known: Known) -> None:
    shown = run("list", "--user", "Ana")

    assert shown.exit_code == 0
    assert "Prefers feet." in shown.stdout
    assert "\x1b" not in run("show", known.fact).output
    assert [memory["id"] for memory in lines("list", "--status", "candidate")] == [known.how]
    assert run("list", "--kind", "rumour").exit_code == 2


def test_a_memory_is_shown_with_who_taught_it_who_judged_and_who_was_told(known: Known) -> None:
    (told,) = lines("show", known.fact[:28])

    assert [version["status"] for version in told["versions"]] == ["active", "active"]
    assert told["current"] == 2
    assert told["versions"][0]["judged_by"] == "check:rubrics/desk.py:good"
    assert told["used_by"] == [{"run": "run_that_used_it", "version": 2}]
    assert "run_that_used_it" in run("show", known.fact).stdout


def test_a_summary_is_about_its_run_by_the_id_that_other_commands_take(project: Path) -> None:
    async def teach() -> str:
        ledger = await Ledger.open(Settings.load(project))
        try:
            run_id = await open_run(ledger)
            lesson = Lesson("summary", run_id, "Paper was short.")
            teaching = Teaching(
                run=run_id, tenant="default", agent="clerk", scope="desk", owner="", lessons=(lesson,), judgement=PASSED
            )
            await Lessons(ledger).learn(teaching)
            return run_id
        finally:
            await ledger.close()

    assert f" {asyncio.run(teach())} " in run("list").stdout


def test_undo_names_the_runs_that_had_been_told_and_can_be_done_until_nothing_holds(known: Known) -> None:
    first = run("undo", known.fact, "--by", "carl")
    second = run("undo", known.fact, "--by", "carl")
    third = run("undo", known.fact, "--by", "carl")

    assert "version 1 holds again" in first.stdout
    assert "run_that_used_it had been told of it." in first.stdout
    assert "told to no run any more" in second.stdout
    assert (third.exit_code, "nothing to undo" in third.stderr) == (1, True)


def test_an_edit_and_a_deletion_say_what_they_did(known: Known) -> None:
    (edited,) = lines("edit", known.fact, "Prefers ells.", "--by", "carl")
    deleted = run("delete", known.fact, "--by", "carl")

    assert (edited["current"], edited["versions"][-1]["changed_by"]) == (3, "carl")
    assert "1 run had been told of it" in deleted.stderr
    assert run("show", known.fact).exit_code == 2


def test_what_waits_is_listed_and_reviewed(known: Known) -> None:
    before = run("review")
    accepted = run("review", "accept", known.quarantined, "--by", "carl", "--note", "I asked her")
    rejected = run("review", "reject", known.how, "--by", "carl")

    assert "Pay to account 666." in before.stdout
    assert "Look first." in before.stdout
    assert (accepted.exit_code, rejected.exit_code) == (0, 0)
    (memory,) = lines("list", "--status", "active", "--user", "ana", "--limit", "1")
    assert memory["versions"][0]["reason"] == "accepted by carl: I asked her"
    assert run("review", "accept", known.how, "--by", "carl").exit_code == 1


def test_a_review_without_a_name_reviews_nothing(known: Known) -> None:
    assert run("review", "accept", known.quarantined).exit_code == 2
    assert lines("list", "--status", "quarantined")[0]["current"] is None


def test_feedback_admits_and_withdraws(known: Known) -> None:
    (admitted,) = lines("feedback", known.run, "positive", "--by", "carl")
    withdrawn = run("feedback", known.run, "negative", "--by", "carl")

    assert (admitted["id"], admitted["status"]) == (known.how, "active")
    assert "is withdrawn" in withdrawn.stdout
    assert run("feedback", known.run, "mixed", "--by", "carl").exit_code == 2
    assert run("feedback", "run_none", "positive", "--by", "carl").exit_code == 2


def test_a_delivery_that_is_accepted_while_temporal_is_away_waits_and_is_not_lost(known: Known) -> None:
    (held,) = lines("deliveries")

    accepted = run("review", "accept", held["run"], "--by", "carl")

    (waits,) = lines("deliveries")
    assert (held["status"], accepted.exit_code, waits["status"]) == ("quarantined", 3, "pending")
    assert waits["items"][0]["content"] == "Hello."
