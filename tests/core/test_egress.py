"""Where requests may lead: no name, number, redirect or second answer of a name server gets past the guard."""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from ipaddress import ip_address

import httpx2
import pytest

from horarium.egress import Guard, guarded_client, refusal
from horarium.errors import AddressRefused, ToolNotReached

PUBLIC = "93.184.216.34"

# What this machine's own resolver makes of each, without a network.
REFUSED = [
    "http://127.0.0.1/",
    "http://127.0.0.1:8080/x",
    "http://127.1/",
    "http://127.0.1/",
    "http://2130706433/",
    "http://0x7f000001/",
    "http://0x7f.0.0.1/",
    "http://0177.0.0.1/",
    "http://017700000001/",
    "http://0/",
    "http://0.0.0.0/",
    "http://[::]/",
    "http://[::1]/",
    "http://[0:0:0:0:0:0:0:1]/",
    "http://[::ffff:127.0.0.1]/",
    "http://[::ffff:7f00:1]/",
    "http://[::ffff:10.0.0.1]/",
    "http://[::127.0.0.1]/",
    "http://[64:ff9b::7f00:1]/",
    "http://[64:ff9b::169.254.169.254]/",
    "http://[64:ff9b:1::1]/",
    "http://[2002:7f00:1::]/",
    "http://[2001:0:7f00:1::]/",
    "http://localhost/",
    "http://LOCALHOST/",
    "http://user:word@127.0.0.1/",
    "http://api.example.com@127.0.0.1/",
    "http://169.254.169.254/latest/meta-data/",
    "http://2852039166/",
    "http://0xa9fea9fe/",
    "http://[fe80::1]/",
    "http://[fd00:ec2::254]/",
    "http://10.0.0.5/",
    "http://10.1/",
    "http://172.16.0.1/",
    "http://172.31.255.255/",
    "http://192.168.1.1/",
    "http://0300.0250.1.1/",
    "http://100.64.0.1/",
    "http://100.100.100.200/",
    "http://192.0.2.1/",
    "http://198.18.0.1/",
    "http://240.0.0.1/",
    "http://255.255.255.255/",
    "http://224.0.0.1/",
    "http://[ff02::1]/",
    "http://[fc00::1]/",
    "http://[fec0::1]/",
    "http://[2001:db8::1]/",
    "https://127.0.0.1:8443/",
    "ftp://93.184.216.34/",
    "file:///etc/passwd",
    "http:///x",
    "unix:///var/run/docker.sock",
]


@pytest.mark.parametrize("url", REFUSED)
async def test_a_url_that_somebody_else_wrote_reaches_nothing_that_is_not_public(url: str) -> None:
    with pytest.raises(AddressRefused):
        async with guarded_client(url, said_openly=False, timeout=2) as client:
            await client.get(url)


@pytest.mark.parametrize(
    "url", ["http://2130706433/", "http://127.1/", "http://[::ffff:127.0.0.1]/", "http://169.254.169.254/", "http://0/"]
)
async def test_a_disguised_or_link_local_address_is_refused_whoever_wrote_it(url: str) -> None:
    with pytest.raises(AddressRefused):
        async with guarded_client(url, timeout=2) as client:
            await client.get(url)


@pytest.mark.parametrize("address", [PUBLIC, "1.1.1.1", "2606:4700:4700::1111", "2a00:1450:4001:830::200e"])
def test_a_public_address_is_let_through(address: str) -> None:
    assert refusal(ip_address(address)) is None


@pytest.mark.parametrize("address", ["10.0.0.5", "127.0.0.1", "fd00::1", "100.64.0.1", "169.254.169.254"])
def test_a_private_network_is_let_through_where_the_definition_says_so(address: str) -> None:
    assert refusal(ip_address(address), private_network=True) is None


@pytest.mark.parametrize("address", ["224.0.0.1", "ff02::1", "0.0.0.0", "::", "255.255.255.255"])
def test_what_no_server_can_have_is_refused_in_a_private_network_as_well(address: str) -> None:
    assert refusal(ip_address(address), private_network=True) is not None


class Answers:
    """A name server that says these addresses, one list for each question; the last again and again."""

    def __init__(self, *turns: Sequence[str]) -> None:
        self.said = list(turns)
        self.asked: list[str] = []

    async def __call__(self, host: str, port: int) -> Sequence[str]:
        self.asked.append(host)
        return self.said.pop(0) if len(self.said) > 1 else self.said[0]


@asynccontextmanager
async def server(answer: str, tls: ssl.SSLContext | None = None) -> AsyncIterator[tuple[int, list[bytes]]]:
    """A server of this machine that answers each request with the same bytes; its port, and what it was sent."""
    heard: list[bytes] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            heard.append(await reader.readuntil(b"\r\n\r\n"))
            writer.write(answer.encode())
            await writer.drain()
        finally:
            writer.close()

    listening = await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls)
    async with listening:
        yield listening.sockets[0].getsockname()[1], heard


OK = "HTTP/1.1 200 OK\r\nContent-Length: 2\r\nConnection: close\r\n\r\nhi"


