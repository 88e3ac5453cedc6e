"""The OpenAPI document: whether it says everything, and whether the gateway keeps to it, by generated requests."""

from __future__ import annotations

import asyncio
import json
import os
import re
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
from fastapi.routing import iter_route_contexts
from temporalio.testing import WorkflowEnvironment

from horarium.gateway.app import gateway_app
from tests.gateway.furnished import Furnished, furnished
from tests.gateway.operations import examples_of, operations, request_of, resolved

SEED = 7
CASES = re.compile(r"(\d+) generated")
PROBLEMS, OPENAI = "application/problem+json", "application/json"
UNDESCRIBED = ("/v1/openapi.json", "/v1/steps/")  # itself; and what workers of this package say to it
PATIENCE = 900  # seconds
LONGEST_LOOK = 1  # seconds, at a stream that need not end
QUERIES = {"run": "run", "thread": "thread", "routine": "routine", "tick": "tick", "other": "run", "agent": "agent"}
BODIES = {"agent": "agent", "model": "agent", "thread": "thread", "digest": "digest", "call.tool": "tool"}
BODIES |= {"conversation": "conversation", "previous_response_id": "response"}
# What is refused although its schema is kept to is refused for what no schema can say: a cursor of another list, a time
# that has passed, an agent that is not there.
LEFT_OUT = ("--exclude-checks", "positive_data_acceptance")


@pytest.fixture(scope="module")
async def house(env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Furnished]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("FURNISHED_HOOK", "a secret of ours and theirs")
        async with furnished(env, tmp_path_factory.mktemp("house")) as house:
            yield house


async def document_of(house: Furnished) -> dict[str, Any]:
    """The OpenAPI document."""
    found: dict[str, Any] = await house.rest.ok("GET", "/v1/openapi.json", "viewer")
    return found


async def test_every_operation_has_a_name_words_a_role_and_its_errors(house: Furnished) -> None:
    document = await document_of(house)

    found = list(operations(document))
    needed = {"400", "401", "403", "421", "429", "503"}
    unsaid = [
        one.id
        for one in found
        if not all(
            one.said.get(field) for field in ("operationId", "summary", "description", "tags", "x-horarium-role")
        )
        or not needed | (set() if one.method == "GET" else {"413"}) <= set(one.said["responses"])
        or ("422" in one.said["responses"]) == one.speaks_openai
    ]
    shapes = {
        (one.speaks_openai, *answer["content"])
        for one in found
        for status, answer in one.said["responses"].items()
        if status >= "400"
    }
    names = [one.id for one in found]
    assert len(found) >= 90
    assert unsaid == []
    assert shapes == {(False, PROBLEMS), (True, OPENAI)}
    assert len(set(names)) == len(names)
    assert document["security"] == [{"key": []}]
    assert all(tag["description"] for tag in document["tags"])


async def test_every_route_of_the_interface_is_in_the_document(house: Furnished) -> None:
    document = await document_of(house)
    engine = house.rest.engine
    app = gateway_app(engine.client, engine.settings, port=1, anonymous=False)

    described = {(one.method, one.path) for one in operations(document)}
    served = {
        (method, route.path.replace(":path}", "}"))
        for route in iter_route_contexts(app.routes)
        if route.path is not None and route.path.startswith("/v1/")
        for method in set(route.methods or ()) - {"HEAD"}
    }

    assert described <= served
    assert {path for _, path in served - described if not path.startswith(UNDESCRIBED)} == set()


async def test_every_example_of_the_document_fits_its_schema(house: Furnished) -> None:
    document = await document_of(house)

    def wrong(schema: dict[str, Any], example: Any) -> list[str]:
        whole = {**schema, "components": document["components"]}
        return [error.message for error in jsonschema.Draft202012Validator(whole).iter_errors(example)]

    found = [(name, schema, value) for name, schema, value in _examples(document)]
    bodies = [one for one in operations(document) if one.body is not None]

    assert [(name, errors) for name, schema, value in found if (errors := wrong(schema, value))] == []
    assert [one.id for one in bodies if not examples_of(document, one.body or {})] == []


def _examples(document: dict[str, Any]) -> Iterator[tuple[str, dict[str, Any], Any]]:
    """Every example, with the schema that it is of."""
    for name, schema in document["components"]["schemas"].items():
        yield from ((name, schema, value) for value in schema.get("examples", ()))
    for one in operations(document):
        contents = [one.said.get("requestBody", {}), *one.said["responses"].values()]
        for kind, media in ((kind, media) for said in contents for kind, media in said.get("content", {}).items()):
            if not kind.startswith("text/"):
                yield from ((f"{one.id} {kind}", media["schema"], value) for value in examples_of(document, media))


