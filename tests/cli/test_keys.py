"""`horarium keys` and `horarium approvals grants`, as people and scripts use them."""

from __future__ import annotations

import asyncio
import json
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner, Result

from horarium.cli import app as horarium
from horarium.cli import approvals, keys
from horarium.contract import Decision
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Granting, record_grant
from horarium.proof import FILE, KeyRing, Signer, read_private
from horarium.settings import Settings

DECISION = Decision(approval="apr_1", digest="sha256:one", by="billing@svc", verdict="approve")


@pytest.fixture(autouse=True)
def in_the_project(project: Path) -> Path:
    return project


def run(*arguments: str) -> Result:
    app = typer.Typer(rich_markup_mode=None)
    app.add_typer(keys.app, name="keys")
    app.add_typer(approvals.app, name="approvals")
    return CliRunner().invoke(app, list(arguments))


def created(*arguments: str) -> str:
    """The id of a new key."""
    result = run("keys", "create", "--name", "a service", "--json", *arguments)
    assert result.exit_code == 0, result.output
    key: str = json.loads(result.stdout)["id"]
    return key


def test_a_key_is_created_and_listed_and_its_private_part_is_never_shown(project: Path) -> None:
    key = created("--any")
    private = json.loads((project / ".horarium" / "secrets" / FILE).read_text())[0]["private"]

    for arguments in (["list"], ["list", "--json"], ["list", "--public"]):
        shown = run("keys", *arguments)
        assert shown.exit_code == 0
        assert private not in shown.output
    assert key in run("keys", "list").stdout


def test_a_printed_key_is_one_line_that_a_service_can_sign_with(project: Path) -> None:
    result = run("keys", "create", "--name", "billing", "--for", "billing@svc", "--print")

    (line,) = result.stdout.splitlines()
    signed = Signer(read_private(line)).sign("run_1", DECISION)
    assert KeyRing.of(Settings.load(project)).verify("run_1", signed, datetime.now(UTC)).startswith("key_")


@pytest.mark.parametrize(
    "wrong",
    [
        [],
        ["--any", "--for", "ana"],
        ["--for", "*"],
        ["--for", " "],
        ["--any", "--lasts", "soon"],
        ["--any", "--lasts", "-P1D"],
        ["--any", "--lasts", "9999999d"],
    ],
    ids=str,
)
def test_a_key_needs_to_be_for_somebody_and_may_end(wrong: list[str], project: Path) -> None:
    assert run("keys", "create", "--name", "n", *wrong).exit_code == 2
    assert not (project / ".horarium" / "secrets" / FILE).exists()


def test_without_whom_a_key_is_for_it_says_that_the_option_is_missing() -> None:
    result = run("keys", "create", "--name", "n")

    assert "The option --for is missing" in result.stderr
    assert "Invalid value" not in result.stderr
    assert "Both --for and --any" in run("keys", "create", "--name", "n", "--any", "--for", "ana").stderr


def test_a_revoked_key_is_shown_as_such_and_leaves_the_public_list() -> None:
    key, other = created("--any"), created("--any")

    result = run("keys", "revoke", key)

    assert result.exit_code == 0
    assert [line.split()[-1] for line in run("keys", "list").stdout.splitlines() if key in line] == ["revoked"]
    assert len(run("keys", "list", "--public").stdout.strip().split(",")) == 1
    assert other in run("keys", "list").stdout


def test_a_key_can_be_revoked_later_to_leave_time_to_change_over(project: Path) -> None:
    key = created("--any")

    assert run("keys", "revoke", key, "--after", "24h").exit_code == 0

    signer = KeyRing.of(Settings.load(project)).signer()
    assert signer is not None
    assert signer.id == key
    assert "in 23 hours" in run("keys", "list").stdout


def test_a_key_with_an_end_is_shown_with_it() -> None:
    created("--for", "ana", "--for", "ben", "--lasts", "90d")

    (key,) = [json.loads(line) for line in run("keys", "list", "--json").stdout.splitlines()]

    assert key["subjects"] == ["ana", "ben"]
    assert datetime.fromisoformat(key["expires_at"]) - datetime.fromisoformat(key["created_at"]) < timedelta(days=90)
    assert "in 89 days" in run("keys", "list").stdout


def test_the_private_key_is_in_json_when_it_is_asked_for_and_not_otherwise() -> None:
    words = ("keys", "create", "--name", "n", "--any", "--json")

    assert "private" not in json.loads(run(*words).stdout)
    printed = json.loads(run(*words, "--print").stdout)
    assert read_private(printed["private"]).id == printed["id"]


def test_no_key_is_said_to_be_and_leaves_nothing_that_could_be_taken_for_one() -> None:
    for words in (["list"], ["list", "--public"]):
        result = run("keys", *words)
        assert (result.exit_code, result.stdout) == (0, "")
        assert "horarium keys create" in result.stderr


@pytest.mark.parametrize("command", ["create", "list", "revoke"])
def test_every_help_has_an_example_and_the_exit_codes(command: str) -> None:
    said = CliRunner().invoke(horarium, ["keys", command, "--help"]).stdout

    assert f"  horarium keys {command}" in said
    assert "Exit codes:" in said


def test_a_name_that_steers_terminals_is_shown_and_does_not() -> None:
    assert run("keys", "create", "--name", "\x1b[31mred", "--for", "a\u202eb").exit_code == 0

    shown = run("keys", "list").stdout
    assert "<U+001B>[31mred" in shown
    assert "a<U+202E>b" in shown


def test_a_key_that_is_not_there_is_said_to_be() -> None:
    result = run("keys", "revoke", "key_0000000000000000")

    assert result.exit_code == 2
    assert "no key 'key_0000000000000000'" in result.stderr


def test_a_key_file_that_others_can_read_is_refused_with_what_to_do(project: Path) -> None:
    created("--any")
    (project / ".horarium" / "secrets" / FILE).chmod(0o644)

    result = run("keys", "list")

    assert result.exit_code == 2
    assert "chmod 600" in result.stderr


def test_a_grant_is_listed_until_it_is_revoked(project: Path) -> None:
    grant = asyncio.run(_granted(Settings.load(project)))

    listed = run("approvals", "grants", "list")
    assert grant in listed.stdout
    assert "thread thr_1" in listed.stdout
    revoked = run("approvals", "grants", "revoke", grant, "--by", "ben")

    assert revoked.exit_code == 0
    assert "revoked by ben" in revoked.stdout
    assert grant not in run("approvals", "grants", "list").stdout
    (line,) = run("approvals", "grants", "list", "--all", "--json").stdout.splitlines()
    assert json.loads(line)["revoked_by"] == "ben"


def test_a_grant_that_is_not_there_is_said_to_be() -> None:
    assert run("approvals", "grants", "revoke", "gra_none", "--by", "ben").exit_code == 2


async def _granted(settings: Settings) -> str:
    ledger = await Ledger.open(settings)
    try:
        now = datetime.now(UTC)
        given = Granting(
            tenant="default",
            agent="clerk",
            scope="thread",
            scope_id="thr_1",
            tool="pay",
            schema_digest="sha256:schema",
            bounds={"amount": {"maximum": 10}},
            by="ana",
            granted_in="apr_1",
            comment=None,
            at=now,
            ends_at=now + timedelta(hours=1),
        )
        async with ledger.write() as connection:
            return await record_grant(connection, given)
    finally:
        await ledger.close()
