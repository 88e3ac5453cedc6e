"""`horarium approvals`, on a real ledger; Temporal is away."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime
from pathlib import Path

import pytest

from horarium.cli import words
from horarium.contract import Decision
from horarium.ledger.approvals import Approvals
from horarium.ledger.database import Ledger
from horarium.protocol import ApprovalOutcome, Ballot, Call
from horarium.settings import Settings
from horarium.tools import Effect
from tests.cli.conftest import APPROVAL, ARGUMENTS, DIGEST, WAITS, Horarium

pytestmark = pytest.mark.usefixtures("filled")


@pytest.fixture
def rejected(filled: Path) -> None:
    """Bob has rejected it."""
    call = Call(id="c1", tool="pay", digest=DIGEST, key="k", source=f"{WAITS}/0001", effect=Effect.EXTERNAL)
    decision = Decision(approval=APPROVAL, digest=DIGEST, by="bob", verdict="reject")
    ballot = Ballot(decision=decision, at=datetime.now(UTC), via="update")
    outcome = ApprovalOutcome(
        id=APPROVAL, number=2, guards=3, call=call, status="rejected", ballot=ballot, at=datetime.now(UTC)
    )

    async def settle() -> None:
        ledger = await Ledger.open(Settings.load(filled))
        await Approvals(ledger).settle(WAITS, outcome)
        await ledger.close()

    asyncio.run(settle())


def test_the_list_shows_exact_arguments_with_what_a_reader_would_not_see(horarium: Horarium) -> None:
    result = horarium("approvals", "list")

    assert result.exit_code == 0
    assert '"to": "bob<U+202E>gnp.exe<U+200B>"' in result.stdout
    assert DIGEST in result.stdout
    assert "\u202e" not in result.output


def test_the_list_as_json_has_the_arguments_as_they_are(horarium: Horarium) -> None:
    (line,) = horarium("approvals", "list", "--json").stdout.splitlines()

    assert json.loads(line)["arguments"] == ARGUMENTS
    assert line.isascii()


@pytest.mark.usefixtures("rejected")
def test_decided_approvals_are_listed_with_all_only_and_say_who(horarium: Horarium) -> None:
    assert horarium("approvals", "list").stdout == ""
    shown = horarium("approvals", "list", "--all").stdout

    assert "rejected" in shown
    assert "by bob" in shown


@pytest.mark.usefixtures("rejected")
@pytest.mark.parametrize(
    ("verdict", "code", "said"), [("reject", 0, "had been rejected by bob"), ("approve", 1, "bob")]
)
def test_a_decision_after_the_first_repeats_it_or_is_told_who_decided(
    horarium: Horarium, verdict: str, code: int, said: str
) -> None:
    result = horarium("approvals", verdict, APPROVAL[:9], "--by", "ana")

    assert result.exit_code == code
    assert said in result.output


def test_a_typing_error_in_one_id_decides_nothing(horarium: Horarium) -> None:
    result = horarium("approvals", "approve", APPROVAL, "apr_nope", "--by", "ana")

    assert result.exit_code == 2
    assert "There is no approval 'apr_nope'" in result.stderr
    assert json.loads(horarium("approvals", "show", APPROVAL, "--json").stdout)["status"] == "pending"


def test_nobody_decides_without_a_name(horarium: Horarium) -> None:
    result = horarium("approvals", "approve", APPROVAL)

    assert result.exit_code == 2
    assert "--by" in result.stderr


@pytest.mark.parametrize("command", ["list", "show", "approve", "reject"])
def test_every_help_has_an_example_and_the_exit_codes(horarium: Horarium, command: str) -> None:
    text = horarium("approvals", command, "--help").stdout

    assert f"  horarium approvals {command}" in text
    assert "Exit codes:" in text


@pytest.mark.parametrize(
    "hidden",
    [
        "\u202e",
        "\u200b",
        "\u00ad",
        "\x1b",
        "\x9b",
        "\u2028",
        "\u00a0",
        "\u3164",
        "\u2800",
        "\ufe0f",
        "\U000e0041",
        "\ufeff",
    ],
)
def test_every_kind_of_invisible_character_is_written_out(hidden: str) -> None:
    assert words.visible(f"a{hidden}b") == f"a<U+{ord(hidden):04X}>b"


@pytest.mark.parametrize("text", ["Grüße, 你好, שלום", "line\nline", "🎉 é"])
def test_what_can_be_seen_stays_as_it_is(text: str) -> None:
    assert words.visible(text) == text
