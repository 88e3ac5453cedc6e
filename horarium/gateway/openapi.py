"""The OpenAPI document of the gateway: what FastAPI finds in the routes, and what holds for all of them.

Not in it: `/v1/steps`, by which this package's own tool workers speak with it; the MCP endpoints, whose protocol
describes itself; the pages of the console; and the document.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from fastapi import FastAPI
from fastapi.dependencies.models import Dependant
from fastapi.openapi.constants import REF_TEMPLATE
from fastapi.openapi.utils import get_openapi
from fastapi.routing import iter_route_contexts
from pydantic.json_schema import models_json_schema

from horarium.errors import HorariumError, ModelError, StepBlocked, ToolError, ToolImportClash, ToolNotReached
from horarium.evidence.sealing import NotEvidence
from horarium.gateway.answering import speaks_openai
from horarium.gateway.context import Needs
from horarium.gateway.problems import STATUSES, Problem
from horarium.gateway.responses.errors import BadParameter
from horarium.gateway.responses.errors import errors as errors_of_openai
from horarium.gateway.roles import Role
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.events import EVENTS

ABOUT = """Agent runs and routines that survive crashes, and people's word before every step with a side effect.

Errors are `application/problem+json`; branch on `code`. Lists come in pages: give `next` as `cursor`. Times are
RFC 3339, UTC. Where a call starts something, `Idempotency-Key` makes it safe to repeat.

`x-horarium-role` is the smallest role that may make a call: viewer, operator, approver, admin, each with all that the
one before it may; nobody: something else than a key says who calls. `x-horarium-codes` has the codes of problems, by
status. Below `/v1/responses`, `/v1/conversations` and `/v1/models` errors are as OpenAI's clients read them."""
TAGS = {
    "responses": "OpenAI's Responses protocol: an agent is a model, a run a response, a thread a conversation.",
    "invocations": "JSON to an agent, and JSON back.",
    "runs": "One execution of an agent.",
    "threads": "Conversations that outlive runs.",
    "approvals": "Questions to people, and their decisions.",
    "agents": "Definitions of agents, by version.",
    "routines": "Agents that run by themselves, and their ticks.",
    "toolboxes": "Named, versioned bundles of tools.",
    "memories": "What runs were taught.",
    "workspaces": "The files of threads.",
    "audit": "Who was asked, who decided, what was released.",
    "keys": "API keys.",
    "hooks": "Deliveries of other services.",
}
ROLE, CODES = "x-horarium-role", "x-horarium-codes"
# What is said before a route is reached, or by no error of ours.
_BEFORE = {
    401: ("unauthorized",),
    404: ("not_found",),
    405: ("method_not_allowed",),
    413: ("too_large",),
    421: ("misdirected",),
    422: ("bad_request",),
    429: ("rate_limited",),
}
_ELSEWHERE = (ModelError, ToolError, ToolNotReached, StepBlocked, ToolImportClash, NotEvidence, BadParameter)
_CONSOLE = "horarium.gateway.console"
_AGAIN = {"Retry-After": {"description": "Seconds.", "schema": {"type": "integer"}}}


def install(app: FastAPI) -> None:
    """Have the application serve the whole document."""

    def document() -> dict[str, Any]:
        if app.openapi_schema is None:
            app.openapi_schema = _document(app)
        return app.openapi_schema

    app.openapi = document  # type: ignore[method-assign]


def _document(app: FastAPI) -> dict[str, Any]:
    found = get_openapi(
        title=app.title, version=app.version, description=ABOUT, routes=app.routes, separate_input_output_schemas=True
    )
    parts = found.setdefault("components", {})
    parts.setdefault("schemas", {})["Problem"] = Problem.model_json_schema()
    if any(path.endswith("/events") for path in found["paths"]):
        _add_events(parts["schemas"])
    parts["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, `hk_…`, with a scope like `role:operator`, or a token of the OpenID issuer.",
        }
    }
    found["security"] = [{"key": []}]
    parts["schemas"]["Problem"]["properties"]["code"][CODES] = _codes()
    roles = _roles(app)
    for path, methods in found["paths"].items():
        for method, operation in methods.items():
            operation[ROLE] = roles[operation["operationId"]].name.lower()
            _errors_of_all(path, method, operation["responses"])
    for unused in ("HTTPValidationError", "ValidationError"):
        parts["schemas"].pop(unused, None)
    used = {tag for path in found["paths"].values() for operation in path.values() for tag in operation.get("tags", ())}
    found["tags"] = [{"name": name, "description": TAGS.get(name, "")} for name in sorted(used)]
    return found


def _add_events(schemas: dict[str, Any]) -> None:
    """Add what the data of events is: FastAPI looks at bodies alone."""
    _, said = models_json_schema([(event, "serialization") for event in EVENTS], ref_template=REF_TEMPLATE)
    for name, schema in said["$defs"].items():
        schemas.setdefault(name, schema)


def _errors_of_all(path: str, method: str, answers: dict[str, Any]) -> None:
    """Add what is answered before a route is reached, in the shape of the address."""
    before = (429,) if method in ("get", "head") else (413, 429)  # wanted or not, a body may be too large
    if speaks_openai(path):
        answers.pop("422", None)  # FastAPI's word for what is a 400 in this protocol
        shape = {"application/json": {"schema": {"$ref": "#/components/schemas/ErrorAnswer"}}}
        said = {
            status: {"description": answer["description"], "content": shape}
            for status, answer in errors_of_openai(*before).items()
        }
    else:
        said = errors(*before)
    for status in before:
        answers.setdefault(str(status), said[status])
    for name in {"429", "503"} & set(answers):
        answers[name] = {**answers[name], "headers": _AGAIN}


def _codes() -> dict[str, list[str]]:
    """The codes of problems, by status."""
    found = {status: set(codes) for status, codes in _BEFORE.items()}
    for kind in _below(HorariumError):
        ours = kind.__module__.startswith("horarium.") and not kind.__module__.startswith(_CONSOLE)
        if ours and not issubclass(kind, _ELSEWHERE):
            status = next(status for general, status in STATUSES if issubclass(kind, general))
            found.setdefault(status, set()).add(kind.code)
    return {str(status): sorted(found[status]) for status in sorted(found)}


def _below(kind: type[HorariumError]) -> Iterator[type[HorariumError]]:
    for one in kind.__subclasses__():
        yield one
        yield from _below(one)


def _roles(app: FastAPI) -> dict[str, Role]:
    """The role that each operation needs, as its route has it checked."""
    found: dict[str, Role] = {}
    for route in iter_route_contexts(app.routes):
        dependant = getattr(route, "dependant", None)
        if isinstance(dependant, Dependant) and (operation := getattr(route, "operation_id", None)) is not None:
            found[operation] = max(_needed(dependant), default=Role.NOBODY)
    return found


def _needed(dependant: Dependant) -> Iterator[Role]:
    if isinstance(dependant.call, Needs):
        yield dependant.call.role
    for inner in dependant.dependencies:
        yield from _needed(inner)
