"""Every page and every order of the console, as whoever should not get far: nobody, a viewer, a stranger, a forger.

The pages are those that the application has, so a new one is looked at as well.
"""

from __future__ import annotations

import asyncio
import re
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from html.parser import HTMLParser
from typing import Any
from urllib.parse import quote, urlencode

import httpx2
import pytest
from fastapi.routing import APIRoute
from temporalio.testing import WorkflowEnvironment

from horarium.gateway.app import gateway_app
from horarium.ledger.api_keys import ApiKeys
from tests.gateway.furnished import Furnished, furnished
from tests.gateway.operations import OF_THE_PROJECT
from tests.gateway.rest import STRANGER

_TOKEN = re.compile(r'name="token" value="([0-9a-f]{64})"')
_PLACE = re.compile(r"{(\w+)(?::\w+)?}")
_OPEN = ("/static/", "/sign-", "/approve/", "/v1/")
# Which id stands at a place of an address, where it is not called by its noun.
NOUNS = {"question": "approval"}
NAMED = {"routines": "routine", "agents": "agent"}
ELSEWHERE = (
    *(
        "//evil.example",
        "/\\evil.example",
        "\\\\evil.example",
        "/\t/evil.example",
        "https://evil.example/",
        "https:evil",
    ),
    *("javascript:alert(1)", "JaVaScRiPt:alert(1)", "data:text/html,x", "/x\r\nSet-Cookie: a=b", " //evil.example"),
)
HOSTILE = "'\"><img src=x onerror=alert(1)><a href=javascript:alert(1)>x</a>"


@pytest.fixture(scope="module")
async def house(env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Furnished]:
    async with furnished(env, tmp_path_factory.mktemp("hostile"), each=2) as house:
        yield house


@dataclass(frozen=True)
class Page:
    """One page, or one order. `theirs`: it is about something that is a tenant's."""

    method: str
    address: str
    theirs: bool


def routes_of(routes: Any) -> Iterator[APIRoute]:
    """Also those of routers inside."""
    for route in routes:
        if isinstance(route, APIRoute):
            yield route
        elif hasattr(route, "original_router"):
            yield from routes_of(route.original_router.routes)


def pages(house: Furnished) -> list[Page]:
    """All that need somebody to be signed in."""
    engine = house.rest.engine
    app = gateway_app(engine.client, engine.settings, port=1, anonymous=False)
    found: list[Page] = []
    for route in routes_of(app.routes):
        if route.include_in_schema or route.path.startswith(_OPEN) or route.path == "/":
            continue
        address, theirs = route.path, False
        for name in _PLACE.findall(route.path):
            noun = NOUNS.get(name, name)
            if name == "name":
                noun = "toolbox" if "/toolboxes/" in route.path else NAMED[route.path.split("/")[1]]
            value = "1" if name in ("number", "version") else house.one(noun)
            theirs = theirs or (noun in house.ids and noun not in OF_THE_PROJECT)
            address = re.sub(rf"{{{name}(:\w+)?}}", quote(value, safe=""), address)
        found += [Page(method, address, theirs) for method in sorted((route.methods or set()) - {"HEAD"})]
    return found


@dataclass
class Visitor:
    """Somebody's browser. `token`: of its forms."""

    http: httpx2.AsyncClient
    token: str = ""

    async def see(self, path: str) -> httpx2.Response:
        """A page."""
        answer = await self.http.get(path, headers={"Accept": "text/html"})
        if found := _TOKEN.search(answer.text):
            self.token = found[1]
        return answer

    async def order(self, path: str, **fields: Any) -> httpx2.Response:
        """Send a form, by default with this session's token."""
        return await self.send(path, {"token": self.token, **fields})

    async def send(self, path: str, fields: dict[str, Any], **headers: str) -> httpx2.Response:
        """Send a form."""
        kind = {"Content-Type": "application/x-www-form-urlencoded", "Accept": "text/html"}
        return await self.http.post(path, content=urlencode(fields, doseq=True), headers={**kind, **headers})


