"""Who is let in: by the Host and Origin of the request, then by its API key, its token or its session.

In front of everything else, so nothing behind it is reached by a web page that rebinds its name to this machine, or by
whoever has no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from ipaddress import ip_address
from urllib.parse import quote

import structlog
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.requests import cookie_parser
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from horarium.apikeys import KEY_PREFIX, ApiKey, identity_of
from horarium.errors import Unreachable
from horarium.gateway.answering import refusal
from horarium.gateway.oidc import BEGINNING, Oidc, TokenRefused
from horarium.gateway.ratelimits import RateLimits
from horarium.gateway.roles import Role, role_of
from horarium.gateway.sessions import COOKIE, Session, Sessions, is_secure
from horarium.ledger.api_keys import ApiKeys

log = structlog.get_logger()

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HTTP_PORT = 80  # left out of the Host header
CALLER, SESSION, ADDRESS = "horarium.caller", "horarium.session", "horarium.address"  # in the ASGI scope
HOOKS = "/v1/hooks/"  # a signature says who sends; what else is below may do nothing
FORWARDED = ("forwarded", "via", "x-forwarded-for", "x-forwarded-host", "x-forwarded-proto", "x-real-ip")
_TOOLBOX = re.compile(r"^/toolboxes/([A-Za-z0-9][A-Za-z0-9_-]{0,62})/")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `key`: the id of an API key, or of an issuer's person; None for somebody of this machine."""

    name: str
    tenant: str
    key: str | None
    role: Role = Role.NOBODY
    until: datetime | None = None  # when what he showed ends by itself
    tools: tuple[str, ...] = ()  # groups of tool workers whose calls it may perform; `*`: any


ANYBODY = Caller(name="anonymous", tenant="default", key=None, role=Role.ADMIN)

UNSIGNED = Caller(name="hook", tenant="", key=None)
VISITOR = Caller(name="visitor", tenant="", key=None)
OPEN_PAGES = ("/sign-in", "/static/", "/approve/")  # who only looks is nobody; what is sent from there says who it is
TOOLBOXES = "/toolboxes/"
PROTOCOLS = ("/v1/", TOOLBOXES)  # where a cookie is no word of a person: a page could have had it sent


def anybody(*, require_proof: bool) -> Caller:
    """Whoever is on this machine. Where decisions need a proof he may not decide: nobody has said who he is."""
    return replace(ANYBODY, role=Role.OPERATOR) if require_proof else ANYBODY


def is_loopback(host: str) -> bool:
    """Whether an address to bind to is reached from this machine only."""
    try:
        return ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return host == "localhost"


