"""The OpenAPI document of the gateway: what FastAPI finds in the routes, and what holds for all of them."""

from __future__ import annotations

from typing import Any

from fastapi import FastAPI
from fastapi.openapi.utils import get_openapi

from horarium.gateway.problems import Problem
from horarium.gateway.v1.answers import errors

ABOUT = """Agent runs and routines that survive crashes, and people's word before every step with a side effect.

Errors are `application/problem+json`; branch on `code`. Lists come in pages: give `next` as `cursor`. Times are
RFC 3339, UTC. Where a call starts something, `Idempotency-Key` makes it safe to repeat."""
TAGS = {
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
TOO_LARGE = errors(413)[413]


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
    parts["securitySchemes"] = {
        "key": {
            "type": "http",
            "scheme": "bearer",
            "description": "An API key, `hk_…`, with a scope like `role:operator`.",
        }
    }
    found["security"] = [{"key": []}]
    for path in found["paths"].values():
        for method, operation in path.items():
            if method not in ("get", "head"):  # whether it wants a body or not, a body may be too large
                operation["responses"].setdefault("413", TOO_LARGE)
    used = {tag for path in found["paths"].values() for operation in path.values() for tag in operation.get("tags", ())}
    found["tags"] = [{"name": name, "description": TAGS.get(name, "")} for name in sorted(used)]
    return found