@asynccontextmanager
async def visitor(house: Furnished, who: str | None) -> AsyncIterator[Visitor]:
    """A browser, signed in with somebody's key."""
    async with httpx2.AsyncClient(base_url=house.rest.serving.url, timeout=30) as http:
        found = Visitor(http)
        await found.see("/sign-in")
        if who is not None:
            assert (await found.order("/sign-in", key=house.rest.keys[who])).status_code == 303
            await found.see("/runs")
        yield found


def fields_of(house: Furnished) -> dict[str, Any]:
    """What any form of the console may have, about what is the tenant's."""
    named = ("run", "routine", "thread", "digest")
    question, memory = house.one("approval"), house.one("memory")
    return {
        **{noun: house.one(noun) for noun in named},
        **{"chosen": f"{question} {house.one('digest')}", "confirmed": "1", "verdict": "approve", "action": "pause"},
        **{"memory": f"{memory}@1", "version": "1", "agent": "plain", "input": "Go.", "text": "Mine.", "event": "x"},
        **{
            "start": "2026-01-01T00:00Z",
            "end": "2026-01-02T00:00Z",
            "to": "eve",
            "name": "eve",
            "scope": "role:viewer",
        },
    }


async def as_it_is(house: Furnished) -> dict[str, Any]:
    """What an order could have changed."""
    lists = (
        "/v1/runs",
        "/v1/approvals?status=all",
        "/v1/routines",
        "/v1/memories",
        "/v1/keys",
        "/v1/threads",
        "/v1/ticks",
    )
    return {path: sorted(str(one) for one in (await house.rest.ok("GET", path))["data"]) for path in lists}


async def test_a_stranger_finds_nothing_of_another_tenant_on_any_page_and_orders_nothing(house: Furnished) -> None:
    told = {one for noun, ids in house.ids.items() if noun not in {*OF_THE_PROJECT, "file"} for one in ids}
    fields, found = fields_of(house), pages(house)
    wrong: list[tuple[str, str, object]] = []

    async with visitor(house, STRANGER) as stranger:
        before = await as_it_is(house)
        for one in found:
            if one.method == "GET":
                answer = await stranger.see(one.address)
                moved = "/approvals/" in one.address  # to the page itself
                if answer.status_code != (303 if moved else 404) and one.theirs:
                    wrong.append((one.method, one.address, answer.status_code))
            else:
                answer = await stranger.order(one.address, **fields)
            if answer.status_code >= 500:
                wrong.append((one.method, one.address, answer.status_code))
            sent = {*(str(value) for value in fields.values()), one.address}
            leaks = {it for it in told if it in answer.text and not any(it in text for text in (*sent, one.address))}
            wrong += [(one.method, one.address, it) for it in leaks if quote(it, safe="") not in one.address]
        after = await as_it_is(house)

    assert wrong == []
    assert after == before
    assert len([one for one in found if one.theirs]) >= 25


