"""`horarium toolbox serve`: toolboxes as MCP endpoints."""

from __future__ import annotations

import asyncio
import signal
from typing import TYPE_CHECKING, Annotated

import typer

from horarium.cli import talk
from horarium.cli.reach import opened_client
from horarium.engine import use_engine
from horarium.errors import ConfigError
from horarium.settings import Settings

if TYPE_CHECKING:
    from horarium.gateway.serving import Serving

DEFAULT_PORT = 8377


def serve(
    names: Annotated[
        list[str] | None, typer.Argument(metavar="[NAME]...", help="The toolboxes to serve.", show_default=False)
    ] = None,
    everything: Annotated[
        bool, typer.Option("--all", help="All that there are, also those that are published later.")
    ] = False,
    host: Annotated[
        str,
        typer.Option(envvar="HORARIUM_HOST", help="To bind to. Elsewhere than on loopback every call needs a key."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="HORARIUM_GATEWAY_PORT", help="0: any that is free.")
    ] = DEFAULT_PORT,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: the addresses, as one JSON object.")] = False,
) -> None:
    """Serve toolboxes as MCP endpoints over streamable HTTP, until Ctrl-C.

    Each call is a run of its own: journalled, and gated by the toolbox's approval plan. The tools themselves are
    run by the engine's workers, which have to be running: horarium up, or horarium worker.

    \b
    Exit codes: 0 stopped, 2 you typed it wrong, no such toolbox, or the port is taken,
    3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium toolbox serve payments
      horarium toolbox serve --all --port 9000
    """
    if bool(names) == everything:
        raise typer.BadParameter("name the toolboxes, or say --all")
    talk.perform(_serve(None if everything else tuple(dict.fromkeys(names or ())), host, port, as_json=as_json))


async def _serve(names: tuple[str, ...] | None, host: str, port: int, *, as_json: bool) -> int:
    from horarium.gateway.serving import serving  # what it brings along would slow every command down

    use_engine()
    from schedules.previews import preview

    settings = Settings.load()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        opened_client(settings) as (client, _ledger),
        serving(client, settings, host=host, port=port, toolboxes=names, preview=preview) as served,
    ):
        if not served.toolboxes:
            raise ConfigError("There is no toolbox yet.", hint="Write one into toolboxes/, and start: horarium up")
        _say_where(served, as_json=as_json)
        await stop.wait()
    return talk.DONE


def _say_where(served: Serving, *, as_json: bool) -> None:
    addresses = {name: served.address(name) for name in served.toolboxes}
    if as_json:
        talk.emit({"port": served.port, "anonymous": served.anonymous, "toolboxes": addresses})
        return
    for address in addresses.values():
        print(address, flush=True)
    keys = "with an API key, or without one" if served.anonymous else "with an API key"
    talk.say(f"Serving MCP over streamable HTTP, to whoever comes {keys}. Stop it with Ctrl-C.")
