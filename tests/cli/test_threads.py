"""`horarium threads`, on a real ledger; Temporal is away."""

from __future__ import annotations

import json

import pytest

from horarium.ids import thread_id_for_run
from tests.cli.conftest import ANSWER, BROKEN, DONE, WAITS, Horarium

pytestmark = pytest.mark.usefixtures("filled")
THREAD, OPEN = thread_id_for_run(DONE), thread_id_for_run(WAITS)


def test_the_list_has_the_newest_thread_first_and_goes_on_page_by_page(horarium: Horarium) -> None:
    rows = [json.loads(line) for line in horarium("threads", "list", "--json").stdout.splitlines()]
    page = horarium("threads", "list", "--limit", "2")
    rest = horarium("threads", "list", "--before", OPEN, "--json")

    assert [row["thread"] for row in rows] == [thread_id_for_run(run) for run in (BROKEN, WAITS, DONE)]
    assert [(row["messages"], row["open_run"]) for row in rows] == [(1, None), (1, WAITS), (2, None)]
    assert f"horarium threads list --before {OPEN}" in page.stderr
    assert [json.loads(line)["thread"] for line in rest.stdout.splitlines()] == [THREAD]


def test_a_thread_is_shown_whole_with_who_said_what_in_which_step(horarium: Horarium) -> None:
    shown = horarium("threads", "show", THREAD[:10].lower())
    messages = [json.loads(line) for line in horarium("threads", "show", THREAD, "--json").stdout.splitlines()]

    assert shown.exit_code == 0
    assert "#0 user ana" in shown.stdout
    assert "Look at the log." in shown.stdout
    assert all(line in shown.stdout for line in ANSWER.splitlines())
    assert [(m["place"], m["role"], m["text"]) for m in messages] == [
        (0, "user", "Look at the log."),
        (1, "assistant", ANSWER),
    ]
    assert messages[1]["step"] == f"{DONE}/0002"


def test_what_was_said_cannot_steer_the_terminal(horarium: Horarium) -> None:
    horarium("threads", "append", THREAD, "red \x1b[31m alert")

    shown = horarium("threads", "show", THREAD).stdout

    assert "red <U+001B>[31m alert" in shown
    assert "\x1b" not in shown


def test_a_message_is_appended_with_who_said_it(horarium: Horarium) -> None:
    result = horarium("threads", "append", THREAD, "-", "--role", "system", "--by", "ana", "--json", input="Be brief.")

    assert json.loads(result.stdout) == {"thread": THREAD, "place": 2}
    last = json.loads(horarium("threads", "show", THREAD, "--after", "1", "--json").stdout)
    assert (last["role"], last["text"], last["author"]) == ("system", "Be brief.", "ana")


@pytest.mark.parametrize(
    ("words", "code", "told"),
    [
        (("append", OPEN, "Hello?"), 1, f"horarium runs message {WAITS}"),
        (("append", THREAD, " "), 2, "nothing to append"),
        (("append", THREAD, "Hello?", "--role", "tool"), 2, "Use user or system."),
        (("show", "thr_none"), 2, "horarium threads list"),
        (("show", THREAD, "--tenant", "theirs"), 2, "There is no thread"),
        (("fork", THREAD, "--at", "9"), 2, "its last is 1"),
        (("delete", OPEN, "--yes"), 1, f"horarium runs cancel {WAITS}"),
    ],
)
def test_what_cannot_be_done_is_said_with_what_to_do_instead(
    horarium: Horarium, words: tuple[str, ...], code: int, told: str
) -> None:
    result = horarium("threads", *words)

    assert result.exit_code == code
    assert told in result.stderr
    assert result.stdout == ""


def test_a_fork_says_where_it_was_made(horarium: Horarium) -> None:
    fork = json.loads(horarium("threads", "fork", THREAD, "--at", "0", "--json").stdout)

    assert (fork["forked_from"], fork["forked_at"], fork["messages"]) == (THREAD, 0, 1)
    assert f"forked from {THREAD} at message 0" in horarium("threads", "show", fork["thread"]).stdout


def test_a_thread_is_deleted_when_a_person_says_yes(horarium: Horarium) -> None:
    kept = horarium("threads", "delete", THREAD, input="n\n")
    deleted = horarium("threads", "delete", THREAD, "--by", "ana", input="y\n")

    assert kept.exit_code == 1
    assert "2 messages" in kept.stderr
    assert deleted.exit_code == 0
    assert horarium("threads", "show", THREAD).exit_code == 2
