"""An OpenID Connect issuer, as it describes itself: its addresses and the keys that it signs with.

Everything comes from the issuer's own metadata, over https, of bounded size and in bounded time. Keys are kept, so that
a request waits for the issuer only when it shows a key that nobody has seen, and at most once a minute.
"""

from __future__ import annotations

import asyncio
import json
import ssl
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal
from urllib.parse import urlsplit

import httpx2
import jwt
import structlog
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPublicKey
from pydantic import BaseModel, ValidationError

from horarium.errors import ConfigError, Unreachable
from horarium.settings import OidcSettings

log = structlog.get_logger()

WELL_KNOWN = "/.well-known/openid-configuration"
ANY_TENANT = "{tenantid}"  # in the issuer that Entra's metadata for several tenants names
PATIENCE = 5.0  # seconds, for one answer as a whole
MOST_BYTES = 512 * 1024
MOST_KEYS = 100
SHORTEST_RSA = 2048  # bits
FRESH = 3600.0  # seconds; older keys are fetched again, while they go on being used
GOOD = 24 * 3600.0  # seconds; keys that could not be fetched again for so long count no more
REFETCH = 60.0  # seconds between two fetches
RETRY = 5.0  # seconds after a fetch that failed


class Metadata(BaseModel):
    """What of an issuer's description is used."""

    issuer: str
    jwks_uri: str
    authorization_endpoint: str | None = None
    token_endpoint: str | None = None
    authorization_response_iss_parameter_supported: bool = False


