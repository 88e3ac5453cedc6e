"""Where a server is, with the secrets that it is reached with."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

from horarium.content import digest
from horarium.mcpservers import McpServer
from horarium.secrets import reveal

_REFERENCE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")


@dataclass(frozen=True, slots=True)
class Endpoint:
    """Where a server is and how it is reached, with its secrets looked up: kept in memory only."""

    label: str
    url: str | None
    command: tuple[str, ...]
    values: dict[str, str] = field(repr=False)
    directory: Path
    private_network: bool

    @classmethod
    def of(cls, label: str, server: McpServer, root: Path) -> Endpoint:
        """As a definition has it.

        Raises:
            ConfigError: A secret is not there.
        """
        texts = server.headers if server.url is not None else server.env
        return cls(
            label=label,
            url=server.url,
            command=server.command,
            values={name: _REFERENCE.sub(lambda found: reveal(found[0]), text) for name, text in texts.items()},
            directory=root / (server.cwd or ""),
            private_network=server.private_network,
        )

    @property
    def key(self) -> str:
        """Equal endpoints share a connection."""
        return digest([self.url, self.command, self.values, str(self.directory), self.private_network])
