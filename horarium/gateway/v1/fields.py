"""Parts of requests and answers that more than one noun has."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import Header, Path
from pydantic import (
    AfterValidator,
    AwareDatetime,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    GetJsonSchemaHandler,
    PlainSerializer,
    Strict,
)
from pydantic.json_schema import JsonSchemaValue

from horarium.gateway.v1.paging import LARGEST

_EARLIEST, _LATEST = datetime(1970, 1, 1, tzinfo=UTC), datetime(9000, 1, 1, tzinfo=UTC)


class Request(BaseModel):
    """Base of what callers send."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class Answer(BaseModel):
    """Base of what callers get. It is made from records of the ledger."""

    model_config = ConfigDict(frozen=True, from_attributes=True)


def _a_text(said: object) -> object:
    if not isinstance(said, str):
        raise ValueError("is a text like 2026-12-01T09:00:00Z")  # not a number of seconds, or of milliseconds
    return said


def _in_range(moment: datetime) -> datetime:
    if not _EARLIEST.replace(tzinfo=None) <= moment.replace(tzinfo=None) <= _LATEST.replace(tzinfo=None):
        raise ValueError("is a time between the years 1970 and 9000")
    return moment.astimezone(UTC)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat().replace("+00:00", "Z")


Moment = Annotated[AwareDatetime, BeforeValidator(_a_text), AfterValidator(_in_range)]
"""A time that a caller names: with its zone."""

Time = Annotated[datetime, PlainSerializer(_utc, return_type=str, when_used="json")]
"""A time that a caller is told: RFC 3339, UTC."""

Whole = Annotated[int, Strict()]
"""A number in a body. Pydantic would take `false` and `"1"` for one, and no schema says so."""

Number = Annotated[float, Strict()]
"""As `Whole`, with or without a fraction."""

Flag = Annotated[bool, Strict()]
"""Yes or no in a body, and not `0` or `"on"`."""

Named = Annotated[str, Path(min_length=1, max_length=63, description="Its name.")]
Numbered = Annotated[int, Path(ge=1, le=LARGEST, description="Its number, from 1.")]
IdempotencyKey = Annotated[
    str | None,
    Header(
        min_length=1,
        max_length=100,
        pattern=r"^[A-Za-z0-9_.:-]+$",
        description="The same key again is the same order: it is obeyed once, and answered as the first time.",
    ),
]


class SchemaOf:
    """Lets a plain JSON object have the schema of one of our definitions in the OpenAPI document."""

    def __init__(self, model: type[BaseModel], *, without: tuple[str, ...] = ()) -> None:
        """`without`: fields that the caller does not say."""
        self._model = model
        self._without = without

    def __get_pydantic_json_schema__(self, _schema: Any, handler: GetJsonSchemaHandler) -> JsonSchemaValue:
        """The model's schema; the models inside of it become components."""
        whole = handler.resolve_ref_schema(handler(self._model.__pydantic_core_schema__))
        rest: dict[str, Any] = {key: value for key, value in whole.items() if key not in ("properties", "required")}
        rest["properties"] = {key: value for key, value in whole["properties"].items() if key not in self._without}
        rest["required"] = [name for name in whole.get("required", ()) if name not in self._without]
        return rest


def page_end(items: list[Any], limit: int, place: Callable[[Any], str]) -> tuple[list[Any], str | None]:
    """The items of a page and its `next`, of a list that was asked for one item more than the page has."""
    return items[:limit], place(items[limit - 1]) if len(items) > limit else None
