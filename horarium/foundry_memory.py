"""How memories are named in a Foundry memory store: scopes that no two users, and no two tenants, can share."""

from __future__ import annotations

from urllib.parse import quote

from horarium.memories import MemoryKind

KINDS: dict[str, MemoryKind] = {"user_profile": "user", "procedural": "procedural", "chat_summary": "summary"}


def foundry_scope(tenant: str, owner: str, scope: str) -> str:
    """The scope of a user; of a run that is nobody's: that of its agent's memories. Nothing in a name can end it."""
    of_whom = f"user/{quote(owner, safe='')}" if owner else f"scope/{quote(scope, safe='')}"
    return f"{quote(tenant, safe='')}/{of_whom}"
