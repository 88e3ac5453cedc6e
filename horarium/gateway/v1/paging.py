"""Lists in pages: newest first, with an opaque cursor to the next."""

from __future__ import annotations

import base64
import json
from datetime import UTC, datetime
from typing import Annotated, Any, Generic, TypeVar

from fastapi import Query
from pydantic import BaseModel, Field

from horarium.errors import HorariumError

T = TypeVar("T")
LARGEST = 2**31 - 1  # that every database keeps as an integer


class BadCursor(HorariumError):
    """A cursor that no page of ours gave."""

    code = "bad_cursor"


class Page(BaseModel, Generic[T]):
    """One page of a list."""

    data: list[T]
    next: str | None = Field(default=None, description="Cursor of the next page; null: this is the last.")


Limit = Annotated[int, Query(ge=1, le=200, description="Items on one page.")]
Cursor = Annotated[str | None, Query(max_length=500, description="`next` of the page before.")]


def cursor_of(*place: Any) -> str:
    """Where a page ends, as a cursor; the parts are JSON."""
    return base64.urlsafe_b64encode(json.dumps(place, separators=(",", ":")).encode()).decode().rstrip("=")


def place_of(cursor: str | None, parts: int) -> list[Any] | None:
    """Where a page begins; None at the start.

    Raises:
        BadCursor: It is none of ours.
    """
    if cursor is None:
        return None
    try:
        place = json.loads(base64.urlsafe_b64decode(cursor + "=" * (-len(cursor) % 4)))
    except (ValueError, UnicodeDecodeError) as error:
        raise BadCursor("That is no cursor of this list.", hint="Begin without one.") from error
    if not isinstance(place, list) or len(place) != parts:
        raise BadCursor("That is no cursor of this list.", hint="Begin without one.")
    return place


def read_cursor(cursor: str | None, *kinds: type) -> tuple[Any, ...] | None:
    """As `place_of`, each part of its kind; a `datetime` was given to `cursor_of` as its ISO text.

    Raises:
        BadCursor: It is none of ours.
    """
    place = place_of(cursor, len(kinds))
    if place is None:
        return None
    return tuple(_part(part, kind) for part, kind in zip(place, kinds, strict=True))


def _part(part: Any, kind: type) -> Any:
    wrong = BadCursor("That is no cursor of this list.", hint="Begin without one.")
    if kind is datetime:
        try:
            moment = datetime.fromisoformat(part)
            return moment.astimezone(UTC) if moment.tzinfo is not None else moment.replace(tzinfo=UTC)
        except (TypeError, ValueError, OverflowError) as error:
            raise wrong from error
    if type(part) is not kind or (isinstance(part, int) and not 0 <= part <= LARGEST):
        raise wrong
    return part
