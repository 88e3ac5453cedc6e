"""Toolbox versions in the ledger: they never change, and people choose which one counts."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from ulid import ULID

from horarium.errors import Conflict, ToolboxNotFound
from horarium.ledger.audit import AuditTrail
from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import Toolboxes
from horarium.openapi import Operation
from horarium.toolboxes import OpenApi, Toolbox, named_version
from horarium.tools import Effect


def name_of_its_own() -> str:
    return f"crm-{str(ULID()).lower()}"


def operation(**more: Any) -> Operation:
    said: dict[str, Any] = {"name": "close", "method": "post", "path": "/close", "base_url": "https://crm.example"}
    said |= {"said_openly": True, "effect": Effect.EXTERNAL, "parameters": {"type": "object"}}
    return Operation(**said | more)


@pytest.fixture
def toolboxes(ledger: Ledger) -> Toolboxes:
    return Toolboxes(ledger)


async def three_versions(toolboxes: Toolboxes) -> str:
    name = name_of_its_own()
    for tools in (("look",), ("look", "pay"), ("pay",)):
        await toolboxes.register(Toolbox(name=name, tools=tools))
    return name


async def test_the_first_version_counts_and_a_later_one_waits_to_be_promoted(toolboxes: Toolboxes) -> None:
    name = await three_versions(toolboxes)

    assert [version.version for version in await toolboxes.versions(name)] == [1, 2, 3]
    assert (await toolboxes.get(name)).toolbox.tools == ("look",)
    assert (await toolboxes.get(name, 3)).toolbox.tools == ("pay",)
    assert await toolboxes.default_version(name) == 1


async def test_what_is_the_same_as_a_version_is_that_version(toolboxes: Toolboxes) -> None:
    name = await three_versions(toolboxes)

    assert await toolboxes.register(Toolbox(name=name, tools=("look", "pay"))) == 2
    assert len(await toolboxes.versions(name)) == 3


async def test_a_version_holds_the_operations_of_its_documents_and_another_document_is_another_version(
    toolboxes: Toolboxes,
) -> None:
    toolbox = Toolbox(name=name_of_its_own(), openapi={"crm": OpenApi(document="crm.yaml")})

    first = await toolboxes.register(toolbox, {"crm": [operation()]})
    second = await toolboxes.register(toolbox, {"crm": [operation(path="/v2/close")]})

    assert (first, second) == (1, 2)
    found = await toolboxes.get(toolbox.name, 1)
    assert found.operations == {"crm": (operation(),)}
    assert found.toolbox == toolbox
    assert found.reference == f"{toolbox.name}@1"


async def test_promotion_and_one_rollback_move_the_default_and_the_audit_trail_says_who(
    toolboxes: Toolboxes, ledger: Ledger
) -> None:
    name = await three_versions(toolboxes)
    before = (await AuditTrail(ledger).head()).seq

    promoted = await toolboxes.promote(name, 3, "ana")
    again = await toolboxes.promote(name, 3, "ben")
    back = await toolboxes.rollback(name, "cem")

    assert (promoted.version, promoted.previous, promoted.changed_by) == (3, 1, "ana")
    assert again == promoted
    assert (back.version, back.previous, back.changed_by) == (1, None, "cem")
    with pytest.raises(Conflict, match="nothing to go back to"):
        await toolboxes.rollback(name, "cem")
    told = [entry for entry in await AuditTrail(ledger).entries(after=before) if entry.subject == name]
    assert [(entry.kind, entry.data) for entry in told] == [
        ("toolbox.promoted", {"by": "ana", "version": 3, "before": 1}),
        ("toolbox.rolled_back", {"by": "cem", "version": 1, "before": 3}),
    ]


async def test_what_is_not_there_is_named_with_the_near_miss(toolboxes: Toolboxes) -> None:
    name = await three_versions(toolboxes)

    with pytest.raises(ToolboxNotFound, match=f"did you mean '{name}'"):
        await toolboxes.get(f"{name}x")
    with pytest.raises(ToolboxNotFound, match="has no version 9"):
        await toolboxes.get(name, 9)
    with pytest.raises(ToolboxNotFound, match="has no version 9"):
        await toolboxes.promote(name, 9, "ana")
    for unknown in (toolboxes.promote("nobody-has-this", 1, "ana"), toolboxes.rollback("nobody-has-this", "ana")):
        with pytest.raises(ToolboxNotFound):
            await unknown
    assert await toolboxes.default_version(name) == 1


async def test_workers_that_start_at_once_make_one_version(toolboxes: Toolboxes) -> None:
    toolbox = Toolbox(name=name_of_its_own(), tools=("look",))

    numbers = await asyncio.gather(*(toolboxes.register(toolbox) for _ in range(8)))

    assert numbers == [1] * 8
    assert len(await toolboxes.versions(toolbox.name)) == 1


async def test_promotions_at_once_leave_a_default_and_its_own_predecessor(toolboxes: Toolboxes) -> None:
    name = await three_versions(toolboxes)

    await asyncio.gather(*(toolboxes.promote(name, version, "ana") for version in (2, 3, 2, 3)))

    found = await toolboxes.default(name)
    assert found.version in (2, 3)
    assert found.previous not in (found.version, None)


@pytest.mark.parametrize(("reference", "found"), [("crm", ("crm", None)), ("crm@2", ("crm", 2))])
def test_a_toolbox_is_named_with_or_without_its_version(reference: str, found: tuple[str, int | None]) -> None:
    assert named_version(reference) == found


@pytest.mark.parametrize("reference", ["", "@2", "crm@", "crm@0", "crm@-1", "crm@two", "crm@2@3", "../crm", "crm@²"])
def test_another_way_to_name_one_is_refused(reference: str) -> None:
    with pytest.raises(ValueError, match=r"name|version"):
        named_version(reference)


@pytest.mark.parametrize(
    ("fields", "why"),
    [
        ({}, "this one is empty"),
        ({"tools": ["a", "a"]}, "listed twice"),
        ({"tools": ["a"], "agents": ["a"]}, "listed twice"),
        ({"mcp": {"x": {"url": "https://a.example/mcp"}}, "openapi": {"x": {"document": "a.yaml"}}}, "both in `mcp`"),
        ({"openapi": {"x": {"document": "http://a.example/a.yaml"}}}, "https:// only"),
        ({"openapi": {"x": {"document": "a.yaml", "headers": {"Host": "b.example"}}}}, "'Host' is set by whoever"),
        ({"openapi": {"x": {"document": "a.yaml", "base_url": "ftp://a"}}}, "begins with http"),
        ({"openapi": {"x": {"document": "a.yaml", "base_url": "https://a:hunter22@b.example"}}}, "after a password"),
        ({"openapi": {"x": {"document": "a.yaml", "headers": {"X-Api-Key": "hunter22"}}}}, "is a secret here"),
        ({"openapi": {"x": {"document": "a.yaml", "query": {"access_token": "hunter22"}}}}, "is a secret here"),
        ({"openapi": {"a__b": {"document": "a.yaml"}}}, "without '__'"),
    ],
)
def test_a_toolbox_that_cannot_be_is_refused_with_the_reason(fields: dict[str, Any], why: str) -> None:
    with pytest.raises(ValidationError, match=why) as told:
        Toolbox.model_validate({"name": "crm", **fields})

    assert "hunter22" not in " ".join(problem["msg"] for problem in told.value.errors())
