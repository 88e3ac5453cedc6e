"""What a user defines: a toolbox, a named bundle of tools with versions.

A version holds all that it needs, the operations of its documents included; what its MCP servers offer is asked for
when a run begins, and pinned for that run.
"""

from __future__ import annotations

from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Self
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from horarium.content import digest
from horarium.definition import Definition, Duration, a_name
from horarium.definitions import ApprovalRule
from horarium.mcpservers import Label, McpServer
from horarium.secrets import bare_secret
from horarium.tools import Effect

SAFE_METHODS = ("get", "head")
SENDERS_HEADERS = frozenset(
    {"host", "content-length", "transfer-encoding", "connection", "upgrade", "te", "trailer", "expect"}
)


class OpenApi(Definition):
    """Operations of an HTTP API, as its OpenAPI document (3.0 or 3.1, JSON or YAML) tells of them.

    In `headers` and `query` a secret stands by reference, like `Bearer ${CRM_TOKEN}`, looked up where it is used.
    """

    document: str = Field(min_length=1, description="A file, from the project's directory on, or an https:// address.")
    base_url: str | None = Field(
        default=None, description="Where requests go. None: the first of the document's `servers`."
    )
    operations: tuple[str, ...] = Field(
        default=("*",), min_length=1, description="Names or patterns of `operationId`: what is offered."
    )
    headers: dict[str, str] = Field(default={}, description="Sent with each request; secrets as `${NAME}` inside.")
    query: dict[str, str] = Field(default={}, description="As `headers`, in the address: some APIs want a key there.")
    effects: dict[str, Effect] = Field(
        default={},
        description="Name or pattern to effect; the first that fits holds. None fits: GET and HEAD are `read`, "
        "anything else is `external`.",
    )
    timeout: Duration = Field(default=timedelta(minutes=1), gt=timedelta(0), description="Of one call.")
    attempts: int = Field(default=3, ge=1, description="Of a call that may be repeated, or that never got through.")
    idempotency_header: str | None = Field(
        default="Idempotency-Key",
        description="Carries a call's key, where the call is more than `read`. None: it is not sent.",
    )
    private_network: bool = Field(
        default=False,
        description="True: the name in `base_url` may lead into a private network. An address that stands there "
        "itself may.",
    )
    trusted_output: bool = Field(
        default=False, description="True: what it answers is as good as your own, and taints no memory."
    )

    @model_validator(mode="after")
    def _usable(self) -> Self:
        if self.document.startswith("http://"):
            raise ValueError("`document` is fetched over https:// only; or download it into the project")
        if self.base_url is not None and not self.base_url.startswith(("http://", "https://")):
            raise ValueError("`base_url` begins with http:// or https://")
        for where in (self.document, self.base_url or ""):
            if urlsplit(where).password:
                raise ValueError(
                    f"{where.partition('@')[2]!r} comes after a password; send it by reference in `headers`"
                )
        for field, values in (("headers", self.headers), ("query", self.query)):
            bare = bare_secret(values)
            if bare is not None:
                raise ValueError(
                    f"`{field}.{bare}` is a secret here; put it into an environment variable: ${{MY_SECRET}}"
                )
        ours = [name for name in (*self.headers, self.idempotency_header or "") if name.lower() in SENDERS_HEADERS]
        if ours:
            raise ValueError(f"the header {ours[0]!r} is set by whoever sends the request")
        return self

    @property
    def is_remote(self) -> bool:
        """Whether the document is fetched from somewhere."""
        return self.document.startswith("https://")

    def offers(self, operation: str) -> bool:
        """Whether an operation of this name is offered."""
        return any(fnmatchcase(operation, pattern) for pattern in self.operations)

    def effect_of(self, operation: str, method: str) -> Effect:
        """What an operation may do to the world."""
        default = Effect.READ if method.lower() in SAFE_METHODS else Effect.EXTERNAL
        return next((kind for pattern, kind in self.effects.items() if fnmatchcase(operation, pattern)), default)


class Toolbox(Definition):
    """A definition of a toolbox. Agents name it, and its tools are theirs; others reach it as an MCP endpoint."""

    name: Annotated[str, AfterValidator(a_name)]
    description: str = ""
    tools: tuple[str, ...] = Field(default=(), description="Names of Python tools, as their workers announce them.")
    mcp: dict[Label, McpServer] = Field(
        default={}, description="MCP servers by label; their tools are named `<label>__<tool>`."
    )
    openapi: dict[Label, OpenApi] = Field(
        default={}, description="HTTP APIs by label; their tools are named `<label>__<operationId>`."
    )
    agents: tuple[Annotated[str, AfterValidator(a_name)], ...] = Field(
        default=(), description="Sub-agents: each is offered as a tool of its name."
    )
    approvals: tuple[ApprovalRule, ...] = Field(
        default=(),
        max_length=100,
        description="The approval plan for calls through its own endpoint; a run follows its agent's.",
    )
    metadata: dict[str, str] = Field(default={}, description="Yours.")

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        names = [*self.tools, *self.agents]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"{twice!r} is listed twice in `tools` and `agents`")
        both = next((label for label in self.openapi if label in self.mcp), None)
        if both is not None:
            raise ValueError(f"the label {both!r} is both in `mcp` and in `openapi`: their tools would be mixed up")
        if not (names or self.mcp or self.openapi):
            raise ValueError("a toolbox has `tools`, `mcp`, `openapi` or `agents`; this one is empty")
        return self

    @property
    def digest(self) -> str:
        """Of the whole definition; the documents it names not included."""
        return digest(self.model_dump(mode="json"))


def named_version(reference: str) -> tuple[str, int | None]:
    """`crm@2` as name and version; of `crm` the version is None: the default.

    Raises:
        ValueError: It is written another way.
    """
    name, at, number = reference.partition("@")
    a_name(name)
    if not at:
        return name, None
    if not number.isascii() or not number.isdecimal() or int(number) < 1:
        raise ValueError(f"{reference!r}: a version is a number from 1 on, like {name}@2")
    return name, int(number)
