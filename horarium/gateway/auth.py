"""Who is let in: by the Host and Origin of the request, then by its API key.

In front of everything else, so nothing behind it is reached by a web page that rebinds its name to this machine, or by
whoever has no key.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass, replace
from ipaddress import ip_address

import structlog
from mcp.server.auth.middleware.bearer_auth import AuthenticatedUser
from mcp.server.auth.provider import AccessToken
from sqlalchemy.exc import DBAPIError
from starlette.datastructures import Headers
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from horarium.apikeys import ApiKey
from horarium.gateway.roles import Role, role_of
from horarium.ledger.api_keys import ApiKeys

log = structlog.get_logger()

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "[::1]")
HTTP_PORT = 80  # left out of the Host header
CALLER = "horarium.caller"  # in the ASGI scope
KEY_PREFIX = "hk_"
HOOKS = "/v1/hooks/"  # a signature says who sends; what else is below may do nothing
_TOOLBOX = re.compile(r"^/toolboxes/([A-Za-z0-9][A-Za-z0-9_-]{0,62})/")


@dataclass(frozen=True, slots=True)
class Caller:
    """Who calls. `key` is the id of the API key; None for somebody on this machine who has none."""

    name: str
    tenant: str
    key: str | None
    role: Role = Role.NOBODY


ANYBODY = Caller(name="anonymous", tenant="default", key=None, role=Role.ADMIN)

UNSIGNED = Caller(name="hook", tenant="", key=None)


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
    ) -> None:
        """`anybody`: as whom is let in who has no key; only where nobody else can reach the port. None: nobody is."""
        self._app = app
        self._keys = keys
        self._anybody = anybody
        own = {name if port == HTTP_PORT else f"{name}:{port}" for name in LOOPBACK_NAMES}
        self._hosts = own | {host.lower() for host in hosts}
        self._origins = {f"http://{host}" for host in own} | {origin.lower().rstrip("/") for origin in origins}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Check one request."""
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        headers = Headers(scope=scope)
        refused = self._is_elsewhere(headers) or await self._admit(scope, headers)
        await (refused or self._app)(scope, receive, send)

    def _is_elsewhere(self, headers: Headers) -> Response | None:
        """A page of another site cannot choose these two headers, whatever its name resolves to."""
        hosts, origins = headers.getlist("host"), headers.getlist("origin")
        if len(hosts) != 1 or hosts[0].lower() not in self._hosts:
            return _refusal(421, "This name is not one that it is reached by: see `hosts` in [gateway].")
        if any(origin.lower() not in self._origins for origin in origins):
            return _refusal(403, "Pages of this origin may not call it: see `origins` in [gateway].")
        return None

    async def _admit(self, scope: Scope, headers: Headers) -> Response | None:
        if scope["path"].startswith(HOOKS):
            scope[CALLER] = UNSIGNED
            return None
        said = headers.get("authorization")
        scheme, _, token = (said or "").partition(" ")
        # Clients of other protocols always send a key, if need be a made-up one; one of ours has to be right.
        if self._anybody is not None and not token.strip().startswith(KEY_PREFIX):
            scope[CALLER] = self._anybody
            return None
        if scheme.lower() != "bearer" or not token.strip():
            return _unauthorized("An API key is needed, as `Authorization: Bearer hk_…`.", None)
        try:
            key = await self._keys.check(token.strip())
        except (DBAPIError, OSError) as error:
            log.warning("gateway.ledger_away", error=type(error).__name__)
            return _refusal(503, "The ledger does not answer. Try again.")
        if key is None:
            return _unauthorized("The API key is wrong, expired or revoked.", "invalid_token")
        return self._allowed(scope, key)

    def _allowed(self, scope: Scope, key: ApiKey) -> Response | None:
        match = _TOOLBOX.match(scope["path"])
        caller = Caller(name=key.name, tenant=key.tenant, key=key.id, role=role_of(key.scopes))
        if match is None:  # what a role may do, each route says
            scope[CALLER] = caller
            return None
        name = match.group(1)
        if not key.allows("toolbox", name):
            challenge = f'Bearer realm="horarium", error="insufficient_scope", scope="toolbox:{name}"'
            return _refusal(403, "The API key is not for this toolbox.", challenge)
        scope[CALLER] = caller
        # An MCP session stays with the key that opened it; the session manager reads this.
        scope["user"] = AuthenticatedUser(AccessToken(token="", client_id=key.id, scopes=list(key.scopes)))
        return None


def _unauthorized(message: str, error: str | None) -> Response:
    challenge = 'Bearer realm="horarium"' + (f', error="{error}"' if error else "")
    return _refusal(401, message, challenge)


def _refusal(status: int, message: str, challenge: str | None = None) -> Response:
    code = {401: "unauthorized", 403: "not_allowed", 421: "misdirected", 503: "unreachable"}[status]
    body = {
        "type": f"https://horarium.invalid/problems/{code}",
        "title": code.replace("_", " ").capitalize(),
        "status": status,
        "code": code,
        "detail": message,
        "error": message,
    }
    headers = {"WWW-Authenticate": challenge} if challenge else None
    return JSONResponse(body, status_code=status, headers=headers, media_type="application/problem+json")
