"""Requests that nobody sends who means well: made by hand, byte for byte, and by whoever comes through a proxy."""

from __future__ import annotations

import asyncio
import contextlib
import json
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from datetime import UTC, datetime
from typing import Any

import httpx2
import pytest
from opentelemetry import trace
from temporalio.testing import WorkflowEnvironment

from horarium.gateway import bodies, connections
from horarium.gateway.serving import Serving, serving
from horarium.links import Links
from horarium.settings import GatewaySettings
from tests.gateway.conftest import PATIENT, of_gateway
from tests.gateway.furnished import Furnished, furnished

PATIENCE = 20.0  # seconds, for any answer
ELSEWHERE = ("horarium.example.com",)


@pytest.fixture(scope="module")
async def house(env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Furnished]:
    async with furnished(env, tmp_path_factory.mktemp("hostile"), each=2) as house:
        yield house


async def said(port: int, request: bytes) -> tuple[int, bytes]:
    """Status and the rest of what is answered to these very bytes; 0: the line was cut."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        with contextlib.suppress(ConnectionError):
            writer.write(request)
            await writer.drain()
        try:
            async with asyncio.timeout(PATIENCE):
                answer = await reader.read(65_536)
        except ConnectionError:
            return 0, b""
        return (int(answer[9:12]), answer) if answer else (0, b"")
    finally:
        writer.close()


def request(port: int, line: str, *headers: str, body: bytes = b"") -> bytes:
    """A request with these headers and those that it needs."""
    length = [f"Content-Length: {len(body)}"] if body else []
    lines = [f"{line} HTTP/1.1", f"Host: 127.0.0.1:{port}", "Connection: close", *length, *headers]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + body


# ---- addresses: what the gate looks at is what is routed


SPELLINGS = (
    *("//v1/runs", "/V1/runs", "/v1//runs", "/./v1/runs", "/%2fv1/runs", "/v1/runs/", "/v1/runs%2f", "/v1", "/v1/"),
    *("/v1/hooks/../runs", "/v1/hooks/%2e%2e/runs", "/v1/hooks/..%2fruns", "/v1/hooks/code/", "/v1/hooks/"),
    *("/sign-in/../runs", "/sign-in%2f..%2fruns", "/sign-in/../v1/runs", "/approve/../runs", "/approve/x%2f..%2fruns"),
    *(
        "/static/../inbox",
        "/static/..%2finbox",
        "/static/x/..%2f..%2fpage.py",
        "/static/x/page.py",
        "/Runs",
        "/inbox%3f",
    ),
    *(
        "/toolboxes/shop%0a/mcp",
        "/toolboxes//mcp",
        "/toolboxes/shop@1/mcp",
        "/toolboxes/x/../shop/mcp",
        "/runs%0d%0aX:y",
    ),
    *("*", "http://evil.example/v1/runs", "/docs", "/redoc", "/openapi.json", "/metrics", "/readiness", "/.env"),
)


async def test_no_spelling_of_an_address_leads_past_the_gate(house: Furnished) -> None:
    port = house.rest.serving.port
    through: list[tuple[str, str, int]] = []
    for path in SPELLINGS:
        for method in ("GET", "POST", "HEAD", "OPTIONS", "TRACE", "PUT"):
            status, answer = await said(port, request(port, f"{method} {path}", "Accept: text/html"))
            where = re.search(rb"\r\nlocation: ([^\r]*)\r\n", answer)
            to_sign_in = status == 303 and where is not None and where[1].startswith(b"/sign-in?next=")
            if not to_sign_in and status not in (401, 404, 405, 422):
                through.append((method, path, status))

    assert through == []


async def test_an_address_with_a_slash_too_many_sends_no_key_to_another(house: Furnished) -> None:
    # A redirect names the scheme that the gateway speaks itself: behind a proxy that ends TLS, http.
    answers = [await house.rest("GET", path) for path in ("/v1/runs/", "/runs/", "/v1/keys/")]

    assert [answer.status_code for answer in answers] == [404] * 3


# ---- bodies and heads


async def test_no_body_and_no_head_breaks_anything_or_fills_memory(house: Furnished) -> None:
    port, key = house.rest.serving.port, f"Authorization: Bearer {house.rest.keys['admin']}"
    said_json = "Content-Type: application/json"
    deep = b'{"agent":"plain","input":' + b"[" * 100_000 + b"]" * 100_000 + b"}"
    line = "POST /v1/runs"
    smuggled = b"0\r\n\r\nGET /v1/keys HTTP/1.1\r\nHost: x\r\n\r\n"
    sent = {
        "nested without end": (422, request(port, line, key, said_json, body=deep)),
        "nested, as a text": (
            400,
            request(port, "POST /v1/agents/plain/invocations", key, "Content-Type: text/plain", body=b"[" * 100_000),
        ),
        "nested, to a hook": (422, request(port, "POST /v1/hooks/code", said_json, body=deep)),
        "a length of 5,000 digits": (400, request(port, line, key, f"Content-Length: {'9' * 5_000}")),
        "a length of 19 digits": (413, request(port, line, key, f"Content-Length: {'9' * 19}")),
        "two lengths": (422, request(port, line, key, "Content-Length: 5", "Transfer-Encoding: chunked") + smuggled),
        "compressed": (422, request(port, line, key, said_json, "Content-Encoding: gzip", body=b"\x1f\x8b" * 50)),
        "not UTF-8": (422, request(port, line, key, said_json, body=b"\xff\xfe{}")),
        "many parts": (
            422,
            request(port, line, key, "Content-Type: multipart/form-data; boundary=x", body=b"--x\r\n" * 999),
        ),
        "two hosts": (400, request(port, "GET /v1/runs", key, "Host: evil.example")),
        "no host": (421, b"GET /v1/runs HTTP/1.0\r\n\r\n"),
        "a long head": (400, request(port, "GET /v1/runs", key, f"X-Long: {'a' * 1_000_000}")),
        "a long cookie": (401, request(port, "GET /runs", f"Cookie: {'a=b; ' * 10_000}")),
        "a long query": (422, request(port, f"GET /v1/runs?agent={'a' * 50_000}", key)),
        "a query of many": (200, request(port, f"GET /v1/runs?{'status=failed&' * 4_000}", key)),
        "an event of nobody's": (
            400,
            request(port, f"GET /v1/runs/{house.one('run')}/events", key, "Last-Event-ID: 9-9-zz"),
        ),
    }

    statuses = {name: (expected, (await said(port, bytes_))[0]) for name, (expected, bytes_) in sent.items()}

    # Whoever sends more than he may can lose the line before he has read why.
    wrong = {name: pair for name, pair in statuses.items() if pair[1] not in (pair[0], 0)}
    assert wrong == {}
    assert sum(pair[1] == 0 for pair in statuses.values()) <= 2
    assert (await house.rest("GET", "/v1/runs")).status_code == 200


async def test_a_body_without_end_is_cut_off(house: Furnished) -> None:
    port, chunk = house.rest.serving.port, b"10000\r\n" + b"x" * 65_536 + b"\r\n"
    _reader, writer = await asyncio.open_connection("127.0.0.1", port)
    key = f"Authorization: Bearer {house.rest.keys['admin']}"
    writer.write(request(port, "POST /v1/runs", key, "Transfer-Encoding: chunked"))

    sent = 0
    with contextlib.suppress(ConnectionError):
        async with asyncio.timeout(PATIENCE):
            while sent < 1 << 30:
                writer.write(chunk)
                await writer.drain()
                sent += len(chunk)
    writer.close()

    assert sent < 64 << 20


# ---- those who come and do not speak


async def test_who_opens_lines_and_says_nothing_keeps_nobody_out(
    house: Furnished, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(connections, "HEAD_WITHIN", 0.5)
    monkeypatch.setattr(bodies, "BODY_WITHIN", 0.5)
    port, key = house.rest.serving.port, f"Authorization: Bearer {house.rest.keys['admin']}"
    silent, halfway, kept = [await asyncio.open_connection("127.0.0.1", port) for _ in range(3)]
    halfway[1].write(b"GET /v1/runs HTTP/1.1\r\nHost: 127.0")
    kept[1].write(request(port, "GET /v1/runs", key).replace(b"Connection: close\r\n", b""))
    slow = asyncio.create_task(said(port, request(port, "POST /v1/runs", key, "Content-Length: 9") + b"{"))

    async with asyncio.timeout(PATIENCE):
        ends = [await reader.read() for reader, _ in (silent, halfway)]
        answered = await kept[0].read()  # to its end: nothing more is asked on this line, so it is closed

    assert ends == [b"", b""]
    assert (await slow)[0] == 408
    assert answered.startswith(b"HTTP/1.1 200")
    for _, writer in (silent, halfway, kept):
        writer.close()


# ---- through a proxy everybody comes from loopback


@asynccontextmanager
async def at(house: Furnished, settings: GatewaySettings) -> AsyncIterator[tuple[Serving, httpx2.AsyncClient]]:
    """Another gateway of the same house."""
    engine = house.rest.engine
    async with (
        serving(engine.client, of_gateway(engine.settings, settings), host="127.0.0.1", port=0) as served,
        httpx2.AsyncClient(base_url=served.url, timeout=PATIENCE) as http,
    ):
        yield served, http


@pytest.mark.parametrize("settings", [{"hosts": ELSEWHERE}, {"proxies": ("127.0.0.1",)}])
async def test_nobody_is_let_in_without_a_key_where_a_proxy_stands_before_it(
    house: Furnished, settings: dict[str, Any]
) -> None:
    key = house.rest.keys["admin"]

    async with at(house, PATIENT.model_copy(update=settings)) as (served, http):
        nobody = [
            (await http.get("/v1/runs", headers=headers)).status_code
            for headers in (
                {},
                {"Host": ELSEWHERE[0]},
                {"Authorization": "Bearer made-up"},
                {"Authorization": "Basic eA=="},
            )
        ]
        ana = await http.get("/v1/runs", headers={"Authorization": f"Bearer {key}"})

    assert not served.anonymous
    assert [status for status in nobody if status not in (401, 421)] == []
    assert ana.status_code == 200


@pytest.mark.parametrize("header", ["X-Forwarded-For", "Forwarded", "Via", "X-Real-IP", "X-Forwarded-Host"])
async def test_what_a_proxy_hands_on_is_not_somebody_of_this_machine(house: Furnished, header: str) -> None:
    async with at(house, PATIENT) as (_, http):
        here, handed_on = await http.get("/v1/runs"), await http.get("/v1/runs", headers={header: "for=203.0.113.7"})
        form = await http.post("/sign-out", headers={header: "203.0.113.7"}, data={"token": "x"})

    assert (here.status_code, handed_on.status_code, form.status_code) == (200, 401, 401)


# ---- what is secret is in no log and in no trace


class Tracer(trace.Tracer):
    """Keeps what spans are told."""

    def __init__(self) -> None:
        self.told: list[str] = []

    def start_span(self, name: str, *args: Any, attributes: Any = None, **more: Any) -> trace.Span:
        self.told.append(f"{name} {dict(attributes or {})}")
        return trace.NonRecordingSpan(trace.INVALID_SPAN_CONTEXT)

    @contextmanager
    def start_as_current_span(self, name: str, *args: Any, attributes: Any = None, **more: Any) -> Iterator[trace.Span]:  # type: ignore[override]
        yield self.start_span(name, attributes=attributes)


class Provider(trace.TracerProvider):
    """Of that tracer, whoever asks."""

    def __init__(self, tracer: Tracer) -> None:
        self.tracer = tracer

    def get_tracer(self, *_args: Any, **_more: Any) -> trace.Tracer:
        return self.tracer


async def test_neither_keys_nor_links_are_in_logs_traces_or_answers(
    house: Furnished, monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    tracer, rest = Tracer(), house.rest
    provider = Provider(tracer)
    monkeypatch.setattr(trace, "get_tracer_provider", lambda: provider)
    question = await rest.engine.client.approval(house.one("approval"))
    link = Links.of(rest.engine.settings, rest.engine.ledger).make(question, "dora", datetime.now(UTC))
    wrong = rest.keys["viewer"][:-4] + "AAAA"
    token = "eyJhbGciOiJub25lIn0.eyJjYW5hcnkiOjF9.CANARY"
    answers = [
        await rest("GET", f"/approve/{link}", None),
        await rest("HEAD", f"/approve/{link}", None),
        await rest("GET", f"/approve/{link[:-3]}AAA", None),
        await rest("GET", "/sign-in/callback", None, params={"code": "CODE-CANARY", "state": "STATE-CANARY"}),
        await rest("POST", "/sign-in", None, data={"token": "x", "key": rest.keys["admin"]}),
        await rest("POST", "/v1/hooks/code", None, json={}, headers={"X-Hub-Signature-256": "sha256=HOOK-CANARY"}),
        *[await rest("GET", "/v1/runs", None, headers={"Authorization": f"Bearer {it}"}) for it in (wrong, token)],
        await rest("GET", "/v1/runs"),
        await rest("POST", "/v1/runs", json={"agent": rest.keys["operator"], "input": "x"}),
    ]

    logged, traced = "".join(capfd.readouterr()), "\n".join(tracer.told)
    shown = "\n".join(answer.text + json.dumps(dict(answer.headers)) for answer in answers[:-1])
    canaries = (link, link[:60], wrong[-30:], "CANARY", *(key.split("_", 2)[2] for key in rest.keys.values()))
    assert "/v1/runs" in traced  # other requests are traced
    assert [canary for canary in canaries if canary in logged + traced] == []
    assert [canary for canary in canaries if canary in shown] == []
