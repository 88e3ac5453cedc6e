"""The process that serves the gateway, in front of an engine that runs somewhere else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
from collections.abc import AsyncIterator, Collection, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import uvicorn

from horarium.client import Client
from horarium.errors import ConfigError
from horarium.gateway.app import gateway_app
from horarium.gateway.auth import is_loopback
from horarium.gateway.connections import Connection
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.toolboxes import Toolboxes
from horarium.previews import Previewer
from horarium.settings import Settings

MOST_CONNECTIONS = 2_000
LEAVING_PATIENCE = 3  # seconds for answers that are on their way


@dataclass(frozen=True, slots=True)
class Serving:
    """A gateway that listens. `anonymous`: it lets calls in without a key."""

    host: str
    port: int
    anonymous: bool
    toolboxes: tuple[str, ...]

    @property
    def url(self) -> str:
        """Its root."""
        host = f"[{self.host}]" if ":" in self.host else self.host
        return f"http://{host}:{self.port}"

    def address(self, toolbox: str) -> str:
        """The MCP endpoint of a toolbox."""
        return f"{self.url}/toolboxes/{toolbox}/mcp"


@asynccontextmanager
async def serving(
    client: Client,
    settings: Settings,
    *,
    host: str,
    port: int,
    toolboxes: Collection[str] | None = None,
    preview: Previewer | None = None,
    agent: str | None = None,
    keyless: bool = False,
) -> AsyncIterator[Serving]:
    """Serve toolboxes as long as the block runs.

    Args:
        client: With a ledger.
        settings: Of the project.
        host: To bind to. Elsewhere than on loopback every call needs an API key.
        port: 0 takes any that is free.
        toolboxes: Their names. None: all that there are, also those that come later.
        preview: Of the engine's calendar; None: it has no previews of routines.
        agent: Serve this one, as a hosted agent, and nothing else.
        keyless: Begin also while nobody could call; a key may be made later.

    Raises:
        ToolboxNotFound: There is no such toolbox.
        ConfigError: The port is taken, or nobody could call.
    """
    ledger = client.require_ledger()
    # What is reached by another name is reached through a proxy, and then everybody comes from loopback.
    reached = bool(settings.gateway.hosts or settings.gateway.proxies)
    anonymous = settings.gateway.anonymous and is_loopback(host) and not reached
    for name in toolboxes or ():
        await Toolboxes(ledger).default(name)
    nobody = not anonymous and settings.gateway.oidc is None
    if nobody and not keyless and not await ApiKeys(ledger).any_counts():
        raise ConfigError(
            f"Nobody could call: {'with `hosts` or `proxies`' if reached else f'on {host}'} "
            "every call needs an API key, and there is none.",
            hint="Create one: horarium api-keys create --name NAME --toolbox NAME",
        )
    listener = _bound(host, port)
    bound = int(listener.getsockname()[1])
    toolboxes = () if agent is not None else toolboxes
    app = gateway_app(client, settings, port=bound, served=toolboxes, anonymous=anonymous, preview=preview, agent=agent)
    config = uvicorn.Config(
        app,
        http=Connection,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        limit_concurrency=MOST_CONNECTIONS,
        timeout_graceful_shutdown=LEAVING_PATIENCE,
    )
    server = _Server(config)
    task = asyncio.create_task(server.serve(sockets=[listener]))
    try:
        names = tuple(toolboxes) if toolboxes is not None else tuple(await Toolboxes(ledger).names())
        yield Serving(host, bound, anonymous, names)
    finally:
        app.state.calls.leaving = True
        server.should_exit = True
        await task
        listener.close()


class _Server(uvicorn.Server):
    """Leaves signals to whoever started it."""

    @contextlib.contextmanager
    def capture_signals(self) -> Iterator[None]:
        """Capture none."""
        yield


def _bound(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # With its protocol: asyncio sends small answers at once only where the socket says that it is TCP.
    listener = socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    try:
        listener.bind((host, port))
        listener.listen(128)
    except OSError as error:
        listener.close()
        raise ConfigError(
            f"Cannot listen on {host} port {port}: {error.strerror}.", hint="Choose another with --port."
        ) from error
    return listener