class Gate:
    """ASGI middleware: lets a request through with its `Caller`, or answers it."""

    def __init__(
        self,
        app: ASGIApp,
        keys: ApiKeys,
        *,
        port: int,
        hosts: Iterable[str],
        origins: Iterable[str],
        anybody: Caller | None,
        limits: RateLimits,
        sessions: Sessions | None = None,
        oidc: Oidc | None = None,
    ) -> None:
        """What it checks against.

        Args:
            app: Behind it.
            keys: API keys.
            port: Part of the Host headers that it takes.
            hosts: More names that it is reached by.
            origins: Web pages of elsewhere that may call it.
            anybody: As whom is let in who has no key; only where nobody else can reach the port. None: nobody is.
            limits: How much one caller may ask for.
            sessions: Of the console; None: there is none.
            oidc: Reads the tokens of an OpenID issuer; None: there is none.
        """
        self._app = app
        self._limits = limits
        self._sessions = sessions
        self._oidc = oidc
        self._keys = keys
        self._anybody = anybody
        own = {name if port == HTTP_PORT else f"{name}:{port}" for name in LOOPBACK_NAMES}
        named = {host.lower() for host in hosts}
        self._loopback = frozenset(own)
        self._hosts = own | named
        ours = {f"http://{host}" for host in own} | {f"https://{host}" for host in named}
        self._origins = ours | {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._is_elsewhere(scope["path"], headers) or await self._within_limits(scope, headers)
        await (refused or self._app)(scope, receive, send)

    def _is_elsewhere(self, path: str, headers: Headers) -> Response | None:
        """A page of another site cannot choose these two headers, whatever its name resolves to."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _refusal(path, 421, "This name is not one that it is reached by: see `hosts` in [gateway].")
        if any(origin.lower() not in self._origins for origin in origins):
            return _refusal(path, 403, "Pages of this origin may not call it: see `origins` in [gateway].")
        return None

    async def _within_limits(self, scope: Scope, headers: Headers) -> Response | None:
        address = scope[ADDRESS] = self._limits.address_of(scope, headers)
        wait = await self._limits.wait_of_address(address)
        if wait is None:
            refused = await self._admit(scope, headers)
            if refused is not None:
                return refused
            caller: Caller = scope[CALLER]
            wait = await self._limits.wait_of_caller(caller.key, caller.tenant) if caller.tenant else None
        if wait is None:
            return None
        again = {"Retry-After": str(wait)}
        return refusal(scope["path"], 429, "rate_limited", "These are too many requests at once.", headers=again)

    async def _admit(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"].startswith(HOOKS):
            scope[CALLER] = UNSIGNED
            return None
        said = headers.get("authorization")
        try:
            if said is None and await self._is_browser(scope, headers):
                return None
        except (DBAPIError, OSError) as error:
            log.warning("gateway.ledger_away", error=type(error).__name__)
            return _refusal(scope["path"], 503, "The ledger does not answer. Try again.")
        scheme, _, token = (said or "").partition(" ")
        token = token.strip()
        # Clients of other protocols always send a key, if need be a made-up one; one of ours has to be right.
        oidc = self._oidc if token.startswith(BEGINNING) else None
        anybody = self._anybody_here(headers)
        if anybody is not None and oidc is None and not token.startswith(KEY_PREFIX):
            scope[CALLER] = anybody
            return None
        if self._sessions is not None and said is None and is_page(scope, headers):
            return RedirectResponse(f"/sign-in?next={quote(_address(scope), safe='')}", 303)
        if scheme.lower() != "bearer" or not token:
            return _unauthorized(scope["path"], "An API key is needed, as `Authorization: Bearer hk_…`.", None)
        return await (self._of_key(scope, token) if oidc is None else self._of_token(scope, token, oidc))

    def _anybody_here(self, headers: Headers) -> Caller | None:
        """As whom is let in who has no key; a proxy that nobody told us of asks for people of elsewhere."""
        return None if any(name in headers for name in FORWARDED) else self._anybody

    async def _of_key(self, scope: Scope, said: str) -> Response | None:
        try:
            key = await self._keys.check(said)
        except (DBAPIError, OSError) as error:
            log.warning("gateway.ledger_away", error=type(error).__name__)
            return _refusal(scope["path"], 503, "The ledger does not answer. Try again.")
        if key is None:
            log.info("gateway.key_refused", key=identity_of(said), address=scope[ADDRESS])
            await self._limits.failed(scope[ADDRESS])
            return _unauthorized(scope["path"], "The API key is wrong, expired or revoked.", "invalid_token")
        return self._allowed(scope, key)

    async def _of_token(self, scope: Scope, said: str, oidc: Oidc) -> Response | None:
        try:
            holder = await oidc.holder(said)
        except TokenRefused as error:
            log.info("gateway.token_refused", reason=error.reason, address=scope[ADDRESS])
            await self._limits.failed(scope[ADDRESS])
            words = f"The token does not count: {error.reason}."
            return _unauthorized(scope["path"], words, "invalid_token", error.reason)
        except Unreachable as error:
            return _refusal(scope["path"], 503, str(error))
        if _TOOLBOX.match(scope["path"]):
            if holder.role < Role.OPERATOR:
                return _refusal(scope["path"], 403, "To call tools needs the role operator.")
            scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=holder.id, scopes=[]))
        scope[CALLER] = Caller(holder.name, holder.tenant, holder.id, holder.role, holder.until)
        return None

    async def _is_browser(self, scope: Scope, headers: Headers) -> bool:
        """Whether it is somebody's session, or a page that is open to all; then the scope says whose."""
        if self._sessions is None:
            return False
        name = self._sessions.cookie_name(COOKIE, secure=is_secure(headers, self._loopback))
        session = self._sessions.read(cookie_parser(headers.get("cookie", "")).get(name))
        if session is not None:
            scope[SESSION] = session
        others = TOOLBOXES if scope["method"] in ("GET", "HEAD") else PROTOCOLS
        if session is not None and session.is_signed_in and not scope["path"].startswith(others):
            caller = await self._of_session(session)
            if caller is not None:
                scope[CALLER] = caller
                return True
        if self._anybody_here(headers) is None and scope["path"].startswith(OPEN_PAGES):
            scope[CALLER] = VISITOR
            return True
        return False

    async def _of_session(self, session: Session) -> Caller | None:
        """Whose session it is, as things stand now; None when it does not count any more."""
        until = datetime.fromtimestamp(session.until, UTC)
        if session.how == "oidc":
            if self._oidc is None:  # it was, when the session began
                return None
            return Caller(session.name, session.tenant, session.key, Role(session.role), until)
        key = await self._keys.counts(session.key or "")
        return replace(_caller(key), until=until) if key is not None else None

    def _allowed(self, scope: Scope, key: ApiKey) -> Response | None:
        match = _TOOLBOX.match(scope["path"])
        caller = _caller(key)
        if match is None:  # what a role may do, each route says
            scope[CALLER] = caller
            return None
        name = match.group(1)
        if not key.allows("toolbox", name):
            challenge = f'Bearer realm="horarium", error="insufficient_scope", scope="toolbox:{name}"'
            return _refusal(scope["path"], 403, "The API key is not for this toolbox.", challenge)
        scope[CALLER] = caller
        # An MCP session stays with the key that opened it; the session manager reads this.
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=key.id, scopes=list(key.scopes)))
        return None


def _caller(key: ApiKey) -> Caller:
    tools = tuple(scope.removeprefix("tools:") for scope in key.scopes if scope.startswith("tools:"))
    return Caller(name=key.name, tenant=key.tenant, key=key.id, role=role_of(key.scopes), tools=tools)


def is_page(scope: Scope, headers: Headers) -> bool:
    """Whether somebody looks at a page, who can sign in first."""
    looks = scope["method"] in ("GET", "HEAD") and "text/html" in headers.get("accept", "")
    return looks and not scope["path"].startswith(PROTOCOLS)


def _address(scope: Scope) -> str:
    query = scope["query_string"].decode("latin-1")
    return str(scope["path"]) + (f"?{query}" if query else "")


def _unauthorized(path: str, message: str, error: str | None, reason: str | None = None) -> Response:
    challenge = 'Bearer realm="horarium"' + (f', error="{error}"' if error else "")
    challenge += f', error_description="{reason}"' if reason else ""
    return _refusal(path, 401, message, challenge)


def _refusal(path: str, status: int, message: str, challenge: str | None = None) -> Response:
    code = {401: "unauthorized", 403: "not_allowed", 421: "misdirected", 503: "unreachable"}[status]
    return refusal(path, status, code, message, headers={"WWW-Authenticate": challenge} if challenge else None)
