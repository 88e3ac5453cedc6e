"""A model's turn as the ledger keeps it: the output of a `model_call` step."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict


class StoredCall(BaseModel):
    """One call of a turn. `arguments` is JSON text; `problem` says why it was not made."""

    model_config = ConfigDict(frozen=True)

    id: str
    name: str
    arguments: str
    problem: str | None = None


class StoredTurn(BaseModel):
    """What the model said and asked for; `items` are the provider's own, sent back as they were."""

    model_config = ConfigDict(frozen=True)

    text: str = ""
    calls: tuple[StoredCall, ...] = ()
    items: tuple[dict[str, Any], ...] = ()


def stored_turn(output: str) -> StoredTurn:
    """Read the output of a `model_call` step."""
    return StoredTurn.model_validate_json(output)
