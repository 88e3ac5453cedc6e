"""The engine of the engine's tests, a gateway with its console, and a browser."""

from __future__ import annotations

from collections.abc import AsyncIterator

import pytest
from playwright.async_api import Browser

from tests.console.browser import Console, a_browser, console_of
from tests.engine.conftest import World, engine, env, world
from tests.gateway.conftest import PATIENT, Serve, serve
from tests.gateway.rest import STRICT, Rest, rest_of
from tests.support.engine import Engine

__all__ = ["engine", "env", "serve", "world"]


@pytest.fixture(scope="session")
async def browser() -> AsyncIterator[Browser]:
    async with a_browser() as found:
        yield found


@pytest.fixture
async def rest(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    """A gateway that lets whoever is on this machine in."""
    async with rest_of(engine, serve, PATIENT) as found:
        yield found


@pytest.fixture
async def strict(engine: Engine, world: World, serve: Serve) -> AsyncIterator[Rest]:
    """A gateway that asks for a key."""
    async with rest_of(engine, serve, STRICT) as found:
        yield found


@pytest.fixture
async def console(browser: Browser, rest: Rest) -> AsyncIterator[Console]:
    """Somebody on this machine, at a desk."""
    async with console_of(browser, rest) as found:
        yield found