async def test_every_example_of_a_body_is_taken(house: Furnished) -> None:
    document = await document_of(house)

    codes = document["components"]["schemas"]["Problem"]["properties"]["code"]["x-horarium-codes"]
    refused: dict[str, str] = {}
    for one in operations(document):
        if one.body is None or one.role == "nobody":
            continue
        more = request_of(document, one, house)
        answer = await house.rest(one.method, one.address(house), **more)
        known = answer.is_success or one.speaks_openai or answer.json()["code"] in codes[str(answer.status_code)]
        if answer.status_code in (400, 422) or not known:
            refused[one.id] = answer.text

    assert refused == {}


def settings_of(house: Furnished, document: dict[str, Any], *, always: bool) -> str:
    """Schemathesis's settings: where an id is wanted, it is of something that is there, most of the time or always."""
    ids: dict[str, list[Any]] = {noun.replace(" ", "_"): known for noun, known in house.ids.items()}
    ids["run"] = [*ids["run"], *ids["waiting"], *ids["asking"]]
    ids["tool"], ids["number"], ids["version"] = ["look", "pay"], [1, 2, 3], [1, 2]
    ids["asked"] = ["clerk"]  # whose the responses are
    # What is used up is of the last ones, so that something is left.
    gone = {f"last_{noun}": known[-2:] for noun, known in ids.items()}
    lines = ["[dictionaries]", *(f"{noun}.values = {json.dumps(known)}" for noun, known in (ids | gone).items())]
    for one in operations(document):
        using_up = "last_" if one.method == "DELETE" or one.path.endswith("/cancel") else ""
        named = [part[1:-1] for part in one.path.split("/") if part.startswith("{")]
        bound = {f"path.{name}": using_up + one.nouns.get(name, name) for name in named}
        if "response_id" in named and "agent_name" in named:
            bound["path.agent_name"] = "asked"
        queries = {said["name"] for said in one.said.get("parameters", ()) if said["in"] == "query"}
        bound |= {f"query.{name}": noun for name, noun in QUERIES.items() if name in queries}
        if one.body is not None:
            fields = resolved(document, one.body["schema"]).get("properties", {})
            bound |= {f"body.{name}": noun for name, noun in BODIES.items() if name.partition(".")[0] in fields}
        lines += ["[[operations]]", f"include-operation-id = {json.dumps(one.id)}"]
        if one.id == "runs_events":  # it goes on as long as its run does
            lines.append(f"request-timeout = {LONGEST_LOOK}")
        lines.append("[operations.parameters]")
        for key, noun in bound.items():
            # Whoever revokes his own key tests nothing from then on.
            pinned = always or one.id == "keys_revoke"
            drawn = f'{{dictionary = "{noun}", probability = 0.75}}'
            one_of_them = json.dumps((ids | gone)[noun][0])
            lines.append(f'"{key}" = {one_of_them if pinned and not key.startswith("body.") else drawn}')
    return "\n".join(lines)


async def attacked(house: Furnished, directory: Path, *more: str, always: bool = False) -> tuple[int, str]:
    """What schemathesis found, running beside us."""
    rest = house.rest
    settings = settings_of(house, await document_of(house), always=always)
    (directory / "schemathesis.toml").write_text(settings)
    program = Path(sys.executable).parent / "schemathesis"
    url = f"http://127.0.0.1:{rest.serving.port}"
    # One worker: Python 3.11 breaks off with a SystemError when two threads parse source at the same time.
    process = await asyncio.create_subprocess_exec(
        *(str(program), "run", f"{url}/v1/openapi.json", "--url", url, "--seed", str(SEED), "--no-color"),
        *("--header", f"Authorization: Bearer {rest.keys['admin']}", "--request-timeout", "30", "--workers", "1"),
        *(*LEFT_OUT, *more),
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
@pytest.mark.timeout(2 * PATIENCE + 60)
async def test_generated_requests_find_no_answer_that_the_document_does_not_have(
    house: Furnished, tmp_path: Path
) -> None:
    """SCHEMATHESIS_EXAMPLES=30 has every phase, and over 3,000 requests; without it, some hundreds."""
    wanted = os.environ.get("SCHEMATHESIS_EXAMPLES")

    found = []
    if wanted is not None:  # first, while all is there; the ids that it makes up for itself are of nothing
        found.append(await attacked(house, tmp_path, "--phases", "coverage", always=True))
    found.append(await attacked(house, tmp_path, "--phases", "examples,fuzzing", "--max-examples", wanted or "5"))

    assert [said[-20_000:] for status, said in found if status != 0] == []
    cases = [int(told[1]) for _, said in found if (told := CASES.search(said)) is not None]
    print(f"{sum(cases)} cases")
    assert sum(cases) >= (300 if wanted is None else 3_000)
    assert (await house.rest("GET", "/v1/agents")).status_code == 200