async def test_a_name_that_leads_into_this_machine_is_refused_and_nothing_is_sent() -> None:
    async with server(OK) as (port, heard):
        url = f"http://api.example.com:{port}/"
        async with guarded_client(url, timeout=2, resolve=Answers(["127.0.0.1"])) as client:
            with pytest.raises(AddressRefused, match="this machine"):
                await client.get(url)

    assert heard == []


async def test_one_private_address_among_public_ones_refuses_them_all() -> None:
    url = "http://api.example.com/"
    async with guarded_client(url, timeout=2, resolve=Answers([PUBLIC, "10.0.0.5"])) as client:
        with pytest.raises(AddressRefused, match=r"10\.0\.0\.5"):
            await client.get(url)


async def test_a_name_is_looked_up_once_for_a_connection_so_a_second_answer_changes_nothing() -> None:
    resolve = Answers([PUBLIC], ["127.0.0.1"])
    guard = Guard("http://api.example.com/", resolve=resolve)

    found = await guard.addresses("api.example.com", 80)

    assert [str(address) for address in found] == [PUBLIC]
    assert resolve.asked == ["api.example.com"]
    with pytest.raises(AddressRefused):
        await guard.addresses("api.example.com", 80)


async def test_a_private_network_that_is_meant_is_reached_by_the_judged_address_under_its_own_name() -> None:
    async with server(OK) as (port, heard):
        url = f"http://crm.internal:{port}/x"
        client = guarded_client(url, private_network=True, timeout=2, resolve=Answers(["127.0.0.1"]))
        async with client:
            response = await client.get(url)

    assert response.text == "hi"
    assert f"host: crm.internal:{port}".encode() in heard[0].lower()


async def test_an_address_that_the_owner_wrote_himself_is_reached() -> None:
    async with server(OK) as (port, _):
        for host in ("127.0.0.1", "localhost"):
            url = f"http://{host}:{port}/"
            async with guarded_client(url, timeout=2) as client:
                assert (await client.get(url)).text == "hi"


async def test_localhost_is_this_machine_or_nothing() -> None:
    url = "http://localhost/"
    async with guarded_client(url, timeout=2, resolve=Answers(["10.0.0.5"])) as client:
        with pytest.raises(AddressRefused):
            await client.get(url)


async def test_a_redirect_is_not_followed_and_another_host_is_refused() -> None:
    async with server("HTTP/1.1 302 Found\r\nLocation: http://127.0.0.1:1/\r\nContent-Length: 0\r\n\r\n") as (
        port,
        heard,
    ):
        url = f"http://crm.internal:{port}/"
        client = guarded_client(url, private_network=True, timeout=2, resolve=Answers(["127.0.0.1"]))
        async with client:
            response = await client.get(url)
            with pytest.raises(AddressRefused, match="another host"):
                await client.get(url, follow_redirects=True)

    assert response.status_code == 302
    assert len(heard) == 2


async def test_where_nobody_listens_the_call_was_not_made() -> None:
    async with server(OK) as (port, _):
        pass
    url = f"http://127.0.0.1:{port}/"
    async with guarded_client(url, timeout=2) as client:
        with pytest.raises(ToolNotReached):
            await client.get(url)


async def test_a_name_without_an_address_is_not_reached() -> None:
    async def nothing(host: str, port: int) -> Sequence[str]:
        raise OSError("Name or service not known")

    async with guarded_client("http://gone.example.com/", timeout=2, resolve=nothing) as client:
        with pytest.raises(ToolNotReached, match="no address"):
            await client.get("http://gone.example.com/")


async def test_a_name_server_that_is_silent_is_given_up() -> None:
    async def silent(host: str, port: int) -> Sequence[str]:
        await asyncio.Event().wait()
        return []

    async with guarded_client("http://slow.example.com/", timeout=0.1, resolve=silent) as client:
        with pytest.raises(ToolNotReached):
            await client.get("http://slow.example.com/")


async def test_a_certificate_is_asked_for_under_the_name_and_a_wrong_one_ends_it_before_anything_is_sent() -> None:
    url = "https://crm.internal:%d/"
    async with server(OK) as (port, heard):  # speaks no TLS
        client = guarded_client(url % port, private_network=True, timeout=0.3, resolve=Answers(["127.0.0.1"]))
        async with client:
            with pytest.raises(ToolNotReached):
                await client.get(url % port)

    assert heard == []


async def test_a_proxy_of_the_environment_is_not_asked(monkeypatch: pytest.MonkeyPatch) -> None:
    async with server(OK) as (proxy, asked), server(OK) as (port, heard):
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy}")
        monkeypatch.setenv("ALL_PROXY", f"http://127.0.0.1:{proxy}")
        url = f"http://127.0.0.1:{port}/"
        async with guarded_client(url, timeout=2) as client:
            await client.get(url)

    assert (len(asked), len(heard)) == (0, 1)


async def test_an_answer_that_breaks_off_is_no_connection_that_failed() -> None:
    async with server("HTTP/1.1 200 OK\r\nContent-Length: 99\r\n\r\nhi") as (port, _):
        url = f"http://127.0.0.1:{port}/"
        async with guarded_client(url, timeout=2) as client:
            with pytest.raises(httpx2.HTTPError):
                await client.get(url)
