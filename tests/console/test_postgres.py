"""The console and REST on PostgreSQL: a world that the engine made there reads exactly as its copy in SQLite."""

from __future__ import annotations

import html
import json
import re
from collections import Counter
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
from typing import Any

import httpx2
import pytest
from sqlalchemy import insert, select
from temporalio.testing import WorkflowEnvironment

from horarium.client import Client
from horarium.gateway.serving import Serving, serving
from horarium.ledger.database import Ledger
from horarium.ledger.schema import metadata
from horarium.settings import Settings
from schedules.previews import preview
from tests.gateway.conftest import PATIENT, of_gateway
from tests.gateway.furnished import AS_OFTEN_AS_LIKED, FURNISHED, Furnished, furnished
from tests.gateway.operations import operations
from tests.support.postgres import postgres_url

OPEN = PATIENT.model_copy(update={"limits": AS_OFTEN_AS_LIKED, "hooks": FURNISHED.hooks})
FIRST = ("/inbox", "/runs", "/routines", "/calendar", "/agents", "/memory", "/system")
OF_THE_LEDGER = ("/system", "/system/settings")  # they say which database it is
OF_ONE_SHAPE = 2  # pages that differ in nothing but whose they are
TEXTS = ("PAY", "%", "_", "\\", "'", "É")
# What people type into the filters, and that a database could take for something else.
FILTERS = (
    *(f"/inbox?{name}" for name in ("status=all", "kind=approval", "agent=payer", "tool=pay", "mine=on")),
    *(f"/inbox?status=all&q={text}" for text in ("PAY", "%25", "_", "%5C", "%27", "%C3%89")),
    *(f"/runs?text={text}" for text in ("GO", "%25", "_", "%5C", "%27", "%C3%89")),
    *(f"/runs?{name}" for name in ("status=open", "agent=clerk", "routine=daily-0", "by=admin", "by=ADMIN")),
    *(f"/routines?{name}" for name in ("text=DAILY", "text=%25", "stands=paused", "stands=active")),
    *(f"/memory?{name}" for name in ("status=quarantined", "kind=semantic", "scope=user", "text=LATE", "text=%25")),
    *(f"/system/audit?{name}" for name in ("by=admin", "kind=approval.requested", "subject=x")),
    "/routines/daily-0?status=completed",
    "/memory/deliveries?status=failed",
    "/agents?text=CL",
)
UNNAMEABLE = ("/runs?text=%00", "/inbox/a%00b", "/routines/%00", "/memory?text=a%00", "/v1/runs?agent=%00")


@dataclass
class Both:
    """Two gateways before the same world."""

    house: Furnished
    here: Serving
    copy: Serving
    http: httpx2.AsyncClient

    async def ask(self, path: str, **params: Any) -> tuple[httpx2.Response, list[str]]:
        """The answer from PostgreSQL, and how the one from SQLite differs."""
        key = {"Authorization": f"Bearer {self.house.rest.keys['admin']}"} if path.startswith("/v1") else {}
        here, copy = [
            await self.http.get(served.url + path, params=params or None, headers=key)
            for served in (self.here, self.copy)
        ]
        if here.status_code != copy.status_code:
            return here, [f"{here.status_code} instead of {copy.status_code}"]
        lines = zip(_told(here, self.here).splitlines(), _told(copy, self.copy).splitlines(), strict=False)
        return here, [f"{one[:300]!r} instead of {other[:300]!r}" for one, other in lines if one != other]


