"""The embedded server: its HTTP API is shut, and what a client needs is there."""

from __future__ import annotations

import os
import subprocess
import sys
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from temporalio.api.enums.v1 import IndexedValueType
from temporalio.api.operatorservice.v1 import ListSearchAttributesRequest
from temporalio.client import Client
from temporalio.service import RPCError

from horarium.contract import SEARCH_ATTRIBUTES
from horarium.errors import ConfigError
from tests.support.stack import free_port, until
from workers.server import Ports, server_binary, server_command

pytestmark = pytest.mark.slow


NAMESPACES = "/api/v1/namespaces"
RUN = "/api/v1/namespaces/default/workflows/run_1"
REQUESTS = [
    ("GET", NAMESPACES),
    ("GET", "/api/v1/cluster-info"),
    ("GET", "/api/v1/namespaces/default/workflows"),
    ("GET", f"{RUN}/history"),
    ("POST", RUN),  # starts one
    ("POST", f"{RUN}/signal/approve"),
    ("POST", f"{RUN}/update/decide"),
    ("POST", f"{RUN}/query/approvals"),
    ("POST", f"{RUN}/terminate"),
    ("POST", "/api/v1/namespaces/default/schedules/nightly"),
]
SENDERS: list[dict[str, str]] = [
    {},  # a program on this machine
    {"Host": "localhost"},
    {"Host": "127.0.0.1:80"},
    {"Host": "evil.example"},  # a page whose name was pointed at this machine
    {"Origin": "http://evil.example"},
    {"Host": "localhost", "Origin": "http://localhost"},
    {"Host": "evil.example", "Origin": "http://evil.example", "Content-Type": "text/plain"},  # needs no preflight
    {"Content-Type": "application/json"},
    {"X-Forwarded-Host": "localhost", "Forwarded": "host=localhost"},
]


async def test_the_http_api_answers_403_to_every_request_of_everybody(tmp_path: Path):
    port, http = free_port(), free_port()
    command = [*server_command(port, tmp_path / "temporal.db"), "--http-port", str(http)]
    with (tmp_path / "server.log").open("wb") as log:
        server = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        client = await connected(port, server)
        names = await client.operator_service.list_search_attributes(ListSearchAttributesRequest(namespace="default"))
        answers = {
            (method, path, *headers.items()): answer(method, f"http://127.0.0.1:{http}{path}", headers)
            for method, path in REQUESTS
            for headers in SENDERS
        }
        started = [run.id async for run in client.list_workflows()]
    finally:
        server.kill()
        server.wait(10)

    keyword = IndexedValueType.INDEXED_VALUE_TYPE_KEYWORD
    assert {name for name in SEARCH_ATTRIBUTES if names.custom_attributes[name] == keyword} == set(SEARCH_ATTRIBUTES)
    assert {asked: code for asked, code in answers.items() if code != 403} == {}
    assert started == []


def test_the_program_beside_the_interpreter_comes_first(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    other = tmp_path / "temporal"
    other.write_text("#!/bin/sh\n")
    other.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}{os.pathsep}{os.environ['PATH']}")

    assert Path(server_binary()) == Path(sys.executable).parent / "temporal"


async def connected(port: int, server: subprocess.Popen[bytes]) -> Client:
    found: list[Client] = []

    async def answers() -> bool:
        try:
            found.append(await Client.connect(f"127.0.0.1:{port}"))
        except (RPCError, RuntimeError):
            return False
        return True

    await until(answers, "the server answers", server)
    return found[0]


def answer(method: str, url: str, headers: dict[str, str]) -> int:
    request = urllib.request.Request(url, data=b"{}" if method == "POST" else None, headers=headers, method=method)
    try:
        with urllib.request.urlopen(request, timeout=10) as answered:
            return int(answered.status)
    except urllib.error.HTTPError as error:
        return error.code


def test_two_stacks_that_start_at_once_take_different_ports():
    wanted = free_port()

    one, other = Ports(), Ports()
    first, second = one.take(wanted), other.take(wanted)

    assert first == wanted
    assert second != wanted
    with pytest.raises(ConfigError, match=f"Port {wanted} is taken"):
        Ports().exactly(wanted)
