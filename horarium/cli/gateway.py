"""`horarium gateway`: the gateway by itself, in front of a cluster. `horarium up` has one of its own."""

from __future__ import annotations

import asyncio
import signal
from pathlib import Path
from typing import Annotated

import typer

from horarium.cli import talk
from horarium.cli.reach import opened_client
from horarium.cli.stack import DirectoryOption
from horarium.engine import use_engine
from horarium.settings import Settings
from horarium.stack import GATEWAY_PORT


def gateway(
    host: Annotated[
        str,
        typer.Option(envvar="HORARIUM_HOST", help="To bind to. Elsewhere than on loopback every call needs a key."),
    ] = "127.0.0.1",
    port: Annotated[
        int, typer.Option(min=0, max=65535, envvar="HORARIUM_GATEWAY_PORT", help="0: any that is free.")
    ] = GATEWAY_PORT,
    directory: DirectoryOption = None,
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: the address, as one JSON object.")] = False,
) -> None:
    """Serve REST, the Responses protocol and toolboxes over HTTP until Ctrl-C or SIGTERM.

    It runs nothing itself: the engine's workers carry out what is asked, and go on when this stops. Start as many as
    you like; none of them has anything that the others have not.

    \b
    Exit codes: 0 stopped, 2 a setting is wrong or the port is taken, 3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium gateway
      horarium gateway --host 0.0.0.0 --port 8080
    """
    talk.perform(_gateway(directory, host, port, as_json=as_json))


async def _gateway(directory: Path | None, host: str, port: int, *, as_json: bool) -> int:
    use_engine()
    settings = Settings.load(directory)
    from horarium.gateway.auth import is_loopback
    from horarium.gateway.serving import serving  # what it brings along would slow every command down
    from horarium.logs import clean_output, hide_secrets, set_up_logging
    from schedules.previews import preview

    set_up_logging(settings.log_level)
    hide_secrets(settings)
    clean_output()
    stop = asyncio.Event()
    loop = asyncio.get_running_loop()
    for number in (signal.SIGTERM, signal.SIGINT):
        loop.add_signal_handler(number, stop.set)
    async with (
        opened_client(settings) as (client, _ledger),
        serving(client, settings, host=host, port=port, preview=preview, keyless=True) as served,
    ):
        if as_json:
            talk.emit({"url": served.url, "port": served.port, "anonymous": served.anonymous})
        else:
            print(served.url, flush=True)
            keys = "with an API key, or without one" if served.anonymous else "with an API key"
            talk.say(f"Serving whoever comes {keys}. Stop it with Ctrl-C.")
            if not is_loopback(host) and not settings.gateway.hosts:
                talk.say("It answers to localhost alone: put its other names into `hosts` of [gateway].")
        await stop.wait()
    return talk.DONE
