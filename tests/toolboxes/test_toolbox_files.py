"""Toolboxes on disk: what is read, what is refused and in which words, and how files become versions."""

from __future__ import annotations

import asyncio
import json
import ssl
from pathlib import Path

import pytest
import trustme

from horarium import egress
from horarium.errors import ConfigError, ToolNotReached
from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import Toolboxes
from horarium.project import load_toolboxes
from horarium.settings import Settings
from horarium.toolboxfiles import ToolboxFiles, check_parts
from horarium.toolboxpublishing import Publisher, fetch_document
from tests.toolboxes.crm import document_of

URL = "https://crm.example.com"


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    (tmp_path / "toolboxes").mkdir()
    (tmp_path / "apis").mkdir()
    (tmp_path / "apis" / "crm.json").write_text(json.dumps(document_of(URL)))
    return Settings(root=tmp_path)


def write(settings: Settings, name: str, text: str) -> Path:
    file = settings.root / "toolboxes" / f"{name}.yaml"
    file.write_text(text)
    return file


WHOLE = """\
description: Customers and their tickets.
tools: [look]
openapi:
  crm: {document: apis/crm.json, headers: {Authorization: "Bearer ${CRM_TOKEN}"}}
"""


def test_a_file_is_a_toolbox_with_the_operations_of_its_document(settings: Settings) -> None:
    write(settings, "support", WHOLE)

    found = load_toolboxes(settings)["support"]

    assert (found.toolbox.name, found.toolbox.tools) == ("support", ("look",))
    assert [operation.name for operation in found.documents["crm"].operations] == ["getTicket", "closeTicket"]


def test_all_mistakes_of_all_files_are_told_at_once_with_file_line_field_and_near_miss(settings: Settings) -> None:
    write(settings, "one", "tols: [look]\n")
    write(settings, "two", "openapi:\n  crm:\n    document: apis/cmr.json\n")
    write(settings, "three", "openapi:\n  crm:\n    document: apis/crm.json\n    operations: [getTickt]\n")
    write(settings, "four", "name: for\nopenapi: {crm: {document: ../../etc/passwd}}\n")
    write(settings, "five", "tools: [look]\napprovals:\n  - {tools: [look], approvers: ['role:finanze']}\n")
    write(settings, "six", "tools: [look]\nmetadata: {password: hunter22}\n")

    with pytest.raises(ConfigError) as told:
        load_toolboxes(settings)

    assert told.value.message.splitlines() == [
        "toolboxes/five.yaml:3: approvals.0.approvers.0: there is no role 'finanze' in [approvals.roles]",
        "toolboxes/four.yaml:1: name: is 'for', but the file is called 'four.yaml'",
        "toolboxes/four.yaml:2: openapi.crm.document: '../../etc/passwd' is outside of the project",
        "toolboxes/one.yaml:1: tols: unknown field; did you mean 'tools'?",
        "toolboxes/six.yaml:2: metadata.password: is a secret here; put it into an environment variable, and name "
        "that: ${MY_SECRET}",
        "toolboxes/three.yaml:3: openapi.crm: apis/crm.json has no operation 'getTickt', which "
        "`openapi.crm.operations` names; did you mean 'getTicket'?",
        "toolboxes/two.yaml:3: openapi.crm.document: there is no file 'apis/cmr.json'; did you mean 'apis/crm.json'?",
    ]


def test_tools_and_agents_that_the_project_does_not_have_are_told(settings: Settings) -> None:
    write(settings, "support", "tools: [lok]\nagents: [clerk]\n")

    assert check_parts(settings, load_toolboxes(settings), {"look": object()}, {}) == [
        "toolboxes/support.yaml:1: tools.0: there is no tool 'lok'; did you mean 'look'?",
        "toolboxes/support.yaml:2: agents.0: there is no agent 'clerk'",
    ]


def test_an_edit_is_noticed_also_in_a_document_and_a_broken_one_leaves_the_last_good_one(settings: Settings) -> None:
    file = write(settings, "support", WHOLE)
    files = ToolboxFiles(settings)
    first = files.current()["support"]

    assert files.current()["support"] is first
    document = settings.root / "apis" / "crm.json"
    document.write_text(json.dumps(document_of(f"{URL}/v2")))
    edited = files.current()["support"]
    assert edited.documents["crm"].operations[0].base_url == f"{URL}/v2"
    document.write_text("{")
    assert files.current()["support"] is edited
    file.unlink()
    assert files.current() == {}


async def test_what_a_file_says_becomes_a_version_once_and_again_when_it_changed(settings: Settings) -> None:
    file = write(settings, "support", WHOLE)
    ledger = await Ledger.open(settings)
    try:
        publisher, toolboxes = Publisher(ledger, settings), Toolboxes(ledger)

        await publisher.refresh()
        await publisher.refresh()
        assert [version.version for version in await toolboxes.versions("support")] == [1]
        assert publisher.changed() == {}

        file.write_text(WHOLE + "metadata: {team: support}\n")
        await publisher.refresh({"another"})
        assert len(await toolboxes.versions("support")) == 1
        await publisher.refresh({"support"})
        assert len(await toolboxes.versions("support")) == 2
        assert await toolboxes.default_version("support") == 1
    finally:
        await ledger.close()


async def test_a_document_that_cannot_be_fetched_keeps_nobody_waiting_again_and_again(settings: Settings) -> None:
    write(
        settings, "support", "openapi:\n  crm: {document: https://127.0.0.1:1/crm.json, base_url: https://x.example}\n"
    )
    ledger = await Ledger.open(settings)
    try:
        publisher = Publisher(ledger, settings)
        assert list(publisher.changed()) == ["support"]

        await publisher.refresh()

        assert await Toolboxes(ledger).names() == []
        assert publisher.changed() == {}
        write(
            settings,
            "support",
            "openapi:\n  crm: {document: https://127.0.0.1:2/crm.json, base_url: https://x.example}\n",
        )
        assert list(publisher.changed()) == ["support"]
    finally:
        await ledger.close()


async def test_a_document_that_stands_elsewhere_is_fetched_once_and_its_later_words_change_no_version(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    authority = trustme.CA()
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert("localhost").configure_cert(tls)
    said = {"document": json.dumps(document_of(URL))}

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        body = said["document"].encode()
        writer.write(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (len(body), body))
        await writer.drain()
        writer.close()

    ledger = await Ledger.open(settings)
    try:
        async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=tls) as server:
            port = server.sockets[0].getsockname()[1]
            write(settings, "support", f"openapi:\n  crm: {{document: https://localhost:{port}/crm.json}}\n")
            with pytest.raises(ToolNotReached):  # nobody here knows its certificate
                await fetch_document("crm", load_toolboxes(settings)["support"].remote["crm"])
            with authority.cert_pem.tempfile() as pem:
                monkeypatch.setenv("SSL_CERT_FILE", pem)
                egress._certificates.cache_clear()
                publisher, toolboxes = Publisher(ledger, settings), Toolboxes(ledger)
                await publisher.refresh()
                said["document"] = json.dumps(document_of("https://elsewhere.example.com"))
                await publisher.refresh()

                assert (await toolboxes.get("support")).operations["crm"][0].base_url == URL
                await Publisher(ledger, settings).refresh()
                changed = (await toolboxes.get("support", 2)).operations["crm"][0]
                assert changed.base_url == "https://elsewhere.example.com"
                assert not changed.said_openly
                assert await toolboxes.default_version("support") == 1
    finally:
        egress._certificates.cache_clear()
        await ledger.close()
