"""Sessions of the console: who a browser belongs to, in a signed cookie.

The cookie says who signed in and how; whether that still counts is looked up at each request. A browser that nobody
has signed in with has a session as well, so that its forms are as hard to forge as any other.
"""

from __future__ import annotations

import hashlib
import hmac
import secrets
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Literal, TypeVar

from itsdangerous import BadData, URLSafeSerializer
from pydantic import BaseModel, ConfigDict, ValidationError

M = TypeVar("M", bound=BaseModel)

LASTS = timedelta(hours=12)
COOKIE = "horarium"
SAID = "horarium-said"  # what the next page says on top
ERRAND = "horarium-errand"  # while somebody is at the OpenID provider
ERRAND_LASTS = timedelta(minutes=10)
MOST_CHARS = 3_500  # that every browser keeps in a cookie


class Session(BaseModel):
    """One browser. `how`: `nobody` has signed in with it, or somebody has with an API key, or at an OpenID provider."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    id: str
    how: Literal["nobody", "key", "oidc"] = "nobody"
    name: str = ""
    tenant: str = ""
    role: int = 0  # of somebody from an OpenID provider; that of a key is looked up
    key: str | None = None  # its id, or that of somebody from an OpenID provider
    until: int  # seconds since 1970

    @property
    def is_signed_in(self) -> bool:
        """Whether it belongs to somebody."""
        return self.how != "nobody"


class Said(BaseModel):
    """What the next page tells its reader."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    tone: Literal["good", "bad"] = "good"
    text: str
    hint: str | None = None


class Errand(BaseModel):
    """A sign-in that is under way at the OpenID provider: what its answer has to fit, and where to go after it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    state: str
    nonce: str
    verifier: str
    next: str
    until: int  # seconds since 1970


class Sessions:
    """Makes and reads the cookies of a project, and the tokens of its forms."""

    def __init__(self, secret: str, lasts: timedelta = LASTS, *, port: int = 0) -> None:
        """`port`: of the gateway. Browsers share a machine's cookies among all its ports."""
        self._port = port
        self._secret = secret.encode()
        self._lasts = lasts
        self._sessions = _serializer(secret, "horarium.session.1")
        self._said = _serializer(secret, "horarium.said.1")
        self._errands = _serializer(secret, "horarium.errand.1")

    def cookie_name(self, name: str, *, secure: bool) -> str:
        """Over https a cookie that no other host, and nothing unencrypted, can have set; else one of this port."""
        return f"__Host-{name}" if secure else f"{name}-{self._port}"

    def begin(self, **who: object) -> Session:
        """A session of its own, never one that a browser brought along."""
        until = int((datetime.now(UTC) + self._lasts).timestamp())
        return Session.model_validate({"id": secrets.token_urlsafe(18), "until": until, **who})

    def cookie(self, session: Session) -> str:
        """As a cookie."""
        return str(self._sessions.dumps(session.model_dump(exclude_defaults=True)))

    def read(self, cookie: str | None) -> Session | None:
        """Whose cookie it is; None when it is none of ours, or its time is over."""
        read = _read(self._sessions, cookie, Session)
        return read if read is not None and read.until > datetime.now(UTC).timestamp() else None

    def token(self, session: Session) -> str:
        """What every form of this session carries."""
        return hmac.new(self._secret, b"horarium.form.1\0" + session.id.encode(), hashlib.sha256).hexdigest()

    def is_token(self, session: Session, said: str) -> bool:
        """Whether a form is one of this session's."""
        return hmac.compare_digest(self.token(session).encode(), said.encode("utf-8", "replace"))

    def begin_errand(self, next_: str) -> Errand:
        """One that nobody can foresee."""
        until = int((datetime.now(UTC) + ERRAND_LASTS).timestamp())
        state, nonce, verifier = (secrets.token_urlsafe(32) for _ in range(3))
        return Errand(state=state, nonce=nonce, verifier=verifier, next=next_[:1_000], until=until)

    def errand_cookie(self, errand: Errand) -> str:
        """As a cookie."""
        return str(self._errands.dumps(errand.model_dump()))

    def read_errand(self, cookie: str | None, state: str) -> Errand | None:
        """The errand of this browser that an answer belongs to; None when it has none, or another."""
        read = _read(self._errands, cookie, Errand)
        if read is None or read.until <= datetime.now(UTC).timestamp():
            return None
        return read if hmac.compare_digest(read.state.encode(), state.encode("utf-8", "replace")) else None

    def said_cookie(self, said: Said) -> str:
        """What the next page says, as a cookie."""
        short = said.model_copy(update={"text": said.text[:1_500], "hint": said.hint and said.hint[:500]})
        return str(self._said.dumps(short.model_dump(exclude_none=True)))

    def read_said(self, cookie: str | None) -> Said | None:
        """What was to be said."""
        return _read(self._said, cookie, Said)


def is_secure(headers: Mapping[str, str], loopback: frozenset[str]) -> bool:
    """Whether cookies go over https only: everywhere but on this machine's own loopback."""
    return headers.get("host", "").lower() not in loopback


def _serializer(secret: str, salt: str) -> URLSafeSerializer:
    return URLSafeSerializer(
        secret, salt=salt, signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256}
    )


def _read(serializer: URLSafeSerializer, cookie: str | None, kind: type[M]) -> M | None:
    if not cookie or len(cookie) > MOST_CHARS:
        return None
    try:
        return kind.model_validate(serializer.loads(cookie))
    except (BadData, ValidationError, RecursionError):
        return None
