"""Tokens of an OpenID Connect issuer, such as Microsoft Entra ID: who holds one, and what he may do here.

Two kinds, never taken for each other: an access token, with which somebody calls, and an id token, which tells the
console who has just signed in. What a token says is looked at only after its signature.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Literal
from urllib.parse import urlsplit

import jwt

from horarium.gateway.issuer import ANY_TENANT, Issuer
from horarium.gateway.roles import Role
from horarium.people import plain
from horarium.secrets import reveal
from horarium.settings import OidcSettings, Settings

BEGINNING = "eyJ"  # of every token: the beginning of a JSON object
LEEWAY = timedelta(seconds=60)  # between the issuer's clock and ours
LAST = 250_000_000_000  # seconds since 1970: some thousand years from now; what comes after has no date
MOST_CHARS = 16_384
MOST_NAME_CHARS = 200
OF_ID_TOKENS = ("nonce", "at_hash", "c_hash")  # claims that no access token has

Reason = Literal[
    "malformed",
    "algorithm",
    "key",
    "signature",
    "expired",
    "not_yet_valid",
    "audience",
    "issuer",
    "tenant",
    "kind",
    "name",
    "nonce",
]


class TokenRefused(Exception):
    """A token that opens nothing. `reason` tells its holder what is wrong, and nothing of what would be right."""

    def __init__(self, reason: Reason) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True, slots=True)
class Holder:
    """Whose token it is. `id` is the same for all tokens of one person, or of one program."""

    id: str
    name: str
    tenant: str
    role: Role
    until: datetime


class Oidc:
    """Reads the tokens of one issuer."""

    def __init__(self, settings: OidcSettings, issuer: Issuer) -> None:
        self.settings = settings
        self.issuer = issuer

    async def holder(self, token: str) -> Holder:
        """Who calls with this access token.

        Raises:
            TokenRefused: It does not count.
            Unreachable: Its key is not known, and the issuer does not answer.
        """
        claims = await self._claims(token, self.settings.audience)
        if any(claim in claims for claim in OF_ID_TOKENS) or claims.get("typ") == "ID":
            raise TokenRefused("kind")
        program = next((claims[c] for c in ("azp", "appid", "client_id") if isinstance(claims.get(c), str)), None)
        if claims.get("scp") or claims.get("scope"):  # given to a program by a person, in whose name it calls
            return self._holder(claims, self._name(claims))
        if program is None:
            raise TokenRefused("kind")
        return self._holder(claims, _checked(program))

    async def signed_in(self, token: str, *, nonce: str) -> Holder:
        """Who has signed in and got this id token for it.

        Raises:
            TokenRefused: It is not the one of this sign-in.
            Unreachable: Its key is not known, and the issuer does not answer.
        """
        client = self.settings.client_id or ""
        claims = await self._claims(token, (client,))
        if claims.get("nonce") != nonce:
            raise TokenRefused("nonce")
        if claims["aud"] not in (client, [client]) or claims.get("azp", client) != client:
            raise TokenRefused("audience")
        return self._holder(claims, self._name(claims))

    async def _claims(self, token: str, audience: tuple[str, ...]) -> dict[str, Any]:
        algorithm, kid = self._header(token)
        key = await self.issuer.key(kid)
        if key is None or key.algorithm_name != algorithm:
            raise TokenRefused("key")
        try:
            claims: dict[str, Any] = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audience,
                leeway=LEEWAY,
                options={"require": ["exp", "iat", "iss", "aud", "sub"], "verify_iss": False},
            )
        except jwt.ExpiredSignatureError as error:
            raise TokenRefused("expired") from error
        except jwt.ImmatureSignatureError as error:
            raise TokenRefused("not_yet_valid") from error
        except jwt.InvalidAudienceError as error:
            raise TokenRefused("audience") from error
        except jwt.InvalidSignatureError as error:
            raise TokenRefused("signature") from error
        except (jwt.PyJWTError, ValueError, OverflowError, RecursionError) as error:
            raise TokenRefused("malformed") from error
        self._check_issuer(claims, (await self.issuer.metadata()).issuer)
        return claims

    def _header(self, token: str) -> tuple[str, str]:
        """The algorithm and the key's id. Whatever else a header names, such as a key or its address, is not used."""
        if len(token) > MOST_CHARS:
            raise TokenRefused("malformed")
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            raise TokenRefused("malformed") from error
        if header.get("alg") not in self.settings.algorithms:
            raise TokenRefused("algorithm")
        kid = header.get("kid")
        if not isinstance(kid, str) or "crit" in header:
            raise TokenRefused("malformed")
        return str(header["alg"]), kid

    def _check_issuer(self, claims: Mapping[str, Any], described: str) -> None:
        tid, tenants = claims.get("tid"), self.settings.tenants
        if not isinstance(tid, str | None) or (tenants and tid not in tenants):
            raise TokenRefused("tenant")
        allowed = {described.replace(ANY_TENANT, tid or "")}
        # Entra's older tokens are signed with the same keys, and say in another way which tenant signs.
        if self.settings.accept_v1 and tid and (tenants or tid in urlsplit(self.settings.issuer).path.split("/")):
            allowed.add(f"https://sts.windows.net/{tid}/")
        if claims["iss"] not in allowed:
            raise TokenRefused("issuer")

    def _holder(self, claims: Mapping[str, Any], name: str) -> Holder:
        tenant = self.settings.tenants.get(claims.get("tid") or "", "default")
        whole = "\0".join((self.settings.issuer, str(claims.get("tid")), str(claims["sub"]), name))
        identity = f"oidc_{hashlib.sha256(whole.encode('utf-8', 'replace')).hexdigest()[:16]}"
        until = datetime.fromtimestamp(min(int(claims["exp"]), LAST), UTC) + LEEWAY
        return Holder(identity, name, tenant, self._role(claims), until)

    def _name(self, claims: Mapping[str, Any]) -> str:
        for claim in self.settings.name_claims:
            if claim == "email" and claims.get("email_verified") is False:
                continue
            if claims.get(claim):
                return _checked(claims[claim])
        raise TokenRefused("name")

    def _role(self, claims: Mapping[str, Any]) -> Role:
        said = claims.get(self.settings.roles_claim)
        values = said if isinstance(said, list) else [said]
        names = [self._role_name(value) for value in values if isinstance(value, str)]
        return max((Role[name.upper()] for name in names if name is not None), default=Role.NOBODY)

    def _role_name(self, value: str) -> str | None:
        if self.settings.roles:
            return self.settings.roles.get(value)
        prefix = self.settings.role_prefix
        name = value.removeprefix(prefix).lower()
        known = value.startswith(prefix) and name in ("viewer", "operator", "approver", "admin")
        return name if known else None


def oidc_of(settings: Settings) -> Oidc | None:
    """The one of the settings; None when they name no issuer.

    Raises:
        ConfigError: Its secret is not set, or its certificates are not there.
    """
    oidc = settings.gateway.oidc
    if oidc is None:
        return None
    if oidc.client_secret is not None:
        reveal(oidc.client_secret)  # before somebody tries to sign in
    return Oidc(oidc, Issuer(oidc, settings.root))


def _checked(name: Any) -> str:
    """A name that can be shown, and that is nobody else's word for a role."""
    text = name.strip() if isinstance(name, str) else ""
    if not plain(text) or len(text) > MOST_NAME_CHARS or not text.isprintable():
        raise TokenRefused("name")
    if plain(text).startswith(("role:", "roles:")):
        raise TokenRefused("name")
    return text
