"""`horarium up` and `horarium worker`: the commands that start engine processes."""

from __future__ import annotations

import asyncio
import gc
import json
import signal
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated

import typer
from pydantic import ValidationError

from horarium.cli import talk
from horarium.engine import use_engine
from horarium.settings import Settings, ToolsSettings
from horarium.stack import read_stack

DirectoryOption = Annotated[
    Path | None,
    typer.Option("--directory", "-C", envvar="HORARIUM_DIRECTORY", help="Of the project. Default: around here."),
]
JsonOption = Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")]


def up(
    workers: Annotated[int, typer.Option(min=1, max=32, envvar="HORARIUM_WORKERS", help="Engine workers.")] = 1,
    port: Annotated[
        int | None,
        typer.Option(envvar="HORARIUM_PORT", help="Of Temporal. Default: 7233, or any free one when that is taken."),
    ] = None,
    health_port: Annotated[
        int | None,
        typer.Option(envvar="HORARIUM_HEALTH_PORT", help="Of /healthz and /readyz. Default: 7280, or any free one."),
    ] = None,
    gateway_port: Annotated[
        int | None,
        typer.Option(envvar="HORARIUM_GATEWAY_PORT", help="Of the gateway. Default: 7281, or the next free one."),
    ] = None,
    ui: Annotated[
        bool,
        typer.Option(
            "--ui", envvar="HORARIUM_UI", help="With Temporal's own UI. Off by default: it answers to any host name."
        ),
    ] = False,
    directory: DirectoryOption = None,
    as_json: JsonOption = False,
) -> None:
    """Start server, worker, gateway and health endpoint on this machine; keep them running until Ctrl-C.

    Everything is on loopback, and its state in ./.horarium: it survives. What dies is started again.

    \b
    Exit codes: 0 stopped, 1 another stack runs here, 2 a file or setting is wrong, 3 the server did not come up.

    \b
    Example:
      horarium up
    """
    use_engine()
    ports = {"port": port, "health_port": health_port, "gateway_port": gateway_port}
    talk.perform(_up(workers, ports, directory, ui=ui, as_json=as_json))


async def _up(
    workers: int, ports: Mapping[str, int | None], directory: Path | None, *, ui: bool, as_json: bool
) -> None:
    from horarium.logs import set_up_logging
    from workers.supervisor import Supervisor

    settings = Settings.load(directory)
    set_up_logging("warning")

    def say(line: str) -> None:
        if not as_json:
            talk.out().print(line, soft_wrap=True)
            return
        ready = read_stack(settings) if line.startswith("Ready") else None
        told = {"event": "ready", **ready.model_dump(mode="json")} if ready else {"event": "said", "text": line}
        print(json.dumps(told), flush=True)

    await Supervisor(settings, workers=workers, ui=ui, say=say, **ports).run()


def worker(
    tools: Annotated[
        bool, typer.Option("--tools", help="Serve the project's tools instead, from a process of their own.")
    ] = False,
    name: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Of the group of tool workers. Default: `name` in [tools], or project."),
    ] = None,
    gateway: Annotated[
        str | None,
        typer.Option(
            metavar="URL",
            help="Serve tools without the ledger, through this gateway; the key is in HORARIUM_GATEWAY_KEY. "
            "Default: `gateway` in [tools].",
        ),
    ] = None,
    directory: DirectoryOption = None,
    as_json: Annotated[
        bool, typer.Option("--json/--no-json", help="Log JSON lines. Default: unless stderr is a terminal.")
    ] = False,
) -> None:
    """Run one worker until Ctrl-C or SIGTERM; what is in flight is finished or handed back.

    `horarium up` starts workers by itself; this is for more of them, on this or another host, against the Temporal
    and the ledger that the settings name.

    \b
    Exit codes: 0 stopped, 2 a file or setting is wrong, 3 cannot reach Temporal or the ledger.

    \b
    Examples:
      horarium worker
      horarium worker --tools
      horarium worker --tools --name payments -C /srv/payments
      horarium worker --tools --name payments --gateway https://horarium.example.com
    """
    if name is not None and not tools:
        raise typer.BadParameter("only tool workers have names; add --tools", param_hint="--name")
    if gateway is not None and not tools:
        raise typer.BadParameter("only tool workers do without the ledger; add --tools", param_hint="--gateway")
    if not tools:
        use_engine()
    from uvloop import new_event_loop  # a tenth less of a worker's time goes into the loop

    talk.perform(_worker(tools, name, directory, gateway, as_json=as_json), loop=new_event_loop)


def _settle_in() -> None:
    """What is loaded by now stays: looks for garbage leave it out, and are made a tenth as often."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(10_000, 20, 50)


async def _worker(tools: bool, name: str | None, directory: Path | None, gateway: str | None, *, as_json: bool) -> None:
    stop = asyncio.Event()
    for number in (signal.SIGTERM, signal.SIGINT):
        asyncio.get_running_loop().add_signal_handler(number, stop.set)
    settings = Settings.load(directory)
    if tools:
        settings = _behind(settings, gateway)
        await _serve_tools(settings, name, stop, as_json=as_json)
        return
    from horarium.logs import clean_output, hide_secrets, set_up_logging
    from horarium.project import Project, tools_apart
    from workers.engine import run_engine

    set_up_logging(settings.log_level, json=True if as_json else None)
    hide_secrets(settings)
    clean_output()
    apart, _ = tools_apart(settings)
    project = Project.load(settings, with_tools=not apart)
    _settle_in()
    await run_engine(settings, project, stop)


def _behind(settings: Settings, gateway: str | None) -> Settings:
    if gateway is None:
        return settings
    try:
        tools = ToolsSettings.model_validate({**settings.tools.model_dump(), "gateway": gateway})
    except ValidationError as error:
        raise typer.BadParameter(error.errors()[0]["msg"], param_hint="--gateway") from error
    return settings.model_copy(update={"tools": tools})


async def _serve_tools(settings: Settings, name: str | None, stop: asyncio.Event, *, as_json: bool) -> None:
    from horarium.logs import clean_output, hide_secrets, set_up_logging
    from horarium.project import load_tools
    from horarium.serving import serve_tools

    set_up_logging(settings.log_level, json=True if as_json else None)
    hide_secrets(settings)
    clean_output()
    await serve_tools(load_tools(settings).values(), name=name or settings.tools.name, settings=settings, stop=stop)
