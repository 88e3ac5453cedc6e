"""Requests to addresses that a definition, a document or a redirect names: where they may lead.

A name is looked up once, every address that it has is judged, and the connection goes to one of exactly these. So a
name that answers differently a moment later changes nothing. Proxies from the environment are not used, because a
proxy would look the name up itself; certificates from SSL_CERT_FILE and SSL_CERT_DIR are.
"""

from __future__ import annotations

import asyncio
import logging
import socket
import ssl
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any

import httpcore2
import httpx2

from horarium.errors import AddressRefused, ToolNotReached

Address = IPv4Address | IPv6Address
Resolve = Callable[[str, int], Awaitable[Sequence[str]]]
"""Host and port to the addresses that it has, as text."""

# Addresses that carry another one inside of them, or that lead through a translator which does.
_WRAPPED = tuple(
    ip_network(block)
    for block in (
        "::/96",
        "::ffff:0:0/96",
        "::ffff:0:0:0/96",
        "64:ff9b::/96",
        "64:ff9b:1::/48",
        "2001::/32",
        "2002::/16",
    )
)
_SITE_LOCAL = ip_network("fec0::/10")
_SHARED = ip_network("100.64.0.0/10")
MAX_CONNECTIONS = 100

for _talkative in ("httpx2", "httpcore2"):  # they log whole addresses, where some APIs want their key
    logging.getLogger(_talkative).setLevel(logging.WARNING)


async def system_resolve(host: str, port: int) -> Sequence[str]:
    """The addresses of a host as this machine knows them; understands octal, hexadecimal and short forms as it does.

    Raises:
        OSError: It has none.
    """
    found = await asyncio.get_running_loop().getaddrinfo(host, port, type=socket.SOCK_STREAM)
    return list(dict.fromkeys(str(item[4][0]) for item in found))


def refusal(address: Address, *, private_network: bool = False) -> str | None:
    """Why nothing is sent to this address; None when it may be.

    `private_network` lets through what only this network knows: private, loopback, link-local, shared and wrapped
    addresses. What can be no server's address is refused always.
    """
    if address.is_multicast:
        return "is a multicast address"
    if address.is_unspecified or address == IPv4Address("255.255.255.255"):
        return "is no address of a server"
    if private_network:
        return None
    if any(address in block for block in _WRAPPED):
        return "holds another address inside"
    if address.is_loopback:
        return "is this machine"
    if address.is_link_local:
        return "is link-local, where clouds keep their credentials"
    if address in _SHARED:
        return "is in a provider's own network"
    if address.is_private or address in _SITE_LOCAL:
        return "is in a private network"
    return None if address.is_global and not address.is_reserved else "is reserved"


def literal(host: str) -> Address | None:
    """The address that a host is, written the usual way; None for names and for other ways to write numbers."""
    try:
        return ip_address(host.strip("[]"))
    except ValueError:
        return None


def is_said_openly(host: str, address: Address) -> bool:
    """Whether somebody who writes this host means exactly this machine, or an address of a private network."""
    if address.is_link_local or refusal(address, private_network=True) or any(address in block for block in _WRAPPED):
        return address == IPv6Address("::1") and host.strip("[]") in ("::1", "localhost")
    return literal(host) == address or (host == "localhost" and address.is_loopback)


class Guard:
    """Which addresses requests for one URL may connect to."""

    def __init__(
        self, url: str, *, private_network: bool = False, said_openly: bool = True, resolve: Resolve = system_resolve
    ) -> None:
        """`said_openly`: the URL was written by whoever owns the project, so an address in it counts as meant.

        Raises:
            AddressRefused: It is no URL of a server.
        """
        try:
            parsed = httpx2.URL(url)
        except httpx2.InvalidURL as error:
            raise AddressRefused(f"{url!r} is no URL: {error}.") from error
        if parsed.scheme not in ("http", "https") or not parsed.host:
            raise AddressRefused(f"{url!r} does not begin with http:// or https:// and a host.")
        self.host = parsed.host.lower()
        self._private_network = private_network
        self._said_openly = said_openly
        self._resolve = resolve

    async def addresses(self, host: str, port: int) -> list[Address]:
        """Every address of the host, all of them judged.

        Raises:
            AddressRefused: It is not the host of this guard's URL, or one of its addresses may not be connected to.
            ToolNotReached: It has no address.
        """
        host = host.lower().strip("[]")
        if host != self.host.strip("[]"):
            raise AddressRefused(f"{self.host!r} leads to another host, {host!r}, which nobody named.")
        known = literal(host)
        if known is None:
            try:
                found = [ip_address(text.partition("%")[0]) for text in await self._resolve(host, port)]
            except (OSError, UnicodeError) as error:
                raise ToolNotReached(f"{host!r} has no address: {error}.") from error
        else:
            found = [known]
        if not found:
            raise ToolNotReached(f"{host!r} has no address.")
        for address in found:
            why = refusal(address, private_network=self._private_network)
            if why is not None and not (self._said_openly and is_said_openly(self.host, address)):
                raise AddressRefused(f"{host!r} is not connected to: {address} {why}.", hint=self._hint(address))
        return found

    def _hint(self, address: Address) -> str | None:
        if refusal(address, private_network=True) is not None:
            return None
        return "If it is meant, say `private_network: true` where its URL stands."


