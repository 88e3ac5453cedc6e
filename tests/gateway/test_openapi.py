"""The OpenAPI document: whether it says everything, and whether the gateway keeps to it, by generated requests."""

from __future__ import annotations

import asyncio
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest

from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from horarium.ledger.toolboxes import Toolboxes
from tests.engine.conftest import World
from tests.gateway.conftest import SHOP, Serve
from tests.gateway.rest import Rest, rest_of
from tests.support.engine import Engine, says

OURS = {"agents", "routines", "toolboxes", "memories", "workspaces", "audit", "keys", "hooks"}
SEED = 7
CASES = re.compile(r"(\d+) generated")
# What is refused although its schema is kept to is refused for what no schema can say: a cursor of another list, a time
# that has passed, an agent that is not there. And a run that revokes its own key would test nothing from then on.
LEFT_OUT = ("--exclude-checks", "positive_data_acceptance", "--exclude-operation-id", "keys_revoke")
PATIENCE = 540  # seconds


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    await Agents(engine.ledger).register(Agent("clerk", model="scripted:test"))
    await Toolboxes(engine.ledger).register(SHOP)
    engine.model.lines[:] = [says("Done.")]
    async with rest_of(engine, serve) as rest:
        routine = {"agent": "clerk", "input": "Go.", "triggers": {"it": {"event": "github.issue.opened"}}}
        await rest.ok("PUT", "/v1/routines/daily", json=routine)
        yield rest


def operations(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """Each operation of these nouns, with its method and path."""
    for path, methods in document["paths"].items():
        for method, operation in methods.items():
            if OURS & set(operation.get("tags", ())):
                yield f"{method.upper()} {path}", operation


async def test_every_operation_has_a_name_words_and_its_errors(rest: Rest) -> None:
    document = await rest.ok("GET", "/v1/openapi.json", "viewer")

    found = dict(operations(document))
    unsaid = [
        name
        for name, operation in found.items()
        if not all(operation.get(field) for field in ("operationId", "summary", "description", "tags"))
        or not {"401", "403", "422", "503"} <= set(operation["responses"])
    ]
    problems = {
        tuple(answer["content"])
        for operation in found.values()
        for status, answer in operation["responses"].items()
        if status >= "400"
    }
    names = [operation["operationId"] for operation in found.values()]
    assert len(found) >= 40
    assert unsaid == []
    assert problems == {("application/problem+json",)}
    assert len(set(names)) == len(names)
    assert document["security"] == [{"key": []}]
    assert {tag["name"] for tag in document["tags"]} >= OURS


async def test_every_json_body_has_an_example(rest: Rest) -> None:
    document = await rest.ok("GET", "/v1/openapi.json", "viewer")

    def examples(schema: dict[str, Any]) -> list[Any]:
        if "$ref" in schema:
            schema = document["components"]["schemas"][schema["$ref"].rpartition("/")[2]]
        return schema.get("examples") or [found for part in schema.get("anyOf", ()) for found in examples(part)]

    without = [
        name
        for name, operation in operations(document)
        if (content := operation.get("requestBody", {}).get("content", {}).get("application/json"))
        and not (content.get("examples") or content.get("example") or examples(content["schema"]))
    ]

    assert without == []


async def attacked(rest: Rest, directory: Path, *more: str) -> tuple[int, str]:
    """What schemathesis found, running beside us."""
    program = Path(sys.executable).parent / "schemathesis"
    tags = [word for tag in sorted(OURS) for word in ("--include-tag", tag)]
    url = f"http://127.0.0.1:{rest.serving.port}"
    # One worker: Python 3.11 breaks off with a SystemError when two threads parse source at the same time.
    process = await asyncio.create_subprocess_exec(
        *(str(program), "run", f"{url}/v1/openapi.json", "--url", url, "--seed", str(SEED), "--no-color"),
        *("--header", f"Authorization: Bearer {rest.keys['admin']}", "--request-timeout", "30", "--workers", "1"),
        *(*LEFT_OUT, *tags, *more),
        cwd=directory,
        env={**os.environ, "NO_PROXY": "127.0.0.1", "PYTHONDONTWRITEBYTECODE": "1"},
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        async with asyncio.timeout(PATIENCE):
            said, _ = await process.communicate()
    finally:
        if process.returncode is None:
            process.kill()
            await process.wait()
    return process.returncode or 0, said.decode()


@pytest.mark.slow
@pytest.mark.timeout(PATIENCE + 30)
async def test_generated_requests_find_no_answer_that_the_document_does_not_have(rest: Rest, tmp_path: Path) -> None:
    """SCHEMATHESIS_EXAMPLES=30 has every phase, and over 3,000 requests; without it, some hundreds."""
    wanted = os.environ.get("SCHEMATHESIS_EXAMPLES")
    phases = "examples,fuzzing" if wanted is None else "examples,coverage,fuzzing"

    status, said = await attacked(rest, tmp_path, "--phases", phases, "--max-examples", wanted or "8")

    assert status == 0, said[-20_000:]
    cases = CASES.search(said)
    assert cases is not None
    print(f"{cases[1]} cases")
    assert int(cases[1]) >= (200 if wanted is None else 3_000)
    assert (await rest("GET", "/v1/agents")).status_code == 200
