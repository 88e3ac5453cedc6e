"""Signing in to the console: who gets a session, what it is worth, and when it ends."""

from __future__ import annotations

import re
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Any
from urllib.parse import parse_qs, urlsplit

import httpx2
import pytest

from horarium.gateway.serving import Serving
from horarium.gateway.sessions import Sessions
from horarium.ledger.api_keys import ApiKeys
from horarium.settings import GatewaySettings, LimitSettings
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRICT
from tests.support.engine import Engine
from tests.support.issuer import CLIENT, TID, LocalIssuer, local_issuer

PUBLIC = "horarium.example.com"
HTML = {"Accept": "text/html"}


@dataclass
class Visitor:
    """A browser, as far as signing in needs one: it keeps cookies, and follows nothing by itself."""

    http: httpx2.AsyncClient
    name: str
    cookies: dict[str, str] = field(default_factory=dict)
    said: list[str] = field(default_factory=list)

    async def ask(self, method: str, address: str, **form: str) -> httpx2.Response:
        """One request, a form when it has fields."""
        cookies = "; ".join(f"{name}={value}" for name, value in self.cookies.items())
        headers = {"Host": self.name, **HTML} | ({"Cookie": cookies} if cookies else {})
        answer = await self.http.request(method, address, data=form or None, headers=headers)
        for line in answer.headers.get_list("set-cookie"):
            self.said.append(line)
            name, _, value = line.partition(";")[0].partition("=")
            self.cookies[name] = value.strip('"')
            if not self.cookies[name]:
                del self.cookies[name]
        return answer

    async def token(self) -> str:
        """Of the form on the sign-in page."""
        found = re.search(r'name="token" value="([^"]+)"', (await self.ask("GET", "/sign-in")).text)
        assert found is not None
        return found.group(1)

    async def sign_in(self, key: str, **more: str) -> httpx2.Response:
        """By key, as the page does it."""
        return await self.ask("POST", "/sign-in", **{"token": await self.token(), "key": key, **more})

    async def at_provider(self, next_: str = "/runs") -> str:
        """Go to the provider and sign in there; where it sends the browser back to."""
        there = (await self.ask("GET", f"/sign-in/oidc?next={next_}")).headers["location"]
        async with httpx2.AsyncClient() as http:
            back = urlsplit((await http.get(there)).headers["location"])
        assert (back.scheme, back.netloc) == ("http" if ":" in self.name else "https", self.name)
        return f"{back.path}?{back.query}"

    async def status(self) -> int:
        """Of a look at the runs."""
        return (await self.ask("GET", "/v1/runs")).status_code


@dataclass
class Console:
    """A served console, and its browsers."""

    engine: Engine
    serving: Serving

    @asynccontextmanager
    async def visitor(self, name: str | None = None) -> AsyncIterator[Visitor]:
        """Somebody's browser, which reaches it by this name."""
        async with httpx2.AsyncClient(base_url=self.serving.url, timeout=20) as http:
            yield Visitor(http, name or f"127.0.0.1:{self.serving.port}")

    async def key(self, *scopes: str, **more: Any) -> str:
        """An API key."""
        return (await ApiKeys(self.engine.ledger).create("ana", scopes or ("role:operator",), **more))[1]


@pytest.fixture(scope="module")
async def provider() -> AsyncIterator[LocalIssuer]:
    async with local_issuer() as issuer:
        yield issuer


@pytest.fixture
async def issuer(provider: LocalIssuer) -> LocalIssuer:
    return provider.fresh()


async def console_of(engine: Engine, serve: Serve, **settings: Any) -> Console:
    await ApiKeys(engine.ledger).create("somebody", ("role:viewer",))
    return Console(engine, await serve(STRICT.model_copy(update={"hosts": (PUBLIC,), **settings})))


@pytest.fixture
async def console(engine: Engine, world: World, serve: Serve) -> Console:
    return await console_of(engine, serve)


@pytest.fixture
async def federated(engine: Engine, world: World, serve: Serve, issuer: LocalIssuer) -> Console:
    return await console_of(engine, serve, oidc=issuer.settings(tenants={TID: "acme"}))


async def test_who_has_no_session_is_sent_to_the_sign_in_page_and_back_after_it(console: Console) -> None:
    async with console.visitor() as ana:
        sent = await ana.ask("GET", "/runs?status=failed")
        asked = parse_qs(urlsplit(sent.headers["location"]).query)["next"][0]
        signed_in = await ana.sign_in(await console.key(), next=asked)

        assert (sent.status_code, asked) == (303, "/runs?status=failed")
        assert (signed_in.status_code, signed_in.headers["location"]) == (303, "/runs?status=failed")
        assert await ana.status() == 200
        assert (await ana.ask("GET", "/sign-in")).headers["location"] == "/inbox"


