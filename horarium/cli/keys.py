"""`horarium keys`: who may sign decisions. Needs no server and no ledger; a change counts at once."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import typer
from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from horarium.cli import talk, words
from horarium.definition import Duration
from horarium.errors import ConfigError
from horarium.proof import ANYBODY, Key, KeyRing, write_private, write_public
from horarium.settings import Settings

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the keys that sign decisions.")

COLUMNS = ("id", "name", "signs for", "created", "counts until", "state")

JsonOption = Annotated[bool, typer.Option("--json", help="For scripts.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(metavar="NAME", help="What or who has it.")],
    people: Annotated[
        list[str] | None, typer.Option("--for", metavar="PERSON", help="Whom it may sign for; give it again for more.")
    ] = None,
    anybody: Annotated[
        bool, typer.Option("--any", help="It may sign for anybody: for a gateway that checks who they are.")
    ] = False,
    lasts: Annotated[str | None, typer.Option(metavar="DURATION", help="Until when it counts, like 90d.")] = None,
    show: Annotated[
        bool, typer.Option("--print", help="Print the private key, this once: for a service on another machine.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Create an approver key in .horarium/secrets; keys that are there go on counting.

    A client in this project signs with it by itself. A service elsewhere gets
    the printed line as an environment variable, which its setting
    [approvals] signing_key names, like ${APPROVER_KEY}.

    \b
    Exit codes: 0 done, 2 you typed it wrong, or the file cannot be written.

    \b
    Examples:
      horarium keys create --name gateway --any
      horarium keys create --name billing --for billing@svc --lasts 90d --print
    """
    if ANYBODY in (people or ()):
        raise typer.BadParameter("is no person; for a key that signs for anybody say --any", param_hint="--for")

    async def work() -> int:
        if not people and not anybody:
            raise ConfigError(
                "The option --for is missing: whom may the key sign for?",
                hint="Say --for PERSON, again for more, or --any for a gateway that checks who people are.",
            )
        if people and anybody:
            raise ConfigError(
                "Both --for and --any were given.", hint="A key for anybody needs no --for: leave one out."
            )
        subjects = (ANYBODY,) if anybody else tuple(people or ())
        expires_at = _from_now(lasts, "--lasts") if lasts is not None else None
        key = _ring().create(name, subjects, expires_at)
        if as_json:
            talk.emit(key_json(key) | ({"private": write_private(key)} if show else {}))
        elif show:
            talk.say(f"{key.id} is created. Its private key, which is not shown again:")
            print(write_private(key))
        else:
            talk.out().print(Text(f"{key.id} is created; it signs for {_signs_for(key)}."), soft_wrap=True)
        return talk.DONE

    talk.perform(work())


@app.command("list")
def list_(
    public: Annotated[
        bool, typer.Option("--public", help="Print the public keys, for workers that only verify.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """List the approver keys. Private keys are never shown.

    \b
    Exit codes: 0 done, 2 the file cannot be read, or is open to others.

    \b
    Examples:
      horarium keys list
      export APPROVER_KEYS="$(horarium keys list --public)"
    """

    async def work() -> int:
        keys, now = _ring().all(), datetime.now(UTC)
        if public:
            keys = [key for key in keys if key.unusable(now) is None]
        if as_json:
            for key in keys:
                talk.emit(key_json(key))
        elif keys and public:
            print(write_public(keys))
        elif keys:
            talk.out().print(talk.table(COLUMNS, [_row(key, now) for key in keys], keep=("id",)))
        else:
            talk.say("There is no key that counts. Create one: horarium keys create --name gateway --any")
        return talk.DONE

    talk.perform(work())


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id.")],
    after: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Leave this long to change over to another key.")
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke a key: what it signs, and what it has signed and was not carried out, releases nothing.

    \b
    Exit codes: 0 done, 2 there is no such key.

    \b
    Examples:
      horarium keys revoke key_5f3c2a9b8d7e6f10
      horarium keys revoke key_5f3c2a9b8d7e6f10 --after 24h
    """

    async def work() -> int:
        at = _from_now(after, "--after") if after is not None else datetime.now(UTC)
        revoked = _ring().revoke(key, at)
        if as_json:
            talk.emit(key_json(revoked))
        else:
            talk.out().print(Text(f"{revoked.id} releases nothing from {words.when(revoked.revoked_at)} on."))
        return talk.DONE

    talk.perform(work())


def key_json(key: Key) -> dict[str, Any]:
    """A key, without its private part."""
    return key.only_public().model_dump(mode="json", exclude={"private"})


def _row(key: Key, now: datetime) -> tuple[str, ...]:
    ends = min((moment for moment in (key.expires_at, key.revoked_at) if moment is not None), default=None)
    state = "revoked" if key.revoked_at and now >= key.revoked_at else "expired" if key.unusable(now) else "in use"
    if key.private is None:
        state += ", verifies only"
    until = words.when(ends) if ends else "-"
    return (key.id, words.one_line(key.name), _signs_for(key), words.when(key.created_at), until, state)


def _signs_for(key: Key) -> str:
    return "anybody" if ANYBODY in key.subjects else ", ".join(words.one_line(person) for person in key.subjects)


def _ring() -> KeyRing:
    return KeyRing.of(Settings.load())


def _from_now(text: str, option: str) -> datetime:
    try:
        lasting = TypeAdapter(Duration).validate_python(text)
        if lasting < timedelta(0):
            raise typer.BadParameter("lies in the past", param_hint=option)
        return datetime.now(UTC) + lasting
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint=option) from error
    except OverflowError as error:
        raise typer.BadParameter("is longer than can be counted", param_hint=option) from error
