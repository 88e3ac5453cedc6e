"""Several agents on one engine: each says its own lines, and the inbox is one for all of them."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from typing import Any

from activities.models.base import ModelRequest, RequestedCall, Turn
from horarium.definitions import Agent
from horarium.ledger.agents import Agents
from horarium.ledger.approvals import ApprovalRecord
from tests.support.engine import PATIENCE, Engine, call

Line = Turn | Exception | Callable[[ModelRequest], Any]


class Cast:
    """Who says what: each agent has lines of its own, and the last of them is said again and again."""

    def __init__(self, engine: Engine) -> None:
        self.engine = engine
        self.lines: dict[str, list[Line]] = {}
        self.requests: dict[str, list[ModelRequest]] = {}
        engine.model.lines[:] = [self.said]

    async def agent(self, name: str, *lines: Line, **more: Any) -> Agent:
        """An agent that the ledger knows, with its lines."""
        self.lines[name] = list(lines)
        agent = Agent(name, model=f"scripted:{name}", **more)
        await Agents(self.engine.ledger).register(agent)
        return agent

    async def said(self, request: ModelRequest) -> Turn:
        name = request.model.rpartition(":")[2]
        self.requests.setdefault(name, []).append(request)
        lines = self.lines[name]
        line = lines.pop(0) if len(lines) > 1 else lines[0]
        if callable(line):
            line = line(request)
            if asyncio.iscoroutine(line):
                line = await line
        if isinstance(line, Exception):
            raise line
        assert isinstance(line, Turn)
        return line

    def heard(self, name: str) -> list[tuple[str, str]]:
        """Role and text of what an agent was asked last."""
        return [(message.role, message.text) for message in self.requests[name][-1].messages]


def hands(to: str, task: str = "Do it.", id: str = "h1") -> RequestedCall:
    return call(to, id, task=task)


async def until_asked(engine: Engine, count: int = 1) -> list[ApprovalRecord]:
    """Wait until the inbox over all runs has so many questions."""
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while len(found := await engine.client.approvals()) < count:
            await asyncio.sleep(0.02)
    return found


async def approve(engine: Engine, asked: ApprovalRecord, by: str = "ann") -> None:
    run = engine.client.run(asked.run_id)
    approval = next(item for item in await run.approvals() if item.id == asked.id)
    await run.approve(approval, by=by)
