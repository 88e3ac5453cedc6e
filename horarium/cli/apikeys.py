"""`horarium api-keys`: who may use what is served over HTTP. Needs the ledger only; a change counts at once."""

from __future__ import annotations

import getpass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any, Literal

import typer
from pydantic import TypeAdapter, ValidationError
from rich.text import Text

from horarium.apikeys import ApiKey
from horarium.cli import talk, words
from horarium.cli.reach import opened_ledger
from horarium.definition import Duration
from horarium.ledger.api_keys import ApiKeys

app = typer.Typer(no_args_is_help=True, help="Create, list and revoke the keys to what is served over HTTP.")

COLUMNS = ("id", "name", "tenant", "may use", "created", "last used", "state")

ByOption = Annotated[
    str | None,
    typer.Option("--by", envvar="HORARIUM_BY", metavar="NAME", help="Who says so. Default: your login name."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


@app.command()
def create(
    name: Annotated[str, typer.Option(metavar="NAME", help="Who or what has it; its runs are requested by this name.")],
    toolboxes: Annotated[
        list[str] | None,
        typer.Option("--toolbox", metavar="NAME", help="A toolbox it may use, or '*'; give it again for more."),
    ] = None,
    tools: Annotated[
        list[str] | None,
        typer.Option(
            "--tools", metavar="NAME", help="A group of tool workers it may serve without the ledger, or '*'."
        ),
    ] = None,
    role: Annotated[
        Literal["viewer", "operator", "approver", "admin"] | None,
        typer.Option(help="What it may do in REST and the console; each role has all that the one before it has."),
    ] = None,
    scopes: Annotated[
        list[str] | None, typer.Option("--scope", metavar="SCOPE", help="The same in long: toolbox:payments.")
    ] = None,
    lasts: Annotated[
        str | None, typer.Option(metavar="DURATION", help="Until when it counts, like 90d. Default: until revoked.")
    ] = None,
    tenant: Annotated[str, typer.Option(help="Whose runs it starts.")] = "default",
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Create an API key and print it, this once: the ledger has only its hash.

    \b
    Exit codes: 0 done, 2 you typed it wrong, 3 cannot reach the ledger.

    \b
    Examples:
      horarium api-keys create --name desktop-ana --toolbox payments
      horarium api-keys create --name maria --role approver
      horarium api-keys create --name builder --tools builder
      KEY=$(horarium api-keys create --name ci --toolbox '*' --lasts 90d)
    """
    wanted = (
        *(f"toolbox:{name}" for name in toolboxes or ()),
        *(f"tools:{name}" for name in tools or ()),
        *((f"role:{role}",) if role is not None else ()),
        *(scopes or ()),
    )
    expires_at = _from_now(lasts) if lasts is not None else None

    async def work() -> int:
        async with opened_ledger() as ledger:
            made, key = await ApiKeys(ledger).create(
                name, wanted, tenant=tenant, expires_at=expires_at, by=by or getpass.getuser()
            )
        if as_json:
            talk.emit({**key_json(made), "key": key})
        else:
            talk.say(f"{made.id} is created, for {_scopes(made)}. The key, which is not shown again:")
            print(key)
        return talk.DONE

    talk.perform(work())


@app.command("list")
def list_(
    tenant: Annotated[str | None, typer.Option(help="Only this tenant's. Default: all.")] = None,
    as_json: JsonOption = False,
) -> None:
    """List the API keys, the newest first. Secrets are never shown.

    \b
    Exit codes: 0 done, 3 cannot reach the ledger.

    \b
    Example:
      horarium api-keys list
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            keys, now = await ApiKeys(ledger).all(tenant=tenant), datetime.now(UTC)
        if as_json:
            for key in keys:
                talk.emit(key_json(key))
        elif keys:
            talk.out().print(talk.table(COLUMNS, [_row(key, now) for key in keys], keep=("id",)))
        else:
            talk.say("There is no API key. Create one: horarium api-keys create --name NAME --toolbox NAME")
        return talk.DONE

    talk.perform(work())


@app.command()
def revoke(
    key: Annotated[str, typer.Argument(metavar="ID", help="The key's id, like hk_5f3c2a9b8d7e6f10.")],
    by: ByOption = None,
    as_json: JsonOption = False,
) -> None:
    """Revoke an API key: from now on it opens nothing. What was started with it goes on.

    \b
    Exit codes: 0 done (also when it had been revoked before), 2 there is none, 3 cannot reach the ledger.

    \b
    Example:
      horarium api-keys revoke hk_5f3c2a9b8d7e6f10
    """

    async def work() -> int:
        async with opened_ledger() as ledger:
            revoked = await ApiKeys(ledger).revoke(key, by=by or getpass.getuser())
        if as_json:
            talk.emit(key_json(revoked))
        else:
            talk.out().print(Text(f"{revoked.id} ({words.one_line(revoked.name)}) opens nothing any more."))
        return talk.DONE

    talk.perform(work())


def key_json(key: ApiKey) -> dict[str, Any]:
    """A key without its hash, with stable names."""
    times = ("created_at", "expires_at", "last_used_at", "revoked_at")
    shown: dict[str, Any] = {"id": key.id, "name": key.name, "tenant": key.tenant, "scopes": list(key.scopes)}
    shown["created_by"] = key.created_by
    return shown | {name: at.isoformat() if (at := getattr(key, name)) is not None else None for name in times}


def _row(key: ApiKey, now: datetime) -> tuple[str, ...]:
    state = key.unusable(now) or (f"until {words.when(key.expires_at)}" if key.expires_at else "active")
    used = words.when(key.last_used_at) if key.last_used_at else "never"
    name, tenant = words.one_line(key.name), words.one_line(key.tenant)
    return (key.id, name, tenant, _scopes(key), words.when(key.created_at), used, state)


def _scopes(key: ApiKey) -> str:
    return ", ".join(key.scopes)


def _from_now(text: str) -> datetime:
    try:
        return datetime.now(UTC) + max(TypeAdapter(Duration).validate_python(text), timedelta(0))
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--lasts") from error
    except OverflowError as error:
        raise typer.BadParameter("is longer than can be counted", param_hint="--lasts") from error
