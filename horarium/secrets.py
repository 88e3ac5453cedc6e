"""Secrets by reference: written as `${NAME}`, looked up where they are used, and kept out of everything we store.

Every value that was looked up in this process is known here, so text that is about to be stored, logged or shown can be
cleaned of it, however it got there: tools and servers like to put credentials into their error messages.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator

from horarium.errors import ConfigError

REFERENCE = re.compile(r"^\$\{([A-Za-z_][A-Za-z0-9_]*)\}$")
_INSIDE = re.compile(r"\$\{[A-Za-z_][A-Za-z0-9_]*\}")
_SECRET_NAME = re.compile(r"(?i)authorization|cookie|api[-_]?key|token|secret|password|credential")
HIDDEN = "[secret]"
_SHORTEST = 6  # what is shorter occurs by chance

_revealed: set[str] = set()


def _a_reference(value: str) -> str:
    if not REFERENCE.match(value):
        raise ValueError("a secret is not written here; name its environment variable, like ${MY_API_KEY}")
    return value


SecretReference = Annotated[str, AfterValidator(_a_reference)]


def reveal(reference: SecretReference) -> str:
    """Look a secret up, where it is used and nowhere else.

    Raises:
        ConfigError: The environment variable is not set.
    """
    match = REFERENCE.match(reference)
    name = match.group(1) if match else reference
    value = os.environ.get(name)
    if not value:
        raise ConfigError(f"The environment variable {name} is not set.", hint=f"Set it: export {name}=…")
    conceal(value)
    return value


def reveal_inside(text: str) -> str:
    """Text with every `${NAME}` in it looked up, like `Bearer ${CRM_TOKEN}`.

    Raises:
        ConfigError: An environment variable is not set.
    """
    return _INSIDE.sub(lambda match: reveal(match.group()), text)


def bare_secret(values: Mapping[str, str]) -> str | None:
    """The first entry, such as a header, whose name says that it is a secret and whose value has no `${NAME}`."""
    return next(
        (name for name, value in values.items() if _SECRET_NAME.search(name) and not _INSIDE.search(value)), None
    )


def conceal(value: str) -> None:
    """Make a secret that came another way known, so that it is kept out of what is stored."""
    if len(value) >= _SHORTEST:
        _revealed.add(value)


def redact(text: str) -> str:
    """The text without any secret that is known in this process."""
    for value in _revealed:
        if value in text:
            text = text.replace(value, HIDDEN)
    return text