async def test_nobody_sees_a_page_and_no_order_is_taken_from_who_may_not_or_did_not_mean_it(house: Furnished) -> None:
    fields, found = fields_of(house), pages(house)
    orders = [one.address for one in found if one.method == "POST"]
    wrong: list[tuple[str, str, int]] = []

    async with visitor(house, None) as nobody, visitor(house, "viewer") as viewer, visitor(house, "admin") as admin:
        before = await as_it_is(house)
        for one in found:
            if one.method == "GET":
                answer = await nobody.see(one.address)
                to = answer.headers.get("location", "")
                if answer.status_code != 303 or not (
                    to.startswith("/sign-in?next=%2F") or "/approvals/" in one.address
                ):
                    wrong.append(("nobody", one.address, answer.status_code))
        for address in orders:
            told = {"token": admin.token, **fields}
            tried = {
                "nobody": (401, await nobody.order(address, **fields)),
                "viewer": (403, await viewer.order(address, **fields)),
                "a token of another session": (403, await admin.send(address, {**told, "token": viewer.token})),
                "of before signing in": (403, await admin.send(address, {**told, "token": nobody.token})),
                "no token": (403, await admin.send(address, fields)),
                "another site's": (403, await admin.send(address, told, **{"Sec-Fetch-Site": "cross-site"})),
                "a sandboxed page": (403, await admin.send(address, told, Origin="null")),
                "another origin": (403, await admin.send(address, told, Origin="http://127.0.0.1")),
                "as a text": (422, await admin.send(address, told, **{"Content-Type": "text/plain"})),
            }
            for name, (expected, answer) in tried.items():
                refused = answer.status_code == expected or (name == "as a text" and answer.status_code == 400)
                wrong += [] if refused else [(name, address, answer.status_code)]
            by_link = await admin.http.get(f"{address}?{urlencode(told)}", follow_redirects=False)
            wrong += [("a link", address, by_link.status_code)] if by_link.status_code >= 500 else []
        after = await as_it_is(house)

    assert wrong == []
    assert after == before
    assert len(orders) >= 25


async def test_no_way_back_leads_to_another_site(house: Furnished) -> None:
    chosen = f"{house.one('approval')} {house.one('digest')}"
    links: list[str] = []

    async with visitor(house, "admin") as admin:
        for elsewhere in ELSEWHERE:
            query = urlencode({"next": elsewhere, "back": elsewhere})
            moved = [
                await admin.see(f"/sign-in?{query}"),
                await admin.order(f"/runs/cancel?{query}", run="run_0", back=elsewhere),
                await admin.order(f"/inbox/apr_0/decide?{query}", verdict="approve", digest="x", back=elsewhere),
            ]
            assert [answer.status_code for answer in moved] == [303] * 3
            links += [answer.headers["location"] for answer in moved]
            shown = [
                await admin.order("/inbox/decide", verdict="approve", chosen=chosen, back=elsewhere),
                await admin.order("/inbox/decide", verdict="reject", chosen="apr_0 x", back=elsewhere),
            ]
            assert [answer.status_code for answer in shown] == [200] * 2
            links += [link for answer in shown for link in Elements.of(answer.text).links]

    ours = [link for link in links if re.match(r"/(?![/\\])[!-~]*$|#", link) and "\\" not in link]
    assert ours == links
    assert len(links) > 5 * len(ELSEWHERE)


UNREADABLE = {
    **{"half a pair": '{"x": "\\ud800"}', "NUL": '{"x": "\\u0000"}', "NaN": '{"x": NaN}', "too large": '{"x": 1e999}'},
    **{"long number": '{"x":' + "9" * 5_000 + "}", "no object": "[1]", "half": "{", "no end": "[" * 90_000},
    **{f"{deep} deep": '{"x":' + "[" * deep + "]" * deep + "}" for deep in (100, 250)},
}


@pytest.mark.parametrize("name", UNREADABLE)
async def test_an_event_that_no_run_could_read_is_refused_and_not_sent(house: Furnished, name: str) -> None:
    payload = UNREADABLE[name]

    async with visitor(house, "operator") as operator:
        answer = await operator.order("/routines/fire", event="issue.opened", payload=payload)
        said = await operator.see(answer.headers["location"])

    assert answer.status_code == 303
    assert "The payload is no JSON" in said.text


