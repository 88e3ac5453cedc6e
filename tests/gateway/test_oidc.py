"""Tokens of an OpenID Connect issuer: which open the gateway, as whom, and which do not."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import time
import tomllib
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx2
import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from pydantic import ValidationError

from horarium.definitions import ApprovalRule
from horarium.errors import Unreachable
from horarium.gateway.issuer import FRESH, GOOD, MOST_BYTES, REFETCH, RETRY, Issuer
from horarium.gateway.oidc import Holder, Oidc, TokenRefused
from horarium.gateway.roles import Role
from horarium.settings import GatewaySettings, LimitSettings, OidcSettings
from tests.engine.conftest import World
from tests.gateway.conftest import PATIENT, Serve
from tests.gateway.test_v1_approvals import CLERK
from tests.support.engine import Engine, asks, call, says
from tests.support.issuer import AUDIENCE, CLIENT, TID, LocalIssuer, SigningKey, local_issuer, private_key

V1 = f"https://sts.windows.net/{TID}/"
OTHER = "6a2c1b7e-0000-4000-8000-00000000ffff"


@pytest.fixture(scope="module")
async def served() -> AsyncIterator[LocalIssuer]:
    async with local_issuer() as issuer:
        yield issuer


@pytest.fixture
def issuer(served: LocalIssuer) -> LocalIssuer:
    return served.fresh()


def reader(issuer: LocalIssuer, /, **more: Any) -> Oidc:
    settings = issuer.settings(**more)
    return Oidc(settings, Issuer(settings))


def raw(part: object) -> str:
    return base64.urlsafe_b64encode(json.dumps(part).encode()).rstrip(b"=").decode()


def with_public_key_as_secret(issuer: LocalIssuer) -> str:
    """What a library that lets the token choose its algorithm takes for signed."""
    public = issuer.key.private.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
    said = f"{raw({'alg': 'HS256', 'typ': 'JWT', 'kid': issuer.key.kid})}.{raw(issuer.claims())}"
    mac = hmac.new(public, said.encode(), hashlib.sha256).digest()
    return f"{said}.{base64.urlsafe_b64encode(mac).rstrip(b'=').decode()}"


def with_own_key(issuer: LocalIssuer) -> str:
    """Signed with a key that the token itself brings along."""
    own = SigningKey(issuer.key.kid, private_key("stranger"))
    header = {"kid": own.kid, "jwk": own.jwk(), "jku": "http://127.0.0.1:9/keys", "x5u": "http://127.0.0.1:9/x"}
    return jwt.encode(issuer.claims(), own.private, "RS256", headers=header)


def changed_after_signing(issuer: LocalIssuer) -> str:
    header, _, signature = issuer.token().split(".")
    return f"{header}.{raw(issuer.claims(roles=['admin']))}.{signature}"


BAD: dict[str, tuple[str, Callable[[LocalIssuer], str]]] = {
    "no algorithm": ("algorithm", lambda i: f"{raw({'alg': 'none', 'kid': 'first'})}.{raw(i.claims())}."),
    "public key as secret": ("algorithm", with_public_key_as_secret),
    "another algorithm": (
        "algorithm",
        lambda i: jwt.encode(i.claims(), i.key.private, "RS384", headers={"kid": "first"}),
    ),
    "a key of its own": ("signature", with_own_key),
    "a key id that is a path": ("key", lambda i: i.signed(i.claims(), kid="../../dev/null")),
    "a key id that is a query": ("key", lambda i: i.signed(i.claims(), kid="' or 1=1 --")),
    "changed after signing": ("signature", changed_after_signing),
    "critical header": ("malformed", lambda i: i.signed(i.claims(), crit=["b64"], b64=True)),
    "no key id": ("malformed", lambda i: jwt.encode(i.claims(), i.key.private, "RS256")),
    "expired": ("expired", lambda i: i.token(exp=int(time.time()) - 61)),
    "not yet valid": ("not_yet_valid", lambda i: i.token(nbf=int(time.time()) + 90)),
    "issued tomorrow": ("not_yet_valid", lambda i: i.token(iat=int(time.time()) + 86_400)),
    "for ever": ("malformed", lambda i: i.token(exp=None)),
    "for another": ("audience", lambda i: i.token(aud="api://other")),
    "for nobody": ("malformed", lambda i: i.token(aud=None)),
    "another issuer": ("issuer", lambda i: i.token(iss="https://login.example.com/v2.0")),
    "almost the issuer": ("issuer", lambda i: i.token(iss=i.url + "/")),
    "an older issuer": ("issuer", lambda i: i.token(iss=V1)),
    "a tenant that is a list": ("tenant", lambda i: i.token(tid=[TID])),
    "an id token": ("kind", lambda i: i.token(nonce="n", scp=None)),
    "an id token with roles": ("kind", lambda i: i.token(scp=None, azp=None)),
    "an id token of Keycloak": ("kind", lambda i: i.token(typ="ID")),
    "nobody's name": ("name", lambda i: i.token(preferred_username=" \u200b ")),
    "a role for a name": ("name", lambda i: i.token(preferred_username="role:finance")),
    "cut": ("malformed", lambda i: i.token()[:40]),
    "nested": ("malformed", lambda i: "eyJ" + base64.urlsafe_b64encode(b"[" * 9_000).decode() + ".e30.AA"),
    "huge": ("malformed", lambda i: "eyJ" + "A" * 20_000),
}


@pytest.mark.parametrize("name", BAD)
async def test_a_bad_token_is_refused_for_its_reason(issuer: LocalIssuer, name: str) -> None:
    reason, made = BAD[name]
    oidc = reader(issuer)

    with pytest.raises(TokenRefused) as refused:
        await oidc.holder(made(issuer))

    assert refused.value.reason == reason
    assert (await oidc.holder(issuer.token())).name == "ana@example.com"


async def test_clocks_may_differ_by_a_minute(issuer: LocalIssuer) -> None:
    now = int(time.time())

    late, early = issuer.token(exp=now - 50), issuer.token(nbf=now + 50, iat=now + 50)

    assert [(await reader(issuer).holder(token)).name for token in (late, early)] == ["ana@example.com"] * 2


@pytest.mark.parametrize(
    ("claims", "name"),
    [
        ({}, "ana@example.com"),
        ({"preferred_username": None, "email": "ana@mail.example"}, "ana@mail.example"),
        ({"preferred_username": None, "email": "ana@mail.example", "email_verified": False}, "ana"),
        ({"preferred_username": None, "oid": "0b1d"}, "0b1d"),
        ({"scp": None, "preferred_username": "ana@example.com", "azp": "nightly-job"}, "nightly-job"),
        ({"scp": None, "azp": None, "appid": "older-job"}, "older-job"),
    ],
)
async def test_a_person_is_called_by_her_name_and_a_program_by_its_id(
    issuer: LocalIssuer, claims: dict[str, Any], name: str
) -> None:
    assert (await reader(issuer).holder(issuer.token(**claims))).name == name


@pytest.mark.parametrize(
    ("settings", "claims", "role"),
    [
        ({}, {"roles": ["viewer", "Approver", "nonsense", 7]}, Role.APPROVER),
        ({}, {"roles": "admin"}, Role.ADMIN),
        ({}, {"roles": None}, Role.NOBODY),
        ({}, {"roles": {"admin": True}}, Role.NOBODY),
        ({"role_prefix": "Horarium."}, {"roles": ["Horarium.Operator", "admin"]}, Role.OPERATOR),
        ({"roles_claim": "groups", "roles": {"g-1": "approver"}}, {"groups": ["g-1", "admin"]}, Role.APPROVER),
    ],
)
async def test_a_role_is_what_the_settings_make_of_the_claim(
    issuer: LocalIssuer, settings: dict[str, Any], claims: dict[str, Any], role: Role
) -> None:
    assert (await reader(issuer, **settings).holder(issuer.token(**claims))).role is role


async def test_only_tenants_on_the_list_are_let_in_and_each_is_a_tenant_here(issuer: LocalIssuer) -> None:
    oidc = reader(issuer, tenants={TID: "acme"})

    assert (await oidc.holder(issuer.token())).tenant == "acme"
    for tid in (OTHER, None):
        with pytest.raises(TokenRefused, match="tenant"):
            await oidc.holder(issuer.token(tid=tid))


async def test_an_issuer_for_many_tenants_signs_for_each_in_its_own_name(issuer: LocalIssuer) -> None:
    many = issuer.url.replace(TID, "organizations")
    with pytest.raises(ValidationError, match="whole world"):
        OidcSettings(issuer=many, audience=(AUDIENCE,))
    issuer.metadata = {"issuer": issuer.url.replace(TID, "{tenantid}")}
    oidc = reader(issuer, issuer=many, tenants={TID: "acme", OTHER: "umbrella"})
    of_other = issuer.token(tid=OTHER, iss=issuer.url.replace(TID, OTHER))

    assert [(await oidc.holder(token)).tenant for token in (issuer.token(), of_other)] == ["acme", "umbrella"]
    with pytest.raises(TokenRefused, match="issuer"):
        await oidc.holder(issuer.token(tid=OTHER))


async def test_entras_older_tokens_count_where_they_are_accepted(issuer: LocalIssuer) -> None:
    older = {"iss": V1, "azp": None, "appid": CLIENT}
    oidc = reader(issuer, accept_v1=True)

    assert (await oidc.holder(issuer.token(**older))).name == "ana@example.com"
    with pytest.raises(TokenRefused, match="issuer"):
        await oidc.holder(issuer.token(**older | {"iss": V1.replace(TID, OTHER), "tid": OTHER}))


class Clock:
    """Seconds, when the test says so."""

    now = 1_000.0

    def __call__(self) -> float:
        return self.now


async def test_keys_roll_over_and_a_made_up_one_asks_the_issuer_once_a_minute(issuer: LocalIssuer) -> None:
    clock = Clock()
    oidc = Oidc(issuer.settings(), Issuer(issuer.settings(), clock=clock))
    old = issuer.token()
    await oidc.holder(old)
    issuer.rotate("second")

    for _ in range(20):  # whatever key is named, within the minute
        with pytest.raises(TokenRefused, match="key"):
            await oidc.holder(issuer.token())
    asked = issuer.fetched.count("/keys")
    clock.now += REFETCH
    new = await oidc.holder(issuer.token())

    assert (asked, issuer.fetched.count("/keys"), new.name) == (1, 2, "ana@example.com")
    with pytest.raises(TokenRefused, match="key"):
        await oidc.holder(old)


async def test_an_issuer_that_is_away_is_not_the_tokens_fault(issuer: LocalIssuer) -> None:
    clock = Clock()
    oidc = Oidc(issuer.settings(), Issuer(issuer.settings(), clock=clock))
    issuer.is_down = True
    with pytest.raises(Unreachable):
        await oidc.holder(issuer.token())
    issuer.is_down = False
    clock.now += RETRY
    await oidc.holder(issuer.token())
    issuer.is_down = True

    clock.now += FRESH
    known = await oidc.holder(issuer.token())
    issuer.rotate("second")
    clock.now += REFETCH
    with pytest.raises(Unreachable):
        await oidc.holder(issuer.token())
    issuer.key.kid = "first"
    clock.now += GOOD
    with pytest.raises(Unreachable):
        await oidc.holder(issuer.token())

    assert known.name == "ana@example.com"


@pytest.mark.parametrize(
    "metadata",
    [
        {"issuer": "https://login.example.com"},
        {"jwks_uri": "http://10.0.0.1/keys"},
        {"jwks_uri": "file:///etc/passwd"},
        {"jwks_uri": None},
        {"padding": "x" * MOST_BYTES},
    ],
)
async def test_metadata_that_leads_elsewhere_is_not_followed(issuer: LocalIssuer, metadata: dict[str, Any]) -> None:
    issuer.metadata = metadata

    with pytest.raises(Unreachable):
        await reader(issuer).holder(issuer.token())

    assert "/keys" not in issuer.fetched


@pytest.mark.parametrize(
    "url", ["http://login.example.com", "https://a:b@login.example.com", "https://x/?y=1", "ftp://x"]
)
def test_an_issuer_is_reached_over_https(url: str) -> None:
    with pytest.raises(ValidationError, match="issuer"):
        OidcSettings(issuer=url, audience=(AUDIENCE,))


@pytest.mark.filterwarnings("ignore:The RSA key is 1024 bits")
async def test_weak_keys_and_other_kinds_of_keys_are_left_out(issuer: LocalIssuer) -> None:
    issuer.key = SigningKey("weak", generate_private_key(65537, 1024))

    with pytest.raises(TokenRefused, match="key"):
        await reader(issuer).holder(issuer.token())


async def test_the_gateway_lets_a_person_in_and_the_run_is_hers(
    engine: Engine, world: World, serve: Serve, issuer: LocalIssuer
) -> None:
    strict = PATIENT.model_copy(
        update={"anonymous": False, "oidc": issuer.settings(tenants={TID: "acme"})},
    )
    served = await serve(strict, preview=None)
    other = await serve(PATIENT.model_copy(update={"oidc": issuer.settings(tenants={TID: "acme"})}), preview=None)
    async with httpx2.AsyncClient(timeout=30) as http:

        async def ask(method: str, path: str, token: str, url: str = served.url) -> httpx2.Response:
            return await http.request(method, url + path, headers={"Authorization": f"Bearer {token}"})

        listed = await ask("GET", "/v1/runs", issuer.token())
        refused = await ask("GET", "/v1/runs", issuer.token(aud="api://other"))
        wrong_on_loopback = await ask("GET", "/v1/runs", issuer.token(aud="api://other"), other.url)
        roleless = await ask("GET", "/v1/runs", issuer.token(roles=None))
        viewer = await ask("DELETE", "/v1/threads/thr_none", issuer.token(roles=["viewer"]))
        tools = [
            (await ask("POST", "/toolboxes/shop/mcp", issuer.token(roles=roles))).status_code
            for roles in (["viewer"], ["operator"])
        ]

    assert listed.json() == {"data": [], "next": None}
    assert refused.status_code == wrong_on_loopback.status_code == 401
    assert refused.headers["www-authenticate"].endswith('error="invalid_token", error_description="audience"')
    assert AUDIENCE not in refused.text
    assert (roleless.status_code, viewer.status_code) == (403, 403)
    assert (tools[0], tools[1] not in (401, 403)) == (403, True)


async def test_who_decides_is_the_person_of_the_token_and_nobody_is_two_people(
    engine: Engine, world: World, serve: Serve, issuer: LocalIssuer
) -> None:
    served = await serve(PATIENT.model_copy(update={"oidc": issuer.settings()}))
    careful = ApprovalRule(tools=("pay",), four_eyes=True)
    clerk = CLERK.model_copy(update={"approvals": (careful,)})
    run = await engine.start(clerk, asks(call("pay", amount=5)), says("Done."), requested_by="Ana@Example.com")
    await engine.until(run, "requires_action")

    async def decide(name: str) -> httpx2.Response:
        token = issuer.token(preferred_username=name, sub=name, roles=["approver"])
        async with httpx2.AsyncClient(base_url=served.url, headers={"Authorization": f"Bearer {token}"}) as http:
            [question] = (await http.get("/v1/approvals", params={"run": run.id})).json()["data"]
            body = {"digest": question["digest"], "verdict": "approve"}
            return await http.post(f"/v1/approvals/{question['id']}/decide", json=body)

    own, other = await decide("ana@example.com"), await decide("ben@example.com")

    assert (own.status_code, own.json()["code"]) == (403, "not_an_approver")
    assert (other.status_code, other.json()["approval"]["decided_by"]) == (200, "ben@example.com")


async def test_two_people_are_never_one_caller(issuer: LocalIssuer) -> None:
    oidc = reader(issuer)

    async def holder(**changed: Any) -> Holder:
        return await oidc.holder(issuer.token(**changed))

    same = {(await holder()).id, (await holder(roles=["admin"])).id}
    others = {(await holder(sub="ben")).id, (await holder(preferred_username="ben@example.com")).id}

    assert (len(same), len(same | others)) == (1, 3)


def test_the_guides_settings_are_settings() -> None:
    guide = (Path(__file__).parents[2] / "docs" / "guides" / "sign-in.md").read_text("utf-8")
    elsewhere, entra, limits = (
        tomllib.loads(block)["gateway"] for block in re.findall(r"```toml\n(.*?)```", guide, re.DOTALL)
    )

    assert GatewaySettings(**elsewhere).hosts
    oidc = GatewaySettings(**entra).oidc
    assert oidc is not None
    assert list(oidc.tenants.values()) == ["default"]
    assert GatewaySettings(**limits).limits == LimitSettings()
