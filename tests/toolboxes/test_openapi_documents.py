"""What is read of an OpenAPI document, and what is refused."""

from __future__ import annotations

import json
from typing import Annotated, Any

import pytest
import yaml
from fastapi import FastAPI, Query
from pydantic import BaseModel

from horarium.errors import ConfigError
from horarium.openapi import Operation, read_document
from horarium.openapi_documents import MAX_SCHEMA_BYTES, parse_document
from horarium.schemas import schema_problem
from horarium.toolboxes import OpenApi
from horarium.tools import Effect

SERVERS = [{"url": "https://crm.example.com/v1"}]


def document(paths: dict[str, Any], schemas: dict[str, Any] | None = None, **more: Any) -> dict[str, Any]:
    return {"openapi": "3.1.0", "servers": SERVERS, "paths": paths, "components": {"schemas": schemas or {}}, **more}


def read(said: dict[str, Any], **api: Any) -> dict[str, Operation]:
    settings = OpenApi(document="crm.yaml", **api)
    data = yaml.safe_dump(said, sort_keys=False).encode()
    return {found.name: found for found in read_document("crm", settings, parse_document(data, "crm.yaml")).operations}


def post(schema: dict[str, Any], **more: Any) -> dict[str, Any]:
    return {"operationId": "send", "requestBody": {"content": {"application/json": {"schema": schema}}}, **more}


def body_of(operation: Operation) -> Any:
    return operation.parameters["properties"]["body"]


def test_an_operation_becomes_one_schema_of_all_that_it_takes() -> None:
    path = {
        "parameters": [{"name": "id", "in": "path", "required": True, "schema": {"type": "integer"}}],
        "put": {
            "operationId": "changeCustomer",
            "summary": "Change a customer.",
            "description": "Only what is given changes.",
            "parameters": [
                {"name": "dry_run", "in": "query", "schema": {"type": "boolean"}, "description": "Only look."},
                {"name": "X-Reason", "in": "header", "required": True, "schema": {"type": "string"}},
                {"name": "session", "in": "cookie", "schema": {"type": "string"}},
                {"name": "Authorization", "in": "header", "schema": {"type": "string"}},
            ],
            "requestBody": {"required": True, "content": {"application/json": {"schema": {"type": "object"}}}},
        },
    }

    found = read(document({"/customers/{id}": path}))["changeCustomer"]

    assert (found.method, found.path, found.base_url) == ("put", "/customers/{id}", "https://crm.example.com/v1")
    assert found.description == "Change a customer.\n\nOnly what is given changes."
    assert set(found.parameters["properties"]) == {"body", "id", "dry_run", "X-Reason", "session"}
    assert sorted(found.parameters["required"]) == ["X-Reason", "body", "id"]
    assert found.parameters["properties"]["dry_run"] == {"description": "Only look.", "type": "boolean"}
    assert found.parameters["additionalProperties"] is False
    assert found.body == "application/json"


def test_get_and_head_are_read_and_anything_else_is_external_unless_said_otherwise() -> None:
    methods = {method: {"operationId": method} for method in ("get", "head", "post", "put", "patch", "delete")}

    plain = read(document({"/x": methods}))
    said = read(document({"/x": methods}), effects={"pu*": "idempotent", "get": "external"})

    assert {name: found.effect for name, found in plain.items() if found.effect is not Effect.EXTERNAL} == {
        "get": Effect.READ,
        "head": Effect.READ,
    }
    assert (said["put"].effect, said["get"].effect, said["post"].effect) == ("idempotent", "external", "external")


def test_an_operation_without_a_name_is_called_by_its_method_and_path() -> None:
    assert list(read(document({"/customers/{id}/notes": {"get": {}}, "/": {"get": {}}}), operations=["*"])) == ["get"]
    parameter = {"name": "id", "in": "path", "required": True}
    assert list(read(document({"/customers/{id}/notes": {"get": {"parameters": [parameter]}}}))) == [
        "get_customers_id_notes"
    ]


def test_names_are_such_as_models_take_and_each_is_there_once() -> None:
    paths = {
        f"/{n}": {"get": {"operationId": name}} for n, name in enumerate(["repos/list all", "repos_list_all", "x" * 99])
    }

    found = list(read(document(paths)))

    assert found[:2] == ["repos_list_all", "repos_list_all_2"]
    assert len(f"crm__{found[2]}") == 64


