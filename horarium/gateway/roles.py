"""What a caller of the gateway may do: four roles, each with all that the one before it may."""

from __future__ import annotations

from collections.abc import Iterable
from enum import IntEnum

from horarium.errors import HorariumError


class Role(IntEnum):
    """viewer: look. operator: start, cancel, message, change routines. approver: decide. admin: keys, deletions."""

    NOBODY = 0
    VIEWER = 1
    OPERATOR = 2
    APPROVER = 3
    ADMIN = 4


class NotAllowed(HorariumError):
    """The caller's role is too small for this."""

    code = "not_allowed"


def role_of(scopes: Iterable[str]) -> Role:
    """The greatest role among scopes like `role:operator`; `role:*` is admin."""
    named = [scope.partition(":")[2] for scope in scopes if scope.startswith("role:")]
    found = [Role.ADMIN if name == "*" else Role.__members__.get(name.upper(), Role.NOBODY) for name in named]
    return max(found, default=Role.NOBODY)