async def test_a_cookie_is_kept_from_scripts_and_off_the_wire(console: Console) -> None:
    async with console.visitor() as here, console.visitor(PUBLIC) as elsewhere:
        for browser in (here, elsewhere):
            await browser.sign_in(await console.key())

    assert all(
        "HttpOnly" in line and "Path=/" in line and "SameSite=lax" in line for line in here.said + elsewhere.said
    )
    assert {line.partition("=")[0] for line in here.said} == {f"horarium-{console.serving.port}"}
    assert {line.partition("=")[0] for line in elsewhere.said} == {"__Host-horarium"}
    assert all("Secure" in line and "Domain" not in line for line in elsewhere.said)


async def test_a_session_is_worth_what_its_key_is_worth_at_that_moment(console: Console) -> None:
    keys = ApiKeys(console.engine.ledger)
    made, key = await keys.create("ana", ("role:viewer",), tenant="acme")
    async with console.visitor() as ana:
        await ana.sign_in(key)
        before = await ana.status()

        await keys.revoke(made.id)

        assert (before, await ana.status()) == (200, 401)
        assert (await ana.ask("GET", "/runs")).headers["location"].startswith("/sign-in")


async def test_a_cookie_gives_no_orders_to_the_api_and_calls_no_tools(console: Console) -> None:
    async with console.visitor() as ana:
        await ana.sign_in(await console.key("role:admin", "toolbox:*"))

        assert (await ana.ask("POST", "/v1/runs", agent="any")).status_code == 401
        assert (await ana.ask("GET", "/toolboxes/shop/mcp")).status_code == 401


async def test_nobody_is_sent_to_another_site(console: Console) -> None:
    key, sent = await console.key(), []
    for where in ("//evil.com", "/\\evil.com", "https://evil.com", "/%09/evil.com", "evil", "/\t/evil.com"):
        async with console.visitor() as ana:
            sent.append((await ana.sign_in(key, next=where)).headers["location"])

    assert sent == ["/inbox"] * 3 + ["/%09/evil.com"] + ["/inbox"] * 2  # a browser reads that one as a path


async def test_a_wrong_key_and_one_without_a_role_open_nothing(
    console: Console, capsys: pytest.CaptureFixture[str]
) -> None:
    right = await console.key()
    wrong = right[:-1] + ("A" if right[-1] != "A" else "B")
    async with console.visitor() as ana:
        answers = [await ana.sign_in(key) for key in (wrong, "", await console.key("toolbox:shop"))]

        assert [answer.status_code for answer in answers] == [401, 401, 403]
        assert wrong not in answers[0].text + capsys.readouterr().out
        assert await ana.status() == 401


async def test_a_sign_in_form_counts_for_the_browser_that_got_it(console: Console) -> None:
    key = await console.key()
    async with console.visitor() as ana, console.visitor() as mallory:
        mallorys = await mallory.token()
        await ana.token()

        foreign = await ana.ask("POST", "/sign-in", token=mallorys, key=key)
        missing = await ana.ask("POST", "/sign-in", key=key)
        ana.cookies.clear()
        new = await ana.ask("POST", "/sign-in", token=mallorys, key=key)

        assert [answer.status_code for answer in (foreign, missing, new)] == [403, 403, 403]
        assert await ana.status() == 401


async def test_a_session_that_was_brought_along_is_left_behind(console: Console) -> None:
    async with console.visitor() as ana, console.visitor() as mallory:
        await mallory.token()
        ana.cookies = dict(mallory.cookies)
        await ana.sign_in(await console.key())

        assert (await ana.status(), await mallory.status()) == (200, 401)


async def test_signing_out_needs_a_form_of_the_session_and_ends_it(console: Console) -> None:
    async with console.visitor() as ana:
        before = await ana.token()
        await ana.sign_in(await console.key())
        stale = await ana.ask("POST", "/sign-out", token=before)
        still = await ana.status()
        page = (await ana.ask("GET", "/sign-in/oidc")).text  # any page has the button
        found = re.search(r'action="/sign-out">\s*<input type="hidden" name="token" value="([^"]+)"', page)
        assert found is not None

        signed_out = await ana.ask("POST", "/sign-out", token=found.group(1))

        assert (stale.status_code, still, signed_out.headers["location"]) == (403, 200, "/sign-in")
        assert await ana.status() == 401


def test_a_session_is_over_after_its_time_and_none_is_made_up() -> None:
    sessions, others = Sessions("s" * 32), Sessions("t" * 32)
    good = sessions.begin(how="key", name="ana", tenant="default", key="hk_1")
    over = Sessions("s" * 32, timedelta(seconds=-1)).begin(how="key", name="ana", tenant="default", key="hk_1")

    assert sessions.read(sessions.cookie(good)) == good
    made_up = (sessions.cookie(over), others.cookie(good), sessions.cookie(good)[:-2], "", None, "x" * 9_000)
    assert [sessions.read(cookie) for cookie in made_up] == [None] * 6
    errand = sessions.begin_errand("/runs")
    assert sessions.read(sessions.errand_cookie(errand)) is None  # one kind of cookie is never taken for another