@pytest.fixture(scope="module")
async def both(env: WorkflowEnvironment, tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[Both]:
    directory = tmp_path_factory.mktemp("both")
    with postgres_url() as url, pytest.MonkeyPatch.context() as patch:
        patch.setenv("FURNISHED_HOOK", "x" * 40)
        patch.setenv("HORARIUM_LEDGER__URL", url)
        async with furnished(env, directory, OPEN, each=2) as house, AsyncExitStack() as stack:
            patch.delenv("HORARIUM_LEDGER__URL")
            engine = house.rest.engine
            settings = Settings(root=directory)
            ledger = await Ledger.open(settings)
            stack.push_async_callback(ledger.close)
            assert (engine.ledger.is_sqlite, ledger.is_sqlite) == (False, True)
            await _copy(engine.ledger, ledger)
            client = Client(env.client, ledger, settings)
            more: Any = {"host": "127.0.0.1", "port": 0, "preview": preview}
            here = await stack.enter_async_context(serving(engine.client, of_gateway(engine.settings, OPEN), **more))
            copy = await stack.enter_async_context(serving(client, of_gateway(settings, OPEN), **more))
            http = await stack.enter_async_context(httpx2.AsyncClient(timeout=60))
            yield Both(house, here, copy, http)


async def test_every_page_says_the_same(both: Both) -> None:
    found: list[tuple[str, int, list[str]]] = []
    waiting, seen, shapes = [*FIRST, *FILTERS, *(await _second_pages(both))], set[str](), Counter[str]()
    while waiting:
        path = waiting.pop(0)
        shape = re.sub(r"=[^&]*", "=", re.sub(r"\b[a-z]+_[0-9A-Z]{26}\b|routine\.[^/?&]+|\d+", "*", path))
        shapes[shape] += path not in seen
        if path in seen or (shapes[shape] > OF_ONE_SHAPE and path not in FILTERS):
            continue
        seen.add(path)
        answer, differs = await both.ask(path)
        found.append((path, answer.status_code, [] if path in OF_THE_LEDGER else differs))
        if answer.headers.get("content-type", "").startswith("text/html"):
            waiting += _links(answer.text)

    assert [one for one in found if one[1] not in (200, 303) or one[2]] == []
    assert {"/runs/*", "/inbox/*", "/routines/daily-*", "/agents/clerk", "/threads/*", "/ticks/*"} <= set(shapes)


async def test_every_list_has_the_same_in_it_whatever_is_asked_for(both: Both) -> None:
    document = (await both.ask("/v1/openapi.json"))[0].json()
    found: list[tuple[str, Any, int, list[str]]] = []
    for operation in operations(document):
        if operation.method != "GET" or operation.id == "runs_events":
            continue
        for asked in _queries(operation.said, both.house):
            for _ in range(2):
                answer, differs = await both.ask(operation.address(both.house), **asked)
                found.append((operation.id, asked, answer.status_code, differs))
                following = answer.json().get("next") if "next" in answer.text else None
                if not following:
                    break
                asked = {**asked, "cursor": following}

    assert [one for one in found if one[2] != 200 or one[3]] == []
    assert len({one[0] for one in found if "cursor" in one[1]}) >= 12


async def test_what_postgresql_cannot_keep_is_refused_and_not_taken_for_its_absence(both: Both) -> None:
    answers = {path: await both.ask(path) for path in UNNAMEABLE}

    assert {path: (answer.status_code, differs) for path, (answer, differs) in answers.items()} == dict.fromkeys(
        UNNAMEABLE, (422, [])
    )


async def _copy(here: Ledger, there: Ledger) -> None:
    async with here.read() as reading, there.write() as writing:
        for table in metadata.sorted_tables:
            await writing.execute(table.delete())
            rows = [dict(row._mapping) for row in await reading.execute(select(table))]
            if rows:
                await writing.execute(insert(table), rows)


async def _second_pages(both: Both) -> list[str]:
    """Pages of the console from where a page of REST ends."""
    found = []
    for noun, page in (("runs", "/runs"), ("approvals", "/inbox"), ("memories", "/memory")):
        answer, _ = await both.ask(f"/v1/{noun}", limit=1)
        found.append(f"{page}?cursor={answer.json()['next']}")
    return found


def _links(page: str) -> Iterator[str]:
    for link in re.findall(r'href="([^"#]+)', page):
        path = html.unescape(link)
        # A week leads to the next, and that to the one after.
        if re.match(r"/(?!/|static/|sign-in|calendar\?|v1/openapi)", path):
            yield path


def _queries(said: dict[str, Any], house: Furnished) -> Iterator[dict[str, Any]]:
    known = {"run": house.one("run"), "thread": house.one("thread"), "tick": house.one("tick"), "routine": "daily-0"}
    known |= {"agent": "clerk", "tool": "pay", "user": "ANA", "subject": house.one("approval"), "owner": "clerk"}
    needed = {"other": house.ids["run"][1]} if "other" in json.dumps(said.get("parameters", ())) else {}
    yield needed
    for parameter in said.get("parameters", ()):
        name, schema = parameter["name"], json.dumps(parameter["schema"])
        if parameter["in"] != "query" or name == "other":
            continue
        if name == "limit":
            yield {"limit": 1}
        elif name == "text":
            yield from ({name: text} for text in TEXTS)
        elif name in known:
            yield {name: known[name]}
        else:
            choices = re.findall(r'"enum": \[([^]]*)\]', schema)
            yield from ({name: value.strip(' "')} for choice in choices for value in choice.split(","))


def _told(answer: httpx2.Response, served: Serving) -> str:
    """Without what is new at every look: the form's token, a key, how long ago, pictures that end now, a signature."""
    text = answer.text.replace(str(served.port), "PORT")
    text = re.sub(r'name="(token|key)" value="[^"]*"', "", text)
    text = re.sub(r"(<time [^>]*>)[^<]*", r"\1", re.sub(r"<svg.*?</svg>", "", text, flags=re.DOTALL))
    text = re.sub(r'"made":\{[^}]*\},"signature":"[^"]*"', "", text)
    return re.sub(r"\b\d+(\.\d+)? ?(ms|s|min|h|(milli)?seconds?|minutes?|hours?|just now)\b", "T", text)