async def test_arguments_that_no_run_could_read_are_not_sent_to_one(house: Furnished) -> None:
    question = house.one("approval")
    digest = (await house.rest.ok("GET", f"/v1/approvals/{question}"))["digest"]
    told = {"verdict": "approve", "digest": digest}

    async with visitor(house, "approver") as approver:
        for deep in (70, 199, 90_000):
            arguments = '{"amount": 5, "note": ' + "[" * deep + "]" * deep + "}"
            answer = await approver.order(f"/inbox/{question}/decide", **told, arguments=arguments)
            assert (answer.status_code, "cannot be read" in answer.text) == (400, True), deep
        answer = await approver.order(f"/inbox/{question}/decide", **told, remember="run", lasts="9" * 5_000)
        assert (answer.status_code, "lasts_seconds" in answer.text) == (400, True)

    assert (await house.rest.ok("GET", f"/v1/approvals/{question}"))["status"] == "pending"


async def test_who_takes_over_the_name_of_a_routine_is_not_told_what_it_did_before(house: Furnished) -> None:
    rest, fired = house.rest, datetime(2026, 11, 1, 6, tzinfo=UTC)
    daily = {"agent": "plain", "input": "Go.", "triggers": {"it": {"cron": "0 6 * * *", "time_zone": "UTC"}}}
    await rest.ok("PUT", "/v1/routines/handed-on", json=daily)
    span = {"start": (fired - timedelta(hours=1)).isoformat(), "end": (fired + timedelta(hours=1)).isoformat()}
    [tick] = (await rest.ok("POST", "/v1/routines/handed-on/backfill", json=span))["ticks"]
    async with asyncio.timeout(30):
        while (await rest.ok("GET", f"/v1/ticks/{tick}"))["status"] != "completed":
            await asyncio.sleep(0.05)
    query = urlencode(span)

    async with visitor(house, "admin") as before, visitor(house, STRANGER) as after:
        shown = await before.see(f"/routines/handed-on/backfill?{query}")
        await rest.ok("DELETE", "/v1/routines/handed-on")
        await rest.ok("PUT", "/v1/routines/handed-on", STRANGER, json=daily)
        seen = await after.see(f"/routines/handed-on/backfill?{query}")

    assert (quote(tick) in shown.text or tick in shown.text, "completed" in shown.text) == (True, True)
    assert seen.status_code == 200
    assert [word for word in (tick, quote(tick), "completed") if word in seen.text] == []


async def test_a_key_that_is_shown_counts_and_not_the_cookie_beside_it(house: Furnished) -> None:
    keys = house.rest.keys
    async with visitor(house, "admin") as admin:
        as_viewer = {"Authorization": f"Bearer {keys['viewer']}"}
        wrong = {"Authorization": f"Bearer {keys['viewer'][:-4]}AAAA"}
        tried = [(await admin.http.get("/v1/keys", headers=headers)).status_code for headers in ({}, as_viewer, wrong)]
        order = await admin.send("/routines/daily-0/pause", {"token": admin.token}, **as_viewer)
        by_cookie = [
            (await admin.http.request(method, path, json={})).status_code
            for method, path in (("POST", "/v1/runs"), ("DELETE", "/v1/keys/x"), ("POST", "/toolboxes/shop/mcp"))
        ]

    assert tried == [200, 403, 401]
    assert (order.status_code, by_cookie) == (403, [401] * 3)


async def test_times_that_no_clock_shows_are_refused(house: Furnished) -> None:
    home = f"/routines/{house.one('routine')}"
    asked = (
        *(f"{home}/backfill?start={year}-01-01T00:00" for year in ("0001", "1800", "9999")),
        *(f"{home}/preview?start={year}-12-31T23:59%2B14:00" for year in ("0001", "9999")),
        *("/calendar?start=0001-01-01", "/calendar?start=9999-12-31", "/calendar?zone=../../etc/passwd"),
    )

    async with visitor(house, "admin") as admin:
        statuses = {path: (await admin.see(path)).status_code for path in asked}
        paused = await admin.order(f"{home}/pause", until="0001-01-01T00:00")
        said = await admin.see(paused.headers["location"])

    assert statuses == dict.fromkeys(asked, 422)
    assert "a time is of the years" in said.text
    assert (await house.rest.ok("GET", f"/v1{home}"))["paused"] is False


