"""From what a server says of a tool to what a run pins: name, schema, effect, and a digest of the server's words."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from typing import Any

import mcp_types as types
from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError

from horarium.content import canonical, clean_json, digest_text, shorten
from horarium.errors import ConfigError
from horarium.ledger.trusted_tools import Said
from horarium.mcpservers import SEPARATOR, McpServer
from horarium.schemas import nothing_checked_by
from horarium.tools import ToolSpec
from horarium.toolsets import McpSource, PinnedTool

# By name: what a newer SDK reads besides would change every digest, and ask everybody for new trust.
SAID = {"name", "title", "description", "input_schema", "output_schema", "annotations"}
MOST_NAME = 64  # what every provider accepts
MOST_SAID_NAME = 200
MOST_SAID = 128 * 1024  # bytes of one tool's words and schemas
MOST_SAID_OF_ALL = 4 * 1024 * 1024
_UNFIT = re.compile(r"[^A-Za-z0-9_-]")


def said_of(tool: types.Tool) -> Said:
    """What the server says of a tool, whole: hints as well, which count for nothing but may not change unseen.

    Raises:
        ConfigError: It is too large, or no JSON, or its name is no name.
    """
    if not 0 < len(tool.name) <= MOST_SAID_NAME or not tool.name.isprintable():
        raise ConfigError(f"The server has a tool named {shorten(tool.name, 100)!r}, which cannot be a name.")
    said = tool.model_dump(mode="json", by_alias=True, exclude_none=True, include=SAID)
    try:
        text = canonical(said)
    except (ValueError, RecursionError) as error:
        raise ConfigError(f"What the server says of its tool {tool.name!r} is no JSON: {error}.") from error
    if len(text) > MOST_SAID:
        raise ConfigError(
            f"The server says {len(text):,} characters of its tool {tool.name!r}; at most {MOST_SAID:,} are taken.",
            hint="Leave it out by `tools`.",
        )
    # The digest is of the server's own words; what is kept of them has no secret in it that the server was sent.
    return Said(tool.name, digest_text(text), clean_json(said))


def said_of_all(label: str, tools: Iterable[types.Tool]) -> list[Said]:
    """What the server says of these tools.

    Raises:
        ConfigError: Of one of them, or of all together, it is too much.
    """
    said = [said_of(tool) for tool in tools]
    size = sum(len(canonical(item.content)) for item in said)
    if size > MOST_SAID_OF_ALL:
        raise ConfigError(
            f"The server {label!r} says {size:,} characters of its tools; at most {MOST_SAID_OF_ALL:,} are taken.",
            hint="Offer fewer of them by `tools`.",
        )
    return said


def pinned(label: str, server: McpServer, said: Said) -> PinnedTool:
    """One tool as a run has it.

    Raises:
        ConfigError: Its schema cannot be used.
    """
    spec = ToolSpec(
        name=_name(label, said.tool),
        description=str(said.content.get("description") or said.content.get("title") or ""),
        parameters=_parameters(label, said),
        effect=server.effect_of(said.tool),
        timeout=server.timeout,
        attempts=server.attempts,
        untrusted=not server.trusted_output,
    )
    return PinnedTool(spec=spec, source=McpSource(label=label, server=server, tool=said.tool), said_digest=said.digest)


def _name(label: str, tool: str) -> str:
    name = f"{label}{SEPARATOR}{_UNFIT.sub('_', tool)}"
    if len(name) <= MOST_NAME:
        return name
    mark = digest_text(tool).removeprefix("sha256:")[:8]
    return f"{name[: MOST_NAME - len(mark) - 1]}_{mark}"


def _parameters(label: str, said: Said) -> dict[str, Any]:
    schema = said.content.get("inputSchema")
    unusable = f"The schema of {said.tool!r} of {label!r} cannot be used"
    leave_out = "Leave the tool out by `tools`, or tell whoever runs the server."
    if not isinstance(schema, dict) or schema.get("type") != "object":
        raise ConfigError(f"{unusable}: it is no object.", hint=leave_out)
    outside = next((found for found in _references(schema) if not found.startswith("#")), None)
    if outside is not None:
        # Looking it up would be a request to wherever the server says.
        raise ConfigError(f"{unusable}: it refers to {outside!r}, outside of itself.", hint=leave_out)
    try:
        Draft202012Validator.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(f"{unusable}: {str(error).splitlines()[0]}.", hint=leave_out) from error
    except RecursionError as error:
        raise ConfigError(f"{unusable}: it goes round in circles.", hint=leave_out) from error
    problem = nothing_checked_by(schema)
    if problem is not None:
        raise ConfigError(f"{unusable}: it {problem}.", hint=leave_out)
    parameters: dict[str, Any] = json.loads(json.dumps(schema))
    return parameters


def _references(value: Any) -> Iterator[str]:
    pending = [value]
    while pending:
        match pending.pop():
            case dict() as found:
                yield from (found[name] for name in ("$ref", "$dynamicRef") if isinstance(found.get(name), str))
                pending.extend(found.values())
            case list() as items:
                pending.extend(items)
            case _:
                pass