async def test_attempts_to_sign_in_are_counted(engine: Engine, world: World, serve: Serve) -> None:
    console = await console_of(engine, serve, limits=LimitSettings(sign_ins="3/hour"))
    async with console.visitor() as ana:
        tried = [(await ana.sign_in("hk_wrong")).status_code for _ in range(3)]
        refused = await ana.sign_in(await console.key())

        assert tried == [401, 401, 401]
        assert (refused.status_code, int(refused.headers["retry-after"]) > 60) == (429, True)
        assert await ana.status() == 401


async def test_somebody_signs_in_at_the_provider(federated: Console, issuer: LocalIssuer) -> None:
    async with federated.visitor() as ana, federated.visitor(PUBLIC) as elsewhere:
        assert "/sign-in/oidc" in (await ana.ask("GET", "/sign-in")).text
        for browser in (ana, elsewhere):
            answer = await browser.ask("GET", await browser.at_provider())

            assert (answer.status_code, answer.headers["location"]) == (303, "/runs")
            assert await browser.status() == 200
            assert not any(name.endswith("errand") for name in browser.cookies)

        page = (await ana.ask("GET", "/sign-in/callback")).text
        assert 'title="approver in acme">ana@example.com<' in page


async def test_an_id_token_that_is_not_for_this_sign_in_opens_nothing(federated: Console, issuer: LocalIssuer) -> None:
    wrong: list[dict[str, Any]] = [{"nonce": "x"}, {"aud": "x"}, {"aud": [CLIENT, "x"]}, {"tid": "x"}, {"exp": 1}]
    told = []
    async with federated.visitor() as ana:
        for said in (*wrong, {"roles": ["nothing"]}):
            issuer.in_id_token = said
            answer = await ana.ask("GET", await ana.at_provider())
            told += [(answer.status_code, "does not count" in answer.text, "no role here" in answer.text)]

        assert told == [(403, True, False)] * 5 + [(403, False, True)]
        assert await ana.status() == 401


async def test_an_answer_of_the_provider_counts_once_and_for_the_browser_that_asked(
    federated: Console, issuer: LocalIssuer
) -> None:
    async with federated.visitor() as ana, federated.visitor() as mallory:
        back = await mallory.at_provider()
        stolen = await ana.ask("GET", back)  # mallory has ana follow his link
        await ana.at_provider()
        mixed = await ana.ask("GET", back)
        back = await ana.at_provider()
        errand = dict(ana.cookies)
        first = await ana.ask("GET", back)
        ana.cookies = errand
        again = await ana.ask("GET", back)
        mixed_up = await ana.ask("GET", await ana.at_provider() + "&iss=https://evil.example")
        denied = await ana.ask("GET", re.sub("code=[^&]+", "error=access_denied", await ana.at_provider()))

        refused = [answer.status_code for answer in (stolen, mixed, again, mixed_up, denied)]
        assert (first.status_code, refused) == (303, [403] * 5)
        assert "used before" in again.text
        assert "another provider" in mixed_up.text
        assert (await ana.status(), await mallory.status()) == (401, 401)


async def test_every_gateway_of_a_project_knows_a_session_while_it_knows_the_provider(
    federated: Console, engine: Engine, serve: Serve, issuer: LocalIssuer
) -> None:
    other = Console(engine, await serve(STRICT.model_copy(update={"hosts": (PUBLIC,), "oidc": issuer.settings()})))
    without = Console(engine, await serve(STRICT.model_copy(update={"hosts": (PUBLIC,)})))
    async with federated.visitor(PUBLIC) as ana, other.visitor(PUBLIC) as there, without.visitor(PUBLIC) as nowhere:
        await ana.ask("GET", await ana.at_provider())
        there.cookies, nowhere.cookies = dict(ana.cookies), dict(ana.cookies)

        assert [await browser.status() for browser in (ana, there, nowhere)] == [200, 200, 401]


async def test_without_the_provider_one_signs_in_by_key(federated: Console, issuer: LocalIssuer) -> None:
    issuer.is_down = True
    async with federated.visitor() as ana:
        away = await ana.ask("GET", "/sign-in/oidc")
        await ana.sign_in(await federated.key())

        assert (away.status_code, await ana.status()) == (503, 200)


def test_a_session_lasts_no_longer_than_half_a_day() -> None:
    with pytest.raises(ValueError, match="session_lasts"):
        GatewaySettings(session_lasts=timedelta(hours=13))