def test_references_are_put_in_their_place_and_a_circle_is_left_open() -> None:
    schemas = {
        "Node": {
            "type": "object",
            "properties": {
                "name": {"$ref": "#/components/schemas/Name"},
                "child": {"$ref": "#/components/schemas/Node"},
            },
        },
        "Name": {"type": "string", "maxLength": 5},
    }

    schema = body_of(read(document({"/x": {"post": post({"$ref": "#/components/schemas/Node"})}}, schemas))["send"])

    assert schema["properties"] == {"name": {"type": "string", "maxLength": 5}, "child": {}}


@pytest.mark.parametrize(
    ("reference", "why"),
    [
        ("#/components/schemas/Gone", "is not in the document"),
        ("other.yaml#/Node", "leads out of the document"),
        ("https://evil.example/x.json", "leads out of the document"),
        ("file:///etc/passwd", "leads out of the document"),
        ("#/components/schemas/Round", "round in a circle"),
    ],
)
def test_a_reference_that_leads_out_or_nowhere_is_refused(reference: str, why: str) -> None:
    schemas = {"Round": {"$ref": "#/components/schemas/Round"}}

    with pytest.raises(ConfigError, match=why):
        read(document({"/x": {"post": post({"$ref": reference})}}, schemas))


def test_words_of_3_0_are_said_in_those_of_json_schema() -> None:
    schema = {
        "type": "object",
        "required": ["id", "state"],
        "properties": {
            "id": {"type": "integer", "readOnly": True},
            "state": {"type": "string", "nullable": True, "enum": ["open"], "example": "open"},
            "amount": {"type": "number", "minimum": 0, "exclusiveMinimum": True, "xml": {"name": "a"}},
        },
    }

    found = body_of(read(document({"/x": {"post": post(schema)}}) | {"openapi": "3.0.3"})["send"])

    assert found == {
        "type": "object",
        "required": ["state"],
        "properties": {
            "state": {"type": ["string", "null"], "enum": ["open", None]},
            "amount": {"type": "number", "exclusiveMinimum": 0},
        },
    }


def test_a_schema_that_doubles_at_each_level_is_cut_where_it_is_small_enough() -> None:
    schemas: dict[str, Any] = {
        f"S{n}": {
            "type": "object",
            "required": ["a"],
            "properties": {side: {"$ref": f"#/components/schemas/S{n + 1}"} for side in "ab"},
        }
        for n in range(40)
    }
    schemas["S40"] = {"type": "string"}

    found = read(document({"/x": {"post": post({"$ref": "#/components/schemas/S0"})}}, schemas))["send"]

    assert len(json.dumps(found.parameters)) < 2 * MAX_SCHEMA_BYTES
    assert schema_problem(found.parameters, {"body": {"b": {}}}) is not None
    assert schema_problem(found.parameters, {"body": {"a": {"a": {"a": {"a": {"a": {}}}}}}}) is not None