class Issuer:
    """One issuer. `clock` is monotonic, in seconds."""

    def __init__(
        self, settings: OidcSettings, root: Path | None = None, *, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """`root`: the project's directory, which `ca_file` starts from.

        Raises:
            ConfigError: `ca_file` has no certificates.
        """
        self._settings = settings
        self._clock = clock
        self._trust = _trust(settings, root or Path())
        self._keys: dict[str, jwt.PyJWK] = {}
        self._metadata: Metadata | None = None
        self._fetched: float | None = None
        self._tried: float | None = None
        self._failed = False
        self._one = asyncio.Lock()
        self._behind: asyncio.Task[None] | None = None

    async def metadata(self) -> Metadata:
        """How it describes itself.

        Raises:
            Unreachable: It does not answer.
        """
        if self._metadata is None:
            await self._refresh()
        if self._metadata is None:
            raise _away()
        return self._metadata

    async def key(self, kid: str) -> jwt.PyJWK | None:
        """The key of this id; None when the issuer has none.

        Raises:
            Unreachable: It is not one that is known, and the issuer does not answer.
        """
        age = self._clock() - self._fetched if self._fetched is not None else GOOD
        if kid in self._keys and age < GOOD:
            if age >= FRESH and (self._behind is None or self._behind.done()):
                self._behind = asyncio.create_task(self._refresh())
            return self._keys[kid]
        await self._refresh()
        if self._fetched is None or self._clock() - self._fetched >= GOOD or (self._failed and kid not in self._keys):
            raise _away()
        return self._keys.get(kid)

    async def exchange(self, code: str, *, verifier: str, redirect_uri: str, secret: str | None) -> str:
        """The id token that a code of its sign-in page stands for.

        Raises:
            CodeRefused: It is no code for this sign-in, or was used before.
            Unreachable: The issuer does not answer.
        """
        metadata = await self.metadata()
        form = {
            "grant_type": "authorization_code",
            "code": code,
            "redirect_uri": redirect_uri,
            "client_id": self._settings.client_id or "",
            "code_verifier": verifier,
        } | ({"client_secret": secret} if secret is not None else {})
        if metadata.token_endpoint is None:
            raise _away()
        try:
            status, answer = await self._ask("POST", metadata.token_endpoint, form)
        except _Bad as error:
            log.warning("oidc.token_endpoint_away", error=str(error))
            raise _away() from error
        token = answer.get("id_token")
        if status == 200 and isinstance(token, str):
            return token
        if status < 500:
            log.warning("oidc.code_refused", status=status, error=str(answer.get("error", ""))[:100])
            raise CodeRefused
        raise _away()

    async def _refresh(self) -> None:
        async with self._one:  # whoever waited finds what the first has fetched
            now = self._clock()
            if self._tried is not None and now - self._tried < (RETRY if self._failed else REFETCH):
                return
            self._tried, self._failed = now, True  # until it has not; whoever asks may also go away meanwhile
            try:
                metadata = await self._described()
                keys = _usable(await self._good(metadata.jwks_uri))
            except _Bad as error:
                log.warning("oidc.issuer_away", issuer=self._settings.issuer, error=str(error))
                return
            self._metadata, self._keys, self._fetched, self._failed = metadata, keys, now, False

    async def _described(self) -> Metadata:
        issuer = self._settings.issuer
        try:
            metadata = Metadata.model_validate(await self._good(issuer.rstrip("/") + WELL_KNOWN))
        except ValidationError as error:
            raise _Bad("its metadata is not as OpenID Connect has it") from error
        meant = {metadata.issuer, *(metadata.issuer.replace(ANY_TENANT, all_) for all_ in ("organizations", "common"))}
        if issuer not in meant:
            raise _Bad(f"its metadata names another issuer, {metadata.issuer[:200]!r}")
        for url in (metadata.jwks_uri, metadata.authorization_endpoint, metadata.token_endpoint):
            if url is not None and not _is_safe(url, issuer):
                raise _Bad(f"its metadata has an address without https, {url[:200]!r}")
        return metadata

    async def _good(self, url: str) -> dict[str, Any]:
        status, answer = await self._ask("GET", url)
        if status != 200:
            raise _Bad(f"{url} answers {status}")
        return answer

    async def _ask(
        self, method: Literal["GET", "POST"], url: str, form: dict[str, str] | None = None
    ) -> tuple[int, dict[str, Any]]:
        body = bytearray()
        try:
            async with (
                asyncio.timeout(PATIENCE),
                httpx2.AsyncClient(verify=self._trust, follow_redirects=False, trust_env=False) as http,
                http.stream(method, url, data=form, headers={"Accept": "application/json"}) as answer,
            ):
                async for part in answer.aiter_bytes():
                    body += part
                    if len(body) > MOST_BYTES:
                        raise _Bad(f"{url} answers with more than {MOST_BYTES:,} bytes")
                status = answer.status_code
            read = json.loads(body)
        except (httpx2.HTTPError, httpx2.InvalidURL, TimeoutError, OSError) as error:
            raise _Bad(f"{url}: {type(error).__name__}") from error
        except (ValueError, RecursionError) as error:
            raise _Bad(f"{url} answers with no JSON") from error
        if not isinstance(read, dict):
            raise _Bad(f"{url} answers with no JSON object")
        return status, read


class CodeRefused(Exception):
    """The issuer does not take a code."""


class _Bad(Exception):
    """An answer that cannot be used, or none."""


def _away() -> Unreachable:
    return Unreachable("The OpenID issuer does not answer.", hint="Try again in a minute.")


def _trust(settings: OidcSettings, root: Path) -> ssl.SSLContext:
    if settings.ca_file is None:
        return httpx2.create_ssl_context()
    try:
        return ssl.create_default_context(cafile=root / settings.ca_file)
    except (OSError, ssl.SSLError) as error:
        raise ConfigError(f"`ca_file` in [gateway.oidc] has no certificates: {error}.") from error


def _is_safe(url: str, issuer: str) -> bool:
    """Whether an address of the metadata is as safe as the issuer's own: plain only where that one is."""
    scheme, host = urlsplit(url).scheme, urlsplit(url).hostname
    return scheme == "https" or (scheme == "http" and issuer.startswith("http:") and host == urlsplit(issuer).hostname)


def _usable(answer: dict[str, Any]) -> dict[str, jwt.PyJWK]:
    """The signing keys among those that an issuer publishes; others may be there, and are left out."""
    listed = answer.get("keys")
    if not isinstance(listed, list):
        raise _Bad("its key set has no keys")
    found: dict[str, jwt.PyJWK] = {}
    for item in listed[:MOST_KEYS]:
        if not isinstance(item, dict) or not isinstance(item.get("kid"), str) or item.get("use", "sig") != "sig":
            continue
        algorithm = {"RSA": "RS256", "EC": "ES256"}.get(str(item.get("kty")))
        if algorithm is None or item.get("alg", algorithm) != algorithm or item.get("crv", "P-256") != "P-256":
            continue
        try:
            key = jwt.PyJWK(item, algorithm)
        except (jwt.PyJWTError, ValueError, TypeError, KeyError):
            continue
        if not isinstance(key.key, RSAPublicKey) or key.key.key_size >= SHORTEST_RSA:
            found[item["kid"]] = key
    return found
