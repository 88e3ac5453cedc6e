"""Calls of operations on a real server: what is sent, and what each answer means for the step."""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import AsyncIterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from fastapi import Request, Response

from activities.openapi_requests import request_of
from activities.openapi_tools import MAX_ANSWER_BYTES, TOLD_CHARS, ApiBroke, OpenApiTools
from activities.toolboxes import operation_spec
from horarium.content import clean_text
from horarium.errors import AddressRefused, ToolError, ToolNotReached
from horarium.openapi import BoundOperation, read_document
from horarium.settings import Settings
from horarium.toolboxes import OpenApi
from horarium.tools import ToolContext
from horarium.toolsets import OpenApiSource, PinnedTool
from tests.toolboxes.crm import Crm, document_of, running_crm

KEY = "horarium/run_01/call_1"


@pytest.fixture(scope="module")
async def running() -> AsyncIterator[Crm]:
    async with running_crm() as crm:
        yield crm


@pytest.fixture
def crm(running: Crm) -> Crm:
    running.forget()
    return running


@pytest.fixture
async def tools(tmp_path: Path) -> AsyncIterator[OpenApiTools]:
    tools = OpenApiTools(Settings(root=tmp_path))
    yield tools
    await tools.close()


def bound(operation: str, said: dict[str, Any], **api: Any) -> BoundOperation:
    settings = OpenApi(document="crm.yaml", **api)
    found = {item.name: item for item in read_document("crm", settings, said).operations}
    return BoundOperation(operation=found[operation], api=settings)


async def call(tools: OpenApiTools, operation: BoundOperation, arguments: dict[str, Any], *, attempt: int = 1) -> Any:
    source = OpenApiSource(toolbox="crm", version=1, label="crm", operation=operation.model_dump(mode="json"))
    pinned = PinnedTool(spec=operation_spec("crm", operation.operation, operation.api), source=source)
    context = ToolContext("run_01", "run_01/0002", KEY, attempt, "clerk", "default")
    return await tools.performer(pinned, source).perform(arguments, context)


def answering(status: int, text: str | bytes = "", **headers: str) -> Any:
    async def answer(request: Request) -> Response:
        return Response(text, status, {name.replace("_", "-"): value for name, value in headers.items()})

    return answer


GET, POST = {"id": "7"}, {"id": "7", "body": {"reason": "done"}}


async def test_an_answer_in_json_is_the_result(crm: Crm, tools: OpenApiTools) -> None:
    assert await call(tools, bound("getTicket", document_of(crm.url)), GET) == {"id": "7", "state": "open"}
    assert crm.asked == [("GET", "/tickets/7")]
    assert "idempotency-key" not in crm.headers[0]


async def test_the_steps_key_goes_along_with_what_changes_something(crm: Crm, tools: OpenApiTools) -> None:
    await call(tools, bound("closeTicket", document_of(crm.url)), POST)
    await call(tools, bound("closeTicket", document_of(crm.url), idempotency_header="X-Once"), POST)
    await call(tools, bound("closeTicket", document_of(crm.url), idempotency_header=None), POST)

    assert [headers.get("idempotency-key") for headers in crm.headers] == [KEY, None, None]
    assert crm.headers[1]["x-once"] == KEY
    assert (crm.headers[0]["content-type"], json.loads(crm.bodies[0])) == ("application/json", {"reason": "done"})