class _GuardedNetwork(httpcore2.AsyncNetworkBackend):
    """Connects to the very addresses that were judged; TLS and the Host header still see the name."""

    def __init__(self, guard: Guard) -> None:
        self._guard = guard
        self._network = httpcore2.AnyIOBackend()

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore2.AsyncNetworkStream:
        failure: Exception | None = None
        try:
            async with asyncio.timeout(timeout):
                for address in await self._guard.addresses(host, port):
                    try:
                        return await self._network.connect_tcp(
                            str(address), port, local_address=local_address, socket_options=socket_options
                        )
                    except (httpcore2.ConnectError, httpcore2.ConnectTimeout) as error:
                        failure = error
        except TimeoutError as error:
            raise httpcore2.ConnectTimeout(f"no connection within {timeout:g} s") from error
        raise httpcore2.ConnectError(str(failure)) from failure

    async def connect_unix_socket(
        self, path: str, timeout: float | None = None, socket_options: Iterable[Any] | None = None
    ) -> httpcore2.AsyncNetworkStream:
        raise AddressRefused("A socket of this machine is not connected to.")

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)


@lru_cache(maxsize=1)
def _certificates() -> ssl.SSLContext:
    return httpx2.create_ssl_context()  # reads some hundred certificates


class GuardedTransport(httpx2.AsyncHTTPTransport):
    """A transport whose every connection passes a guard.

    Raises:
        AddressRefused: The address may not be connected to. Nothing was sent.
        ToolNotReached: There was no connection. Nothing was sent.
    """

    def __init__(self, guard: Guard) -> None:
        certificates = _certificates()
        super().__init__(verify=certificates)
        self._host = guard.host
        self._pool = httpcore2.AsyncConnectionPool(
            ssl_context=certificates,
            network_backend=_GuardedNetwork(guard),
            max_connections=MAX_CONNECTIONS,
            keepalive_expiry=5.0,
        )

    async def handle_async_request(self, request: httpx2.Request) -> httpx2.Response:
        try:
            return await super().handle_async_request(request)
        except (httpx2.ConnectError, httpx2.ConnectTimeout, httpx2.PoolTimeout) as error:
            why = str(error) or type(error).__name__
            raise ToolNotReached(f"{self._host!r} could not be reached: {why}.") from error


def guarded_client(
    url: str,
    *,
    private_network: bool = False,
    said_openly: bool = True,
    headers: Mapping[str, str] = {},
    timeout: float,
    resolve: Resolve = system_resolve,
) -> httpx2.AsyncClient:
    """A client for the host of one URL; redirects are not followed, and another host is refused.

    Args:
        url: What is asked for; its host is the only one that this client talks to.
        private_network: Its name may lead into a private network.
        said_openly: The URL was written by whoever owns the project, so `localhost` or a private address in it is
            meant. Say False for a URL that came from a document or a server.
        headers: Sent with each request; secrets looked up already.
        timeout: Seconds, for connecting, and for each silence between two parts of an answer.
        resolve: Looks up names; another one in tests.

    Raises:
        AddressRefused: It is no URL of a server. Later, from requests: its address may not be connected to.
    """
    guard = Guard(url, private_network=private_network, said_openly=said_openly, resolve=resolve)
    return httpx2.AsyncClient(
        transport=GuardedTransport(guard),
        headers=dict(headers),
        timeout=timeout,
        follow_redirects=False,
        trust_env=False,
    )