@pytest.mark.parametrize(
    ("data", "why"),
    [
        (b"swagger: '2.0'", "Swagger 2"),
        (b"openapi: 4.0.0", "found OpenAPI 4.0.0"),
        (b"info: {}", "no `openapi:` field"),
        (b"[1]", "has no fields"),
        (b"openapi: [", "crm:"),
        (b'{"openapi": "3.1.0",', "is not valid JSON"),
        (b"\xff\xfe\x00", "neither JSON nor YAML"),
        (b"openapi: 3.1.0\nx: " + b"[" * 100_000, "levels deep"),
        (b'{"openapi": "3.1.0", "x": ' + b"[" * 100_000, "nested too deeply"),
        (b"openapi: 3.1.0\nx: &x {a: [*x]}", "crm:2: .x stands inside of itself"),
        (b"openapi: 3.1.0\nx: !!python/object/apply:os.system [id]", "could not determine a constructor"),
        (b" " * (8 * 1024 * 1024 + 1), "is larger than"),
    ],
    ids=[
        "swagger",
        "four",
        "none",
        "list",
        "yaml",
        "json",
        "bytes",
        "deep yaml",
        "deep json",
        "circle",
        "python",
        "huge",
    ],
)
def test_what_is_no_document_of_ours_is_refused_with_the_reason(data: bytes, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        parse_document(data, "crm")


def test_merge_keys_are_plain_keys() -> None:
    found = parse_document(b"openapi: 3.1.0\na: &a {k: 1}\nb: {<<: [*a, *a]}\n", "crm")

    assert set(found["b"]) == {"<<"}


@pytest.mark.parametrize("place", ["x-more", "default", "enum"])
def test_aliases_of_aliases_are_refused_before_they_multiply(place: str) -> None:
    bomb = "openapi: 3.1.0\nx0: &a0 [1, 1]\n"
    bomb += "".join(f"x{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 30))
    bomb += (
        f"paths: {{/x: {{post: {{requestBody: {{content: {{application/json: {{schema: {{{place}: *a29}}}}}}}}}}}}}}"
    )

    with pytest.raises(ConfigError, match="with its aliases followed"):
        read_document("crm", OpenApi(document="crm.yaml"), parse_document(bomb.encode(), "crm"))


def test_dates_and_the_words_yes_and_no_stay_what_they_are() -> None:
    found = parse_document(b"openapi: 3.1.0\nday: 2020-01-01\ncountry: no\nflag: true\n", "crm")

    assert (found["day"], found["country"], found["flag"]) == ("2020-01-01", "no", True)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        ("operations", ["sendd"], r"no operation 'sendd'.*did you mean 'send'"),
        ("effects", {"sned": "read"}, r"no operation 'sned'.*did you mean 'send'"),
        ("operations", ["delete*"], r"no operation 'delete\*'"),
    ],
)
def test_a_pattern_that_fits_nothing_is_a_mistake_and_told_with_the_near_miss(field: str, value: Any, why: str) -> None:
    with pytest.raises(ConfigError, match=why):
        read(document({"/x": {"post": post({"type": "object"})}}), **{field: value})


def test_only_the_operations_that_are_named_are_offered() -> None:
    paths = {"/a": {"get": {"operationId": "a"}}, "/b": {"delete": {"operationId": "b"}}}

    assert list(read(document(paths), operations=["a"])) == ["a"]


def test_what_cannot_be_called_is_left_out_with_the_reason() -> None:
    upload = {"operationId": "up", "requestBody": {"content": {"multipart/form-data": {"schema": {}}}}}
    said = document({"/up": {"post": upload}, "/x/{id}": {"get": {"operationId": "lost"}}, "/ok": {"get": {}}})

    found = read_document("crm", OpenApi(document="crm.yaml"), said)

    assert [operation.name for operation in found.operations] == ["get_ok"]
    assert found.left_out == (
        "POST /up: its body has a media type that is not supported",
        "GET /x/{id}: its path has 'id', which is none of its parameters",
    )


def test_what_the_definition_sends_itself_is_no_argument() -> None:
    names = [("query", "api_key"), ("header", "X-Api-Key"), ("header", "Idempotency-Key"), ("query", "q")]
    operation = {"operationId": "x", "parameters": [{"in": place, "name": name} for place, name in names]}

    found = read(
        document({"/x": {"post": operation}}), headers={"x-api-key": "${CRM_KEY}"}, query={"api_key": "${CRM_KEY}"}
    )["x"]

    assert list(found.parameters["properties"]) == ["q"]


def test_two_parameters_of_one_name_are_told_apart() -> None:
    parameters = [
        {"in": "path", "name": "id", "required": True},
        {"in": "query", "name": "id"},
        {"in": "query", "name": "f[x]"},
    ]

    found = read(document({"/x/{id}": {"get": {"operationId": "x", "parameters": parameters}}}))["x"]

    assert [(item.name, item.wire) for item in found.arguments] == [("id", "id"), ("query_id", "id"), ("f_x", "f[x]")]


def test_one_operation_that_cannot_be_described_does_not_spoil_the_others() -> None:
    said = document(
        {
            "/a": {"post": post({"type": "strin"}) | {"operationId": "a"}},
            "/b": {"post": post({"$ref": "#/gone"}) | {"operationId": "b"}},
            "/c\u0000": {"get": {"operationId": "c"}},
            "/d": {"get": {"operationId": "d", "parameters": [{"in": "query", "name": "x\r\ny"}]}},
            "/ok": {"get": {"operationId": "ok"}},
        }
    )

    found = read_document("crm", OpenApi(document="crm.yaml"), said)

    assert [operation.name for operation in found.operations] == ["ok"]
    assert [reason.partition(":")[0] for reason in found.left_out] == ["POST /a", "POST /b", "GET /c\u0000", "GET /d"]