async def test_secrets_are_looked_up_when_they_are_sent_and_nowhere_before(
    crm: Crm, tools: OpenApiTools, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    operation = bound(
        "getTicket", document_of(crm.url), headers={"Authorization": "Bearer ${CRM_TOKEN}"}, query={"key": "${CRM_KEY}"}
    )
    with pytest.raises(ToolError, match="CRM_KEY is not set"):  # nothing was sent, so nothing is unknown
        await call(tools, operation, GET)
    monkeypatch.setenv("CRM_TOKEN", "canary-token-1")
    monkeypatch.setenv("CRM_KEY", "canary-key-22")
    crm.answer = answering(403, "no such key: canary-key-22", content_type="text/plain")

    with pytest.raises(ToolError) as told:
        await call(tools, operation, GET)

    assert crm.headers[0]["authorization"] == "Bearer canary-token-1"
    assert crm.asked == [("GET", "/tickets/7?key=canary-key-22")]
    assert "canary" not in operation.model_dump_json()
    assert "canary" not in clean_text(str(told.value))[0]
    assert "canary" not in caplog.text


async def test_a_secret_that_is_said_again_escaped_or_at_the_cut_is_taken_out(
    crm: Crm, tools: OpenApiTools, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("CRM_KEY", "canary+key/22==")
    operation = bound("getTicket", document_of(crm.url), query={"key": "${CRM_KEY}"})
    filling = "x" * (TOLD_CHARS - len("canary%2Bkey%2F22%3D%3D") - 10)
    text = f"GET /tickets/7?key=canary%2Bkey%2F22%3D%3D {filling}canary+key/22=="
    crm.answer = answering(404, text, content_type="text/plain")

    with pytest.raises(ToolError) as told:
        await call(tools, operation, GET)

    assert "canary" not in clean_text(str(told.value))[0]


@pytest.mark.parametrize(
    ("status", "error"),
    [
        (400, ToolError),
        (401, ToolError),
        (404, ToolError),
        (409, ToolError),
        (422, ToolError),
        (408, ToolNotReached),
        (425, ToolNotReached),
        (429, ToolNotReached),
        (500, ApiBroke),
        (502, ApiBroke),
        (503, ApiBroke),
        (504, ApiBroke),
        (302, ApiBroke),
        (303, ApiBroke),
        (301, ToolError),
        (308, ToolError),
    ],
)
async def test_only_an_answer_that_says_so_means_that_it_was_not_done(
    crm: Crm, tools: OpenApiTools, status: int, error: type[Exception]
) -> None:
    crm.answer = answering(status, "because", content_type="text/plain", location="http://127.0.0.1:1/x")

    with pytest.raises(error) as told:
        await call(tools, bound("closeTicket", document_of(crm.url)), POST)

    assert type(told.value) is error
    assert f"HTTP {status}" in str(told.value)
    assert len(crm.asked) == 1


async def test_a_server_that_says_when_to_come_back_is_asked_again_then(crm: Crm, tools: OpenApiTools) -> None:
    crm.answer = answering(503, retry_after="17")

    with pytest.raises(ToolNotReached) as told:
        await call(tools, bound("closeTicket", document_of(crm.url)), POST)

    assert told.value.retry_after == timedelta(seconds=17)


async def test_a_key_that_is_in_use_is_no_refusal_of_a_call_that_may_be_repeated(crm: Crm, tools: OpenApiTools) -> None:
    crm.answer = answering(409)
    operation = bound("closeTicket", document_of(crm.url), effects={"closeTicket": "idempotent"})

    with pytest.raises(ToolError):
        await call(tools, operation, POST, attempt=1)
    with pytest.raises(ApiBroke):
        await call(tools, operation, POST, attempt=2)


async def test_the_model_is_told_what_the_api_said_cut_to_a_readable_length(crm: Crm, tools: OpenApiTools) -> None:
    crm.answer = answering(422, "reason is too short " + "x" * 10_000, content_type="text/plain")

    with pytest.raises(ToolError, match="reason is too short") as told:
        await call(tools, bound("closeTicket", document_of(crm.url)), POST)

    assert len(str(told.value)) < 2_500


async def test_a_redirect_leads_nowhere(crm: Crm, tools: OpenApiTools) -> None:
    async with running_crm() as other:
        crm.answer = answering(302, location=f"{other.url}/tickets/7")

        with pytest.raises(ToolError, match="redirect, which is not followed"):
            await call(tools, bound("getTicket", document_of(crm.url)), GET)

        assert other.asked == []


async def test_bytes_stay_bytes_text_is_text_and_nothing_is_told_as_nothing(crm: Crm, tools: OpenApiTools) -> None:
    operation = bound("getTicket", document_of(crm.url))
    results = []
    for answer in (
        answering(200, b"\x89PNG\x00", content_type="image/png"),
        answering(200, "grüß".encode("latin-1"), content_type="text/plain; charset=latin-1"),
        answering(200, "not json", content_type="application/json"),
        answering(204),
        answering(201, location="/tickets/8"),
    ):
        crm.answer = answer
        results.append(await call(tools, operation, GET))

    assert results[:3] == [b"\x89PNG\x00", "grüß", "not json"]
    assert results[3] == "GET was answered with HTTP 204 and no content."
    assert results[4] == "GET was answered with HTTP 201 and no content. Location: /tickets/8"


async def test_an_answer_without_end_is_cut(crm: Crm, tools: OpenApiTools) -> None:
    crm.answer = answering(200, b"x" * (MAX_ANSWER_BYTES + 1), content_type="text/plain")

    result = await call(tools, bound("getTicket", document_of(crm.url)), GET)

    assert result.endswith("[… cut: the answer is larger than 16 MiB …]")
    assert len(result) < MAX_ANSWER_BYTES + 100


async def test_a_server_that_is_silent_is_given_up_and_one_that_is_not_there_was_not_reached(
    crm: Crm, tools: OpenApiTools
) -> None:
    released = asyncio.Event()

    async def silent(request: Request) -> Response:
        await released.wait()
        return Response()

    crm.answer = silent
    with pytest.raises(TimeoutError):
        await call(tools, bound("closeTicket", document_of(crm.url), timeout="0.3s"), POST)
    released.set()
    with pytest.raises(ToolNotReached):
        await call(tools, bound("closeTicket", document_of("http://127.0.0.1:1")), POST)


async def test_a_connection_that_is_lost_after_the_request_leaves_the_outcome_open(tools: OpenApiTools) -> None:
    async def hang_up(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        writer.close()

    async with await asyncio.start_server(hang_up, "127.0.0.1", 0) as server:
        url = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
        with pytest.raises(ApiBroke, match="connection was lost"):
            await call(tools, bound("closeTicket", document_of(url)), POST)


async def test_a_document_that_was_fetched_cannot_name_this_machine(crm: Crm, tools: OpenApiTools) -> None:
    settings = OpenApi(document="https://docs.example.com/crm.yaml")
    operation = read_document("crm", settings, document_of(crm.url)).operations[0]

    with pytest.raises(AddressRefused, match="this machine"):
        await call(tools, BoundOperation(operation=operation, api=settings), GET)

    assert crm.asked == []


async def test_cookies_of_one_call_are_not_sent_with_another(crm: Crm, tools: OpenApiTools) -> None:
    crm.answer = answering(200, "{}", set_cookie="session=ana; Path=/")
    operation = bound("getTicket", document_of(crm.url))

    await call(tools, operation, GET)
    await call(tools, operation, GET)

    assert "cookie" not in crm.headers[1]


# ---- the request


@pytest.mark.parametrize("value", ["7/close", "..", ".", "", "7\\close", "../../admin", "%2e%2e/x"])
def test_a_value_adds_no_part_to_the_path_and_takes_none_away(value: str) -> None:
    with pytest.raises(ToolError):
        request_of(bound("getTicket", document_of("https://crm.example.com")), {"id": value}, KEY)


@pytest.mark.parametrize(
    ("value", "path"),
    [
        ("7?admin=1", "/tickets/7%3Fadmin%3D1"),
        ("7#x", "/tickets/7%23x"),
        ("%2e%2e", "/tickets/%252e%252e"),
        ("a b;c", "/tickets/a%20b%3Bc"),
        ("ü", "/tickets/%C3%BC"),
        ("@evil.example", "/tickets/%40evil.example"),
        ("{id}", "/tickets/%7Bid%7D"),
        ("7\r\nX-Admin: 1", "/tickets/7%0D%0AX-Admin%3A%201"),
    ],
)
def test_a_value_in_the_path_is_escaped(value: str, path: str) -> None:
    said = request_of(bound("getTicket", document_of("https://crm.example.com")), {"id": value}, KEY)

    assert said.url == f"https://crm.example.com{path}"


PARAMETERS: list[tuple[dict[str, Any], Any, str]] = [
    ({"in": "query"}, "a&b=c", "?p=a%26b%3Dc"),
    ({"in": "query"}, True, "?p=true"),
    ({"in": "query"}, 1.5, "?p=1.5"),
    ({"in": "query"}, None, ""),
    ({"in": "query"}, [1, 2], "?p=1&p=2"),
    ({"in": "query", "explode": False}, ["a", "b"], "?p=a%2Cb"),
    ({"in": "query", "style": "pipeDelimited", "explode": False}, ["a", "b"], "?p=a%7Cb"),
    ({"in": "query", "style": "spaceDelimited", "explode": False}, ["a", "b"], "?p=a%20b"),
    ({"in": "query", "style": "deepObject", "explode": True}, {"x": 1}, "?p%5Bx%5D=1"),
    ({"in": "query"}, {"x": 1, "y": 2}, "?x=1&y=2"),
    ({"in": "query", "content": {"application/json": {}}}, {"x": [1]}, "?p=%7B%22x%22%3A%20%5B1%5D%7D"),
]


@pytest.mark.parametrize(("parameter", "value", "query"), PARAMETERS)
def test_parameters_are_written_as_their_style_says(parameter: dict[str, Any], value: Any, query: str) -> None:
    operation = {"operationId": "find", "parameters": [{"name": "p", **parameter}]}
    said = {"openapi": "3.1.0", "servers": [{"url": "https://x.example"}], "paths": {"/find": {"get": operation}}}

    assert request_of(bound("find", said), {"p": value}, KEY).url == f"https://x.example/find{query}"


def test_an_argument_replaces_nothing_that_is_always_sent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("CRM_KEY", "canary-key-22")
    operation = {"operationId": "find", "parameters": [{"name": "filter", "in": "query"}]}
    said = {"openapi": "3.1.0", "servers": [{"url": "https://x.example"}], "paths": {"/find": {"get": operation}}}
    found = bound("find", said, query={"key": "${CRM_KEY}"})

    with pytest.raises(ToolError, match="always sent"):
        request_of(found, {"filter": {"key": "mine"}}, KEY)


def test_a_header_takes_no_line_ends_and_forms_and_texts_are_sent_as_such() -> None:
    media = {"form": "application/x-www-form-urlencoded", "text": "text/csv"}
    paths = {
        f"/{name}": {
            "post": {
                "operationId": name,
                "parameters": [{"name": "X-Reason", "in": "header"}],
                "requestBody": {"content": {kind: {"schema": {}}}},
            }
        }
        for name, kind in media.items()
    }
    said = {"openapi": "3.1.0", "servers": [{"url": "https://x.example"}], "paths": paths}

    with pytest.raises(ToolError, match="header"):
        request_of(bound("form", said), {"X-Reason": "a\r\nX-Admin: 1"}, KEY)
    form = request_of(bound("form", said), {"body": {"a": "1 2", "b": [1, True], "c": None}, "X-Reason": "x"}, KEY)
    assert (form.content, form.headers["x-reason"]) == (b"a=1+2&b=1&b=true", "x")
    assert request_of(bound("text", said), {"body": "a;b\n"}, KEY).content == b"a;b\n"
