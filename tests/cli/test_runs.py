"""`horarium run` and `horarium runs`, on a real ledger; Temporal is away."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from tests.cli.conftest import ANSWER, APPROVAL, ARGUMENTS, BROKEN, DIGEST, DONE, WAITS, Horarium

pytestmark = pytest.mark.usefixtures("filled")


def test_the_list_has_every_run_newest_first_and_no_colours_in_a_pipe(horarium: Horarium) -> None:
    result = horarium("runs", "list")

    assert result.exit_code == 0
    assert [line.split()[0] for line in result.stdout.splitlines()] == ["RUN", BROKEN, WAITS, DONE]
    assert "\x1b" not in result.output


def test_the_list_filters_by_status_and_prints_bare_ids(horarium: Horarium) -> None:
    result = horarium("runs", "list", "--status", "requires_action", "--status", "completed", "-q")

    assert result.stdout.split() == [WAITS, DONE]


def test_the_latest_run_is_one(horarium: Horarium) -> None:
    assert horarium("runs", "list", "--latest", "-q").stdout == f"{BROKEN}\n"


def test_the_list_as_json_is_one_object_a_line_with_the_contracts_keys(horarium: Horarium) -> None:
    rows = [json.loads(line) for line in horarium("runs", "list", "--json").stdout.splitlines()]

    assert [row["run"] for row in rows] == [BROKEN, WAITS, DONE]
    assert rows[2]["usage"] == {"input_tokens": 1200, "output_tokens": 34, "cost_micro_usd": 0}


def test_a_status_that_is_none_is_answered_with_the_near_miss(horarium: Horarium) -> None:
    result = horarium("runs", "list", "--status", "complted")

    assert result.exit_code == 2
    assert "did you mean 'completed'?" in result.stderr


def test_a_run_is_shown_with_its_steps_and_whole_answer_by_the_beginning_of_its_id(horarium: Horarium) -> None:
    result = horarium("runs", "show", DONE[:8].lower())

    assert result.exit_code == 0
    assert f"Run {DONE}" in result.stdout
    assert "clerk@1" in result.stdout
    assert "1,200 tokens in, 34 out" in result.stdout
    assert result.stdout.endswith(f"{ANSWER}\n")


def test_what_a_tool_wrote_cannot_steer_the_terminal(horarium: Horarium) -> None:
    shown = horarium("runs", "show", DONE).stdout

    assert "no <U+001B>[31msuch<U+202E> file" in shown
    assert "\x1b" not in shown
    assert "\u202e" not in shown


def test_a_waiting_run_names_what_it_waits_for_and_the_commands_that_answer(horarium: Horarium) -> None:
    result = horarium("runs", "show", WAITS)

    assert "waiting for a person" in result.stdout
    assert '"to": "bob<U+202E>gnp.exe<U+200B>"' in result.stdout
    assert f"horarium approvals approve {APPROVAL} --by " in result.stdout
    assert f"horarium approvals reject {APPROVAL} --by " in result.stdout
    assert "does not answer" in result.stderr


def test_a_run_as_json_is_one_object_with_the_exact_arguments(horarium: Horarium) -> None:
    shown = json.loads(horarium("runs", "show", WAITS, "--json").stdout)

    assert shown["run"]["status"] == "requires_action"
    assert shown["waiting_for"][0]["id"] == APPROVAL
    assert shown["approvals"][0]["arguments"] == ARGUMENTS
    assert shown["approvals"][0]["digest"] == DIGEST
    assert shown["steps"][0]["status"] == "pending"


def test_a_run_that_stopped_at_a_limit_says_at_which(horarium: Horarium) -> None:
    shown = horarium("runs", "show", BROKEN).stdout

    assert "stopped at a limit (max_turns)" in shown
    assert "50 of 50." in shown


@pytest.mark.parametrize(("said", "why"), [("run_01B", "several runs"), ("run_9", "There is no run 'run_9'")])
def test_an_id_that_names_none_or_several_is_a_typing_error_in_two_lines(
    horarium: Horarium, said: str, why: str
) -> None:
    result = horarium("runs", "show", said)

    assert result.exit_code == 2
    assert why in result.stderr
    assert len(result.stderr.splitlines()) == 2
    assert result.stdout == ""


def test_percent_and_underscore_are_letters_of_an_id_and_no_wildcards(horarium: Horarium) -> None:
    assert horarium("runs", "show", "%").exit_code == 2
    assert horarium("runs", "show", "run_01A_").exit_code == 2


@pytest.mark.parametrize(
    "words",
    [
        ("runs", "watch", WAITS),
        ("runs", "cancel", WAITS),
        ("runs", "message", WAITS, "hello"),
        ("runs", "resolve", WAITS, "3", "skip", "--by", "ana"),
        ("approvals", "approve", APPROVAL, "--by", "ana"),
        ("run", "clerk", "hello"),
    ],
)
@pytest.mark.timeout(60)
def test_what_needs_temporal_says_in_two_lines_that_it_is_away_and_exits_3(
    horarium: Horarium, words: tuple[str, ...]
) -> None:
    result = horarium(*words)

    assert result.exit_code == 3
    assert "Temporal does not answer at 127.0.0.1:1." in result.stderr
    assert "horarium up" in result.stderr
    assert "Traceback" not in result.output


@pytest.mark.parametrize(
    ("words", "why"),
    [
        (("run", "clerk"), "say what you ask"),
        (("run", "clerk", " "), "the input is empty"),
        (("run", "clerk@x", "hi"), "is no version"),
        (("run", "clerk", "hi", "--meta", "novalue"), "is not KEY=VALUE"),
        (("runs", "resolve", WAITS, "3", "retri", "--by", "ana"), "did you mean 'retry'?"),
        (("runs", "resolve", WAITS, "3", "supply", "--by", "ana"), "supply needs it"),
        (("runs", "resolve", WAITS, "3", "skip"), "--by"),
    ],
)
def test_what_was_typed_wrong_is_said_before_anything_is_asked(
    horarium: Horarium, words: tuple[str, ...], why: str
) -> None:
    result = horarium(*words)

    assert result.exit_code == 2
    assert why in result.stderr


@pytest.mark.parametrize("command", ["list", "show", "watch", "cancel", "message", "resolve"])
def test_every_help_has_an_example_and_the_exit_codes(horarium: Horarium, command: str) -> None:
    text = horarium("runs", command, "--help").stdout

    assert f"horarium runs {command}" in text or f"$(horarium runs {command}" in text
    assert "Exit codes:" in text


def test_a_ledger_that_cannot_be_used_is_unreachable(horarium: Horarium, filled: Path) -> None:
    (filled / ".horarium" / "ledger.db").write_bytes(b"this is no database" * 100)

    result = horarium("runs", "list")

    assert result.exit_code == 3
    assert "cannot be used" in result.stderr
