"""The tools of one run, as they were when it began: what was found at servers and in toolboxes, pinned.

A set is kept in the ledger under its digest and named by the run, so that model, approvals and performers all
work with the same words and schemas, whatever a server says meanwhile.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, model_validator

from horarium.content import digest
from horarium.definition import Definition
from horarium.mcpservers import Label, McpServer
from horarium.tools import ToolSpec


class PythonSource(Definition):
    """A Python tool that some worker announced, by its name there."""

    kind: Literal["python"] = "python"
    tool: str


class McpSource(Definition):
    """A tool of an MCP server, under the name that the server gave it."""

    kind: Literal["mcp"] = "mcp"
    label: Label
    server: McpServer
    tool: str


class OpenApiSource(Definition):
    """An operation of an HTTP API."""

    kind: Literal["openapi"] = "openapi"
    toolbox: str
    version: int
    label: Label
    operation: dict[str, Any] = Field(description="As `horarium.openapi` reads it from the document.")


class AgentSource(Definition):
    """Another agent, that does the call as a run of its own."""

    kind: Literal["agent"] = "agent"
    agent: str
    version: int


class EngineSource(Definition):
    """A tool that the engine itself has, like `find_tools`."""

    kind: Literal["engine"] = "engine"
    tool: str


class CallerSource(Definition):
    """A function that whoever started the run carries out."""

    kind: Literal["caller"] = "caller"


Source = Annotated[
    PythonSource | McpSource | OpenApiSource | AgentSource | EngineSource | CallerSource, Field(discriminator="kind")
]


class PinnedTool(Definition):
    """One tool of a run: what the model is told of it, and where it is performed."""

    spec: ToolSpec
    source: Source
    toolbox: str | None = Field(default=None, description="`name@version`, when it came from one.")
    said_digest: str | None = Field(
        default=None, description="Of name, description and schema as a server gave them; a call checks it again."
    )


class Toolset(Definition):
    """All pinned tools of a run, each name once."""

    tools: tuple[PinnedTool, ...] = ()

    @model_validator(mode="after")
    def _each_once(self) -> Toolset:
        names = [tool.spec.name for tool in self.tools]
        twice = next((name for name in names if names.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"two tools have the name {twice!r}; leave one out, or give its server another label")
        return self

    @property
    def digest(self) -> str:
        """Of the whole; equal sets are one."""
        return digest(self.model_dump(mode="json"))

    def named(self, name: str) -> PinnedTool | None:
        """The tool of this name."""
        return next((tool for tool in self.tools if tool.spec.name == name), None)
