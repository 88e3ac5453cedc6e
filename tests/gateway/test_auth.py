"""Who is let in to an endpoint, and who is not."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from typing import Any

import httpx2
import mcp_types as types
import pytest
from sqlalchemy import update

from horarium.errors import ConfigError, ToolboxNotFound
from horarium.gateway.serving import serving
from horarium.ids import new_run_id
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.schema import api_keys
from horarium.ledger.toolboxes import Toolboxes
from horarium.settings import GatewaySettings
from tests.engine.conftest import World
from tests.gateway.conftest import PATIENT, SHOP, Serve, Shop, keyed, of_gateway
from tests.support.engine import Engine

STRICT = PATIENT.model_copy(update={"anonymous": False})
HELLO: dict[str, Any] = {
    "jsonrpc": "2.0",
    "id": 1,
    "method": "initialize",
    "params": {
        "protocolVersion": "2025-06-18",
        "capabilities": {},
        "clientInfo": {"name": "test", "version": "1"},
    },
}
ACCEPT = {"Accept": "application/json, text/event-stream"}


async def post(url: str, key: str | None = None, body: Any = None, **headers: str) -> httpx2.Response:
    """One request, as any program can make it."""
    bearer = {"Authorization": f"Bearer {key}"} if key is not None else {}
    async with httpx2.AsyncClient(timeout=20) as http:
        return await http.post(url, json=body or HELLO, headers={**ACCEPT, **bearer, **headers})


@pytest.fixture
async def closed(engine: Engine, serve: Serve) -> Shop:
    """The shop, for whoever has a key."""
    await Toolboxes(engine.ledger).register(SHOP)
    await Toolboxes(engine.ledger).register(SHOP.model_copy(update={"name": "vault"}))
    await ApiKeys(engine.ledger).create("somebody", ("toolbox:other",))
    return Shop(await serve(STRICT), engine)


async def key_for(shop: Shop, *scopes: str, **more: Any) -> str:
    _, key = await ApiKeys(shop.engine.ledger).create("desktop", scopes or ("toolbox:shop",), **more)
    return key


async def test_a_key_for_the_toolbox_is_let_in_and_names_who_asks(closed: Shop, world: World) -> None:
    key = await key_for(closed, tenant="acme")

    async with closed.client(key) as client:
        await client.call_tool("look", {})

    called = [run for run in await closed.engine.client.runs(tenant="acme") if run.requested_by]
    assert [(run.requested_by, run.tenant) for run in called] == [("desktop", "acme")]


async def test_every_toolbox_is_open_to_a_key_for_all(closed: Shop) -> None:
    key = await key_for(closed, "toolbox:*")

    assert [(await post(closed.serving.address(name), key)).status_code for name in ("shop", "vault")] == [200, 200]


@pytest.mark.parametrize(
    "said",
    [None, "hk_", "hk_0123456789abcdef_" + "A" * 43, "Bearer", "ümlaut", "hk_0123456789abcdef_" + "A" * 5_000],
)
async def test_without_a_key_that_counts_nobody_is_let_in(closed: Shop, said: str | None) -> None:
    said_headers = {b"Authorization": f"Bearer {said}".encode()} if said is not None else {}
    headers = {name.encode(): value.encode() for name, value in ACCEPT.items()} | said_headers

    async with httpx2.AsyncClient() as http:
        answer = await http.post(closed.url, json=HELLO, headers=headers)

    assert answer.status_code == 401
    assert answer.headers["www-authenticate"].startswith('Bearer realm="horarium"')


async def test_a_key_with_one_letter_changed_is_wrong(closed: Shop) -> None:
    key = await key_for(closed)
    other = key[:-1] + ("A" if key[-1] != "A" else "B")

    assert [(await post(closed.url, said)).status_code for said in (key, other)] == [200, 401]


async def test_a_revoked_key_opens_nothing_from_that_moment_on(closed: Shop) -> None:
    keys = ApiKeys(closed.engine.ledger)
    made, key = await keys.create("laptop", ("toolbox:shop",))
    before = (await post(closed.url, key)).status_code

    await keys.revoke(made.id)

    assert [before, (await post(closed.url, key)).status_code] == [200, 401]


async def test_an_expired_key_opens_nothing(closed: Shop) -> None:
    keys = ApiKeys(closed.engine.ledger)
    made, key = await keys.create("laptop", ("toolbox:shop",), expires_at=datetime.now(UTC) + timedelta(hours=1))
    before = (await post(closed.url, key)).status_code
    async with closed.engine.ledger.write() as connection:
        past = datetime.now(UTC) - timedelta(seconds=1)
        await connection.execute(update(api_keys).where(api_keys.c.id == made.id).values(expires_at=past))

    assert [before, (await post(closed.url, key)).status_code] == [200, 401]


@pytest.mark.parametrize("name", ["vault", "nothing"])
async def test_a_key_for_one_toolbox_does_not_tell_whether_there_are_others(closed: Shop, name: str) -> None:
    answer = await post(closed.serving.address(name), await key_for(closed))

    assert answer.status_code == 403
    assert f'scope="toolbox:{name}"' in answer.headers["www-authenticate"]


@pytest.mark.parametrize("path", ["/", "/toolboxes", "/toolboxes/../shop/mcp", "/toolboxes/shop%2f..%2fvault/mcp"])
async def test_other_paths_lead_nowhere(closed: Shop, path: str) -> None:
    answer = await post(f"http://127.0.0.1:{closed.serving.port}{path}", await key_for(closed))

    assert answer.status_code in (403, 404, 405)


async def test_two_tenants_with_the_same_idempotency_key_never_meet(closed: Shop, world: World) -> None:
    order, texts = new_run_id(), []
    for tenant, item in (("acme", "vase"), ("umbrella", "lamp")):
        async with closed.client(await key_for(closed, tenant=tenant)) as client:
            result = await client.call_tool("ship", {"item": item}, meta=keyed(order))
            texts += [block.text for block in result.content if isinstance(block, types.TextContent)]

    assert texts == ["shipped vase", "shipped lamp"]
    assert [item for _, item in world.effects] == ["vase", "lamp"]


async def test_a_session_stays_with_the_key_that_opened_it(closed: Shop) -> None:
    session = (await post(closed.url, await key_for(closed))).headers["mcp-session-id"]
    ping = {"jsonrpc": "2.0", "id": 2, "method": "tools/list"}

    stolen = await post(closed.url, await key_for(closed), ping, **{"Mcp-Session-Id": session})

    assert stolen.status_code == 404


@pytest.mark.parametrize(
    ("headers", "status"),
    [
        ({"Host": "evil.example.com"}, 421),
        ({"Host": "127.0.0.1"}, 421),
        ({"Host": "localhost:1"}, 421),
        ({"Host": ""}, 421),
        ({"Origin": "http://evil.example.com"}, 403),
        ({"Origin": "null"}, 403),
        ({"Origin": "http://localhost"}, 403),
    ],
)
async def test_a_page_of_another_site_is_refused_before_anything_is_looked_at(
    shop: Shop, headers: dict[str, str], status: int
) -> None:
    assert (await post(shop.url, **headers)).status_code == status


async def test_loopback_names_and_those_of_the_settings_are_let_in(engine: Engine, serve: Serve) -> None:
    await Toolboxes(engine.ledger).register(SHOP)
    settings = PATIENT.model_copy(update={"hosts": ("mcp.example.com",), "origins": ("https://app.example.com",)})
    _, key = await ApiKeys(engine.ledger).create("laptop", ("toolbox:*",))
    shop = Shop(await serve(settings), engine)
    port = shop.serving.port
    tried = ({"Host": f"localhost:{port}"}, {"Host": "MCP.example.com", "Origin": "https://app.example.com"})

    assert [(await post(shop.url, key, **headers)).status_code for headers in tried] == [200, 200]


async def test_a_wrong_key_is_not_taken_for_no_key(shop: Shop) -> None:
    assert [(await post(shop.url)).status_code, (await post(shop.url, "hk_nonsense")).status_code] == [200, 401]


async def test_a_body_that_is_too_large_is_refused(shop: Shop) -> None:
    body = {**HELLO, "padding": "x" * 1_000_001}

    assert (await post(shop.url, body=body)).status_code == 413


async def test_what_is_not_served_is_not_there(engine: Engine, serve: Serve) -> None:
    for name in ("shop", "vault"):
        await Toolboxes(engine.ledger).register(SHOP.model_copy(update={"name": name}))
    served = await serve(PATIENT, toolboxes=("shop",))
    urls = (served.address("shop"), served.address("vault"), served.address("shop").replace("/mcp", "/versions/9/mcp"))

    assert [(await post(url)).status_code for url in urls] == [200, 404, 404]


async def test_elsewhere_than_on_loopback_it_does_not_start_without_keys(engine: Engine) -> None:
    await Toolboxes(engine.ledger).register(SHOP)
    with pytest.raises(ConfigError, match="every call needs an API key"):
        async with serving(engine.client, of_gateway(engine.settings, PATIENT), host="0.0.0.0", port=0):
            pytest.fail("it must not come up")

    await ApiKeys(engine.ledger).create("laptop", ("toolbox:*",))

    async with serving(engine.client, of_gateway(engine.settings, PATIENT), host="0.0.0.0", port=0) as served:
        assert not served.anonymous
        assert (await post(f"http://127.0.0.1:{served.port}/toolboxes/shop/mcp")).status_code == 401


async def test_a_toolbox_that_is_not_there_is_not_served(engine: Engine) -> None:
    with pytest.raises(ToolboxNotFound):
        async with serving(
            engine.client, of_gateway(engine.settings, GatewaySettings()), host="127.0.0.1", port=0, toolboxes=("shop",)
        ):
            pytest.fail("it must not come up")


async def test_too_many_sessions_are_refused_and_those_that_are_open_go_on(engine: Engine, serve: Serve) -> None:
    await Toolboxes(engine.ledger).register(SHOP)
    shop = Shop(await serve(PATIENT.model_copy(update={"max_sessions": 2})), engine)
    answers = [await post(shop.url) for _ in range(3)]

    assert [answer.status_code for answer in answers] == [200, 200, 503]
    ping = {"jsonrpc": "2.0", "id": 2, "method": "ping"}
    session = answers[0].headers["mcp-session-id"]
    assert (await post(shop.url, body=ping, **{"Mcp-Session-Id": session})).status_code == 200
