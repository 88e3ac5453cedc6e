"""MCP servers as agents and toolboxes name them: where they are, and what their tools may do.

What a server says of its own tools (hints, annotations) counts for nothing here: whoever runs it could change it.
"""

from __future__ import annotations

import shlex
from datetime import timedelta
from fnmatch import fnmatchcase
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import AfterValidator, Field, model_validator

from horarium.content import digest
from horarium.definition import Definition, Duration
from horarium.secrets import bare_secret
from horarium.tools import Effect

SEPARATOR = "__"  # between a label and the name of a tool


def a_label(label: str) -> str:
    """A server's or document's name, as it stands before the names of its tools: `tickets__close`.

    Raises:
        ValueError: It cannot.
    """
    if not label or len(label) > 24 or not label[0].isalpha() or not all(c.isalnum() or c in "-_" for c in label):
        raise ValueError("a label has 1 to 24 letters, digits, '-' or '_', and begins with a letter")
    if SEPARATOR in label or not label.isascii():
        raise ValueError("a label is ASCII without '__', which stands between it and a tool's name")
    return label


Label = Annotated[str, AfterValidator(a_label)]


class McpServer(Definition):
    """One MCP server: reached over streamable HTTP by `url`, or started here by `command` and spoken to over stdio.

    In `headers` and `env` a secret stands by reference, like `Bearer ${TICKETS_TOKEN}`, looked up where it is used.
    """

    url: str | None = Field(default=None, description="Streamable HTTP, like https://tickets.example.com/mcp.")
    headers: dict[str, str] = Field(default={}, description="Sent with each request; secrets as `${NAME}` inside.")
    command: tuple[str, ...] = Field(default=(), description="Program and arguments, for a server of this machine.")
    env: dict[str, str] = Field(default={}, description="Of the command, besides PATH and HOME; secrets as `${NAME}`.")
    cwd: str | None = Field(default=None, description="Of the command, relative to the project. None: the project.")
    tools: tuple[str, ...] = Field(default=("*",), min_length=1, description="Names or patterns: what is offered.")
    effects: dict[str, Effect] = Field(
        default={}, description="Name or pattern to effect; the first that fits holds. None fits: `external`."
    )
    timeout: Duration = Field(default=timedelta(minutes=1), gt=timedelta(0), description="Of one call.")
    attempts: int = Field(default=3, ge=1, description="Of a call that may be repeated, or that never got through.")
    trust: Literal["first_use", "review"] = Field(
        default="first_use",
        description="first_use: what a tool says when it is first seen is trusted, a change of it is not. "
        "review: nothing is trusted until somebody says so.",
    )
    trusted_output: bool = Field(
        default=False, description="True: what its tools return is as good as your own, and taints no memory."
    )
    private_network: bool = Field(
        default=False,
        description="True: the name in `url` may lead into a private network. An address that stands there itself may.",
    )

    @model_validator(mode="after")
    def _one_way(self) -> McpServer:
        if (self.url is None) == (not self.command):
            raise ValueError("give either `url` or `command`")
        if self.url is not None and not self.url.startswith(("http://", "https://")):
            raise ValueError("`url` begins with http:// or https://")
        if self.url is not None and urlsplit(self.url).password:
            raise ValueError("`url` holds a password; send it by reference in `headers`")
        if self.url is not None and (self.env or self.cwd):
            raise ValueError("`env` and `cwd` are a command's; a server that is reached by `url` has `headers`")
        if self.command and self.headers:
            raise ValueError("`headers` are sent to a `url`; a command has `env`")
        for field, values in (("headers", self.headers), ("env", self.env)):
            bare = bare_secret(values)
            if bare is not None:
                raise ValueError(
                    f"`{field}.{bare}` is a secret here; put it into an environment variable: ${{MY_SECRET}}"
                )
        return self

    @property
    def address(self) -> str:
        """Where it is, for people: its URL without what is no address, or its command."""
        if self.url is None:
            return shlex.join(self.command)
        parts = urlsplit(self.url)
        return parts._replace(netloc=parts.netloc.rpartition("@")[2], query="", fragment="").geturl()

    @property
    def key(self) -> str:
        """What trust in its tools hangs on: where it is, whatever label it has."""
        return digest(["url", self.url] if self.url is not None else ["command", list(self.command), self.cwd or ""])

    def offers(self, tool: str) -> bool:
        """Whether a tool of this name is offered."""
        return any(fnmatchcase(tool, pattern) for pattern in self.tools)

    def effect_of(self, tool: str) -> Effect:
        """What a tool of this name may do to the world."""
        return next((kind for pattern, kind in self.effects.items() if fnmatchcase(tool, pattern)), Effect.EXTERNAL)