def test_patterns_of_other_dialects_are_left_to_the_api_and_nothing_unstorable_is_kept() -> None:
    schema = {
        "type": "object",
        "patternProperties": {"^x-": {"type": "string"}, "^\\p{L}": {}},
        "properties": {
            "name": {"type": "string", "pattern": "^\\p{L}+$"},
            "number": {"type": "string", "pattern": "^[0-9]+$"},
            "odd\u0000": {"type": "string", "enum": ["a\u0000", "\ud800"], "x-\ud800": 1},
        },
    }

    found = read_document("crm", OpenApi(document="crm.yaml"), document({"/x": {"post": post(schema)}})).operations[0]

    read_schema = body_of(found)
    assert read_schema["properties"]["name"] == {"type": "string"}
    assert read_schema["patternProperties"] == {"^x-": {"type": "string"}}
    assert schema_problem(found.parameters, {"body": {"name": "ü", "number": "7"}}) is None
    assert schema_problem(found.parameters, {"body": {"number": "x"}}) is not None
    assert "\\u0000" not in found.model_dump_json()
    assert "\ud800" not in str(found.model_dump())


class Line(BaseModel):
    item: str
    amount: int = 1
    more: Line | None = None


class Order(BaseModel):
    lines: list[Line]
    note: str | None = None


def test_a_document_as_fastapi_writes_it_is_read() -> None:
    app = FastAPI(servers=SERVERS)

    @app.put("/orders/{number}")
    def change_order(number: int, order: Order, tags: Annotated[list[str], Query()], dry_run: bool = False) -> Order:
        """Change an order."""
        return order

    found = read(app.openapi())["change_order_orders__number__put"]

    assert found.description == "Change Order\n\nChange an order."
    fits = {"number": 7, "dry_run": True, "tags": ["a"], "body": {"lines": [{"item": "x", "more": {"item": "y"}}]}}
    assert schema_problem(found.parameters, fits) is None
    assert schema_problem(found.parameters, {"number": 7, "tags": [], "body": {"lines": [{"amount": 2}]}}) is not None


REMOTE = "https://docs.example.com/crm.yaml"


def test_secrets_go_to_no_host_that_only_a_fetched_document_names() -> None:
    said = document({"/x": {"get": {"operationId": "x"}}}, servers=[{"url": "https://evil.example/"}])

    with pytest.raises(ConfigError, match="another host"):
        read_document("crm", OpenApi(document=REMOTE, headers={"X-Key": "${CRM_KEY}"}), said)

    named = OpenApi(document=REMOTE, headers={"X-Key": "${CRM_KEY}"}, base_url="https://crm.example.com")
    assert read_document("crm", named, said).operations[0].base_url == "https://crm.example.com"
    open_to_all = read_document("crm", OpenApi(document=REMOTE), said).operations[0]
    assert (open_to_all.base_url, open_to_all.said_openly) == ("https://evil.example/", False)


def test_secrets_go_nowhere_without_tls_because_a_fetched_document_says_so() -> None:
    said = document({"/x": {"get": {"operationId": "x"}}}, servers=[{"url": "http://docs.example.com/"}])

    with pytest.raises(ConfigError, match="without TLS"):
        read_document("crm", OpenApi(document=REMOTE, headers={"X-Key": "${CRM_KEY}"}), said)


def test_how_a_request_is_sent_is_no_argument() -> None:
    names = ("Transfer-Encoding", "Accept-Encoding", "Expect", "X-Trace")
    asked = [{"name": name, "in": "header", "schema": {"type": "string"}} for name in names]

    found = read(document({"/x": {"get": {"operationId": "x", "parameters": asked}}}))["x"]

    assert [argument.wire for argument in found.arguments] == ["X-Trace"]


def test_servers_may_be_relative_to_a_fetched_document_and_have_variables() -> None:
    servers = [{"url": "/api/{version}", "variables": {"version": {"default": "v2"}}}]
    said = document({"/x": {"get": {"operationId": "x"}}}, servers=servers)

    assert (
        read_document("crm", OpenApi(document=REMOTE), said).operations[0].base_url == "https://docs.example.com/api/v2"
    )
    with pytest.raises(ConfigError, match="does not say where its API is"):
        read_document("crm", OpenApi(document="crm.yaml"), said)
