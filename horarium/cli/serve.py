"""`horarium serve`: one agent over HTTP, as a hosted agent's container is expected to serve it."""

from __future__ import annotations

import asyncio
import signal
from typing import Annotated

import typer

from horarium.cli import talk
from horarium.cli.reach import opened_client
from horarium.settings import Settings

DEFAULT_PORT = 8088


def serve(
    agent: Annotated[str, typer.Argument(metavar="AGENT", help="Its name.")],
    host: Annotated[
        str,
        typer.Option(envvar="HORARIUM_HOST", help="To bind to. Elsewhere than on loopback every call needs a key."),
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, envvar="PORT", help="0: any that is free.")] = DEFAULT_PORT,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: the address, as one JSON object.")] = False,
) -> None:
    """Serve one agent: /responses, /invocations and /readiness, until Ctrl-C or SIGTERM.

    Its runs are carried out by the engine's workers, which have to be running: horarium up, or horarium worker. They
    go on when this stops.

    \b
    Exit codes: 0 stopped, 2 you typed it wrong, no such agent, or the port is taken,
    3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium serve triage
      horarium serve triage --host 0.0.0.0 --port 8088
    """
    talk.perform(_serve(agent, host, port, as_json=as_json))


async def _serve(agent: str, host: str, port: int, *, as_json: bool) -> int:
    from horarium.gateway.serving import serving  # what it brings along would slow every command down
    from horarium.logs import clean_output, hide_secrets, set_up_logging

    settings = Settings.load()
    set_up_logging(settings.log_level)
    hide_secrets(settings)
    clean_output()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with opened_client(settings) as (client, _ledger):
        await client.agent(agent)
        async with serving(client, settings, host=host, port=port, agent=agent) as served:
            _say_where(agent, served.url, anonymous=served.anonymous, as_json=as_json)
            await stop.wait()
    return talk.DONE


def _say_where(agent: str, address: str, *, anonymous: bool, as_json: bool) -> None:
    if as_json:
        talk.emit({"agent": agent, "address": address, "anonymous": anonymous})
        return
    print(address, flush=True)
    keys = "with an API key, or without one" if anonymous else "with an API key"
    talk.say(f"Serving {agent}, to whoever comes {keys}. Stop it with Ctrl-C.")
