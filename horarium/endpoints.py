"""A toolbox that is called directly: the agent that stands for one of its versions.

It has the toolbox's tools and the toolbox's own approval plan, and no model. Its name begins as no other agent's may.
"""

from __future__ import annotations

import hashlib

from horarium.definitions import ENDPOINT_PREFIX, NO_MODEL, Agent
from horarium.ledger.toolboxes import ToolboxVersion

MOST_NAME_CHARS = 63


def endpoint_name(toolbox: str) -> str:
    """The agent's name; one for each toolbox."""
    name = f"{ENDPOINT_PREFIX}{toolbox}"
    if len(name) <= MOST_NAME_CHARS:
        return name
    return f"{name[:46]}-{hashlib.sha256(toolbox.encode()).hexdigest()[:16]}"


def endpoint_agent(found: ToolboxVersion) -> Agent:
    """The agent that makes the calls of a toolbox's endpoint."""
    return Agent(
        endpoint_name(found.toolbox.name),
        model=NO_MODEL,
        description=found.toolbox.description,
        toolboxes=[found.reference],
        approvals=found.toolbox.approvals,
        metadata={"toolbox": found.reference},
    )