class Elements(HTMLParser):
    """What a page is made of. `bad`: what nobody of ours has written into it."""

    def __init__(self) -> None:
        super().__init__()
        self.bad: list[str] = []
        self.links: list[str] = []

    @classmethod
    def of(cls, text: str) -> Elements:
        """Of a page."""
        found = cls()
        found.feed(text)
        return found

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        named = dict(attrs)
        if tag == "script" and not str(named.get("src")).startswith("/static/"):
            self.bad.append(f"<{tag} {attrs}>")
        if tag in ("img", "iframe", "object", "embed", "base", "style"):
            self.bad.append(f"<{tag} {attrs}>")
        self.bad += [f"<{tag} {name}>" for name in named if name.startswith("on") or name == "style"]
        self.links += [str(named[name]) for name in ("href", "action", "src", "formaction") if name in named]


async def test_whatever_something_is_called_stays_text_on_every_page(house: Furnished) -> None:
    rest, routine = house.rest, house.one("routine")
    for name in (HOSTILE, "eve', 'ana", "role:admin", "{{ 7 * 7 }}"):
        await ApiKeys(rest.engine.ledger).create(name, ("role:viewer",), tenant="default", by=HOSTILE)
    await rest.ok("POST", f"/v1/routines/{routine}/pause", json={"note": HOSTILE})
    thread, run = house.one("thread"), house.ids["run"][-1]
    await rest.ok("PUT", f"/v1/threads/{thread}/files/{quote(HOSTILE.replace('/', '|'), safe='')}", content=b"<script>")
    await rest.ok(
        "POST", f"/v1/threads/{thread}/messages", json={"text": f"{HOSTILE} [x](javascript:alert(1)) &#60;b>"}
    )
    await rest.ok("POST", f"/v1/runs/{run}/feedback", json={"verdict": "positive", "note": HOSTILE})
    memory = house.one("memory")
    await rest.ok("PATCH", f"/v1/memories/{memory}", json={"text": HOSTILE})
    told = {"forked_from": "javascript:alert(1)", HOSTILE[:64]: HOSTILE}
    await rest.ok("POST", "/v1/runs", json={"agent": "plain", "input": HOSTILE, "metadata": told})
    wrong: list[tuple[str, object]] = []
    shown = 0

    async with visitor(house, "admin") as admin:
        words = urlencode({name: HOSTILE for name in ("text", "q", "agent", "tool", "status", "by", "zone", "scope")})
        for one in pages(house):
            for address in (one.address, f"{one.address}?{words}") if one.method == "GET" else ():
                answer = await admin.see(address)
                if answer.status_code not in (200, 303, 400, 404, 422):
                    wrong.append((address, answer.status_code))
                if answer.status_code == 303:
                    continue
                if "html" not in answer.headers["content-type"]:
                    saved = answer.headers.get("content-disposition", "").startswith("attachment")
                    wrong += [] if saved else [(address, answer.headers["content-type"])]
                    continue
                found = Elements.of(answer.text)
                wrong += [(address, it) for it in found.bad]
                wrong += [(address, it) for it in found.links if not it.startswith(("/", "#", "?"))]
                if "default-src 'none'" not in answer.headers.get("content-security-policy", ""):
                    wrong.append((address, "no policy"))
                if "<img" in answer.text:
                    wrong.append((address, "an image"))
                shown += "&lt;img src=x" in answer.text
        file = await rest("GET", f"/v1/threads/{thread}/files/{quote(HOSTILE.replace('/', '|'), safe='')}")

    assert wrong == []
    assert shown > 10
    assert (file.headers["content-type"], file.headers["x-content-type-options"]) == (
        "application/octet-stream",
        "nosniff",
    )
    assert re.fullmatch(r"attachment; filename\*=UTF-8''[A-Za-z0-9%._~-]+", file.headers["content-disposition"])
