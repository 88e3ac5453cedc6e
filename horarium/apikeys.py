"""API keys: who may use an endpoint of ours, and for what. The key itself is shown once; the ledger has its hash.

A key is `hk_<16 hex digits>_<secret>`: all before the secret is its id and may be shown and logged; the secret has 256
random bits. What it may do is a list of
scopes, each `<kind>:<name>` or `<kind>:*`, like `toolbox:payments`.
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from dataclasses import dataclass
from datetime import datetime

from horarium.errors import ConfigError
from horarium.problems import near_miss

KINDS = ("toolbox", "role", "tools")
KEY_PREFIX = "hk_"
SECRET_BYTES = 32
_KEY = re.compile(r"^(hk_[0-9a-f]{16})_[A-Za-z0-9_-]{43,86}$")
_SCOPE = re.compile(r"^([a-z][a-z_-]*):(\*|[A-Za-z0-9][A-Za-z0-9_-]{0,62})$")
_NOBODYS = "sha256:" + "0" * 64


@dataclass(frozen=True, slots=True)
class ApiKey:
    """One key as the ledger has it. Times are UTC."""

    id: str
    hash: str
    name: str
    tenant: str
    scopes: tuple[str, ...]
    created_at: datetime
    created_by: str | None
    expires_at: datetime | None
    last_used_at: datetime | None
    revoked_at: datetime | None

    def unusable(self, now: datetime) -> str | None:
        """Why it counts no more: `revoked` or `expired`; None when it counts."""
        if self.revoked_at is not None and self.revoked_at <= now:
            return "revoked"
        if self.expires_at is not None and self.expires_at <= now:
            return "expired"
        return None

    def allows(self, kind: str, name: str) -> bool:
        """Whether it may use this."""
        return f"{kind}:{name}" in self.scopes or f"{kind}:*" in self.scopes


def new_key() -> tuple[str, str]:
    """A fresh id and the whole key."""
    identity = f"hk_{secrets.token_hex(8)}"
    return identity, f"{identity}_{secrets.token_urlsafe(SECRET_BYTES)}"


def identity_of(key: str) -> str | None:
    """The id inside of a key; None when it is no key of ours."""
    match = _KEY.match(key)
    return match.group(1) if match else None


def hash_of(key: str) -> str:
    """What the ledger has of a key. A secret of 256 bits cannot be guessed from it, so it needs no salt."""
    return f"sha256:{hashlib.sha256(key.encode()).hexdigest()}"


def fits(key: str, record: ApiKey | None) -> bool:
    """Whether this is the key of a record, in the same time whatever the answer."""
    same = hmac.compare_digest(hash_of(key), record.hash if record is not None else _NOBODYS)
    return same and record is not None


def checked_scopes(scopes: tuple[str, ...]) -> tuple[str, ...]:
    """The scopes, each once.

    Raises:
        ConfigError: There is none, or one is written wrong.
    """
    if not scopes:
        raise ConfigError("A key without a scope opens nothing.", hint="Give it one, like toolbox:payments.")
    for scope in scopes:
        match = _SCOPE.match(scope)
        if match is None:
            raise ConfigError(f"{scope!r} is no scope.", hint="Write it like toolbox:payments or toolbox:*.")
        if match.group(1) not in KINDS:
            known = near_miss(match.group(1), list(KINDS)) or "."
            raise ConfigError(
                f"There is no scope of kind {match.group(1)!r}{known}", hint=f"Known: {', '.join(KINDS)}."
            )
    return tuple(dict.fromkeys(scopes))
