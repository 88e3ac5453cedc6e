"""An OpenID Connect issuer on loopback: metadata, keys that rotate, a sign-in page that asks nothing, tokens."""

from __future__ import annotations

import asyncio
import base64
import hashlib
import secrets
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import cache
from typing import Any
from urllib.parse import parse_qs, urlencode

import jwt
import uvicorn
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey, generate_private_key
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response
from starlette.routing import Route

from horarium.settings import OidcSettings

TID = "6a2c1b7e-0000-4000-8000-000000000001"
AUDIENCE = "api://horarium"
CLIENT = "c0ffee00-0000-4000-8000-000000000002"


@cache
def private_key(kid: str) -> RSAPrivateKey:
    """One for each id: to make one takes a while."""
    return generate_private_key(65537, 2048)


@dataclass
class SigningKey:
    """One key, and the name that the issuer gives it."""

    kid: str
    private: RSAPrivateKey

    def jwk(self) -> dict[str, Any]:
        """What the issuer publishes of it."""
        public = jwt.algorithms.RSAAlgorithm.to_jwk(self.private.public_key(), as_dict=True)
        return {**public, "kid": self.kid, "use": "sig", "alg": "RS256"}


@dataclass
class LocalIssuer:
    """The issuer. Who signs in is `person`; `is_down` makes it answer 500; `fetched` are the paths asked for."""

    port: int
    key: SigningKey = field(default_factory=lambda: SigningKey("first", private_key("first")))
    person: dict[str, Any] = field(default_factory=lambda: {"preferred_username": "ana@example.com"})
    is_down: bool = False
    fetched: list[str] = field(default_factory=list)
    codes: dict[str, dict[str, str]] = field(default_factory=dict)
    metadata: dict[str, Any] = field(default_factory=dict)
    in_id_token: dict[str, Any] = field(default_factory=dict)

    @property
    def url(self) -> str:
        """Its name."""
        return f"http://127.0.0.1:{self.port}/{TID}/v2.0"

    def settings(self, **more: Any) -> OidcSettings:
        """Of a gateway that believes it."""
        return OidcSettings(**{"issuer": self.url, "audience": (AUDIENCE,), "client_id": CLIENT, **more})

    def fresh(self) -> LocalIssuer:
        """As it was at the start, for the next test."""
        self.__init__(self.port)  # type: ignore[misc]
        return self

    def rotate(self, kid: str) -> None:
        """Sign with another key from now on; the old one is no longer published."""
        self.key = SigningKey(kid, private_key(kid))

    def claims(self, **changed: Any) -> dict[str, Any]:
        """Of an access token; None takes a claim away."""
        now = int(time.time())
        claims = {
            "iss": self.url,
            "aud": AUDIENCE,
            "tid": TID,
            "sub": "ana",
            "iat": now,
            "nbf": now,
            "exp": now + 3600,
            "scp": "access",
            "azp": CLIENT,
            "preferred_username": "ana@example.com",
            "roles": ["operator"],
            **changed,
        }
        return {name: value for name, value in claims.items() if value is not None}

    def token(self, **changed: Any) -> str:
        """An access token, signed."""
        return self.signed(self.claims(**changed))

    def signed(self, claims: dict[str, Any], **header: Any) -> str:
        """Claims as a token."""
        return jwt.encode(claims, self.key.private, "RS256", headers={"kid": self.key.kid, **header})

    def app(self) -> Starlette:
        """It, over HTTP."""
        return Starlette(
            routes=[
                Route("/{tid}/v2.0/.well-known/openid-configuration", self._describe),
                Route("/keys", self._publish),
                Route("/authorize", self._authorize),
                Route("/token", self._exchange, methods=["POST"]),
            ]
        )

    async def _describe(self, request: Request) -> Response:
        own = f"http://127.0.0.1:{self.port}"
        described = {
            "issuer": self.url,
            "jwks_uri": f"{own}/keys",
            "authorization_endpoint": f"{own}/authorize",
            "token_endpoint": f"{own}/token",
        }
        return self._answer(request, {**described, **self.metadata})

    async def _publish(self, request: Request) -> Response:
        return self._answer(request, {"keys": [self.key.jwk()]})

    def _answer(self, request: Request, body: dict[str, Any]) -> Response:
        self.fetched.append(request.url.path)
        return JSONResponse(body, 500 if self.is_down else 200)

    async def _authorize(self, request: Request) -> Response:
        asked = dict(request.query_params)
        code = secrets.token_urlsafe(16)
        self.codes[code] = asked
        query = {"code": code, "state": asked["state"]}
        return RedirectResponse(f"{asked['redirect_uri']}?{urlencode(query)}", 302)

    async def _exchange(self, request: Request) -> Response:
        said = {name: values[0] for name, values in parse_qs((await request.body()).decode()).items()}
        asked = self.codes.pop(said.get("code", ""), None)
        digest = hashlib.sha256(said.get("code_verifier", "").encode()).digest()
        proof = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        same = ("redirect_uri", "client_id")
        if asked is None or asked["code_challenge"] != proof or any(asked[name] != said.get(name) for name in same):
            return JSONResponse({"error": "invalid_grant"}, 400)
        own = {"aud": CLIENT, "scp": None, "azp": None, "nonce": asked["nonce"], "roles": ["approver"]}
        claims = self.claims(**{**own, **self.person, **self.in_id_token})
        return JSONResponse({"id_token": self.signed(claims), "access_token": "unused", "token_type": "Bearer"})


@asynccontextmanager
async def local_issuer() -> AsyncIterator[LocalIssuer]:
    """Serve one on a free port."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        issuer = LocalIssuer(listener.getsockname()[1])
        server = uvicorn.Server(uvicorn.Config(issuer.app(), log_config=None, access_log=False, lifespan="off"))
        task = asyncio.create_task(server.serve(sockets=[listener]))
        try:
            yield issuer
        finally:
            server.should_exit = True
            await task
