"""Who asks for too much is told when to come back; others notice nothing."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest
from pydantic import ValidationError
from starlette.datastructures import Headers

from horarium.gateway import ratelimits
from horarium.gateway.ratelimits import RateLimits
from horarium.settings import GatewaySettings, LimitSettings
from tests.engine.conftest import World
from tests.gateway.conftest import Serve
from tests.gateway.rest import STRICT, Rest, rest_of
from tests.support.engine import Engine

NOBODY = "hk_0123456789abcdef_" + "A" * 43


def limited(**limits: Any) -> GatewaySettings:
    return STRICT.model_copy(update={"limits": LimitSettings(**limits)})


async def statuses(rest: Rest, times: int, who: str, path: str = "/v1/runs") -> list[int]:
    return [(await rest("GET", path, who)).status_code for _ in range(times)]


async def test_a_key_that_asks_too_often_waits_and_another_does_not(engine: Engine, world: World, serve: Serve) -> None:
    async with rest_of(engine, serve, limited(per_key="3/second")) as rest:
        burst = await asyncio.gather(*(rest("GET", "/v1/runs", "viewer") for _ in range(12)))
        other = await rest("GET", "/v1/runs", "operator")
        refused = [answer for answer in burst if answer.status_code == 429]
        assert {answer.headers["retry-after"] for answer in refused} == {"1"}
        assert refused[0].headers["content-type"] == "application/problem+json"
        assert refused[0].json()["code"] == "rate_limited"
        openai = await asyncio.gather(*(rest("GET", "/v1/models", "approver") for _ in range(12)))

        async with asyncio.timeout(10):  # after Retry-After it is let in again
            while (await rest("GET", "/v1/runs", "viewer")).status_code == 429:
                await asyncio.sleep(1)

    assert other.status_code == 200
    shapes = [answer.json()["error"]["type"] for answer in openai if answer.status_code == 429]
    assert shapes
    assert set(shapes) == {"rate_limit_error"}


async def test_the_keys_of_a_tenant_share_what_it_may_ask_for(engine: Engine, world: World, serve: Serve) -> None:
    async with rest_of(engine, serve, limited(per_tenant="4/hour")) as rest:
        own = await statuses(rest, 3, "viewer") + await statuses(rest, 3, "admin")

        assert (own, await statuses(rest, 1, "stranger")) == ([200, 200, 200, 200, 429, 429], [200])


async def test_wrong_keys_count_more_than_requests(engine: Engine, world: World, serve: Serve) -> None:
    async with rest_of(engine, serve, limited(per_address="100/hour", failure_weight=40)) as rest:
        rest.keys["guesser"] = NOBODY
        good, guesses = await statuses(rest, 10, "viewer"), await statuses(rest, 4, "guesser")

        assert (good, guesses) == ([200] * 10, [401, 401, 401, 429])
        assert await statuses(rest, 1, "viewer") == [429]  # it is the address that waits


@pytest.mark.parametrize(("proxies", "apart"), [((), False), (("127.0.0.1",), True)])
async def test_only_a_proxy_of_ours_is_believed_for_whom_it_asks(
    engine: Engine, world: World, serve: Serve, proxies: tuple[str, ...], apart: bool
) -> None:
    settings = limited(per_address="2/hour").model_copy(update={"proxies": proxies})
    async with rest_of(engine, serve, settings) as rest:

        async def ask(forwarded: str) -> int:
            return (await rest("GET", "/v1/runs", "viewer", headers={"X-Forwarded-For": forwarded})).status_code

        first = [await ask(f"10.9.9.{n}, 203.0.113.7") for n in range(3)]  # what a caller makes up stands on the left
        other = await ask("203.0.113.8")

    assert (first, other) == ([200, 200, 429], 200 if apart else 429)


@pytest.mark.parametrize(
    ("peer", "forwarded", "address"),
    [
        (("203.0.113.7", 1), None, "203.0.113.7"),
        (("203.0.113.7", 1), "198.51.100.1", "203.0.113.7"),
        (("10.0.0.2", 1), "198.51.100.1", "198.51.100.1"),
        (("10.0.0.2", 1), "1.2.3.4, 198.51.100.1, 10.0.0.3", "198.51.100.1"),
        (("10.0.0.2", 1), None, "10.0.0.2"),
        (("10.0.0.2", 1), "nonsense", "nonsense"),
        (("2001:db8:1:2:aaaa::1", 1), None, "2001:db8:1:2::/64"),
        (("2001:db8:1:2:bbbb::9", 1), None, "2001:db8:1:2::/64"),
        (None, None, "local"),
    ],
)
def test_an_address_is_the_nearest_that_is_no_proxy(peer: Any, forwarded: str | None, address: str) -> None:
    headers = Headers({"x-forwarded-for": forwarded} if forwarded else {})

    assert RateLimits(LimitSettings(), ("10.0.0.0/8",)).address_of({"client": peer}, headers) == address


async def test_ever_new_addresses_fill_no_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(ratelimits, "MOST_WINDOWS", 100)
    windows = ratelimits.Windows()

    for number in range(1_000):
        await windows.incr(f"address {number}", 3_600)

    assert await windows.get("address 999") == 1
    assert await windows.reset() == 100


async def test_windows_that_are_over_go() -> None:
    now = 1_000.0
    windows = ratelimits.Windows(lambda: now)
    for number in range(50):
        await windows.incr(f"address {number}", 1)
    now += 2

    counts = [await windows.incr(f"later {number}", 1) for number in range(50)]

    assert (set(counts), await windows.get("address 1")) == ({1}, 0)
    assert await windows.reset() == 50


async def test_a_store_that_is_away_keeps_nobody_waiting(capsys: pytest.CaptureFixture[str]) -> None:
    limits = RateLimits(LimitSettings(per_address="5/hour", storage="async+redis://127.0.0.1:1"))

    async with asyncio.timeout(5):
        waits = [await limits.wait_of_address("203.0.113.7") for _ in range(7)]

    assert [wait is None for wait in waits] == [True] * 5 + [False] * 2  # it counts by itself
    assert capsys.readouterr().out.count("gateway.limits_away") == 1


@pytest.mark.parametrize(
    "wrong",
    [
        {"per_key": "many"},
        {"per_key": "0/second"},
        {"storage": "memcached://host"},
        {"storage": "async+redis://u:secret@host"},
    ],
)
def test_limits_that_cannot_be_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        LimitSettings(**wrong)


async def test_a_thousand_requests_at_once_from_one_key_are_below_the_limits() -> None:
    limits = RateLimits(LimitSettings())

    for _ in range(1_000):
        assert await limits.wait_of_address("203.0.113.7") is None
        assert await limits.wait_of_caller("hk_1", "default") is None
