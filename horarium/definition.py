"""What all definitions have in common: the base class, names, durations."""

from __future__ import annotations

from datetime import timedelta
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict

from horarium.durations import duration

Duration = Annotated[timedelta, BeforeValidator(duration)]
Execution = Literal["steps", "segments"]


class Definition(BaseModel):
    """Base of all definitions."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


def a_name(name: str) -> str:
    """A name as it may stand in ids, files and addresses.

    Raises:
        ValueError: It may not.
    """
    if not name or len(name) > 63 or not all(c.isalnum() or c in "-_" for c in name) or not name[0].isalnum():
        raise ValueError("a name has 1 to 63 letters, digits, '-' or '_', and begins with a letter or digit")
    return name
