"""The yardstick: the same agent loop as anyone would write it on Temporal, and the worker that runs it.

One model activity and one tool activity a turn, the SDK's defaults, and the whole message list in each payload:
that is what engines do which hand their run's context to every activity. Who writes it by hand may send the tool
its call alone; that is measured too, `to="model"`.
Started as a process of its own: python -m bench.bare ADDRESS
"""

from __future__ import annotations

import asyncio
import sys
from datetime import timedelta
from typing import Literal

from temporalio import activity, workflow
from temporalio.client import Client
from temporalio.contrib.pydantic import pydantic_data_converter
from temporalio.worker import Worker

with workflow.unsafe.imports_passed_through():
    from pydantic import BaseModel

QUEUE = "bench-bare"
KILOBYTE = "x" * 1_000
TIMEOUT = timedelta(minutes=1)


class ToolCall(BaseModel):
    """A call that the model asks for."""

    id: str
    name: str
    arguments: dict[str, str]


class Message(BaseModel):
    """One message of the conversation."""

    role: str
    text: str
    calls: list[ToolCall] = []


class Ask(BaseModel):
    """All that the model is told, and how many turns its script has."""

    turns: int
    messages: list[Message]


@activity.defn(name="bare_model")
async def bare_model(ask: Ask) -> Message:
    """The fake model: a kilobyte and a call each turn, and at the end a kilobyte alone."""
    turn = sum(message.role == "assistant" for message in ask.messages)
    calls = [ToolCall(id=f"c{turn}", name="read", arguments={"n": str(turn)})] if turn < ask.turns else []
    return Message(role="assistant", text=KILOBYTE, calls=calls)


class Act(BaseModel):
    """One call, and with it the conversation or nothing."""

    call: ToolCall
    messages: list[Message] = []


class Loop(BaseModel):
    """How many turns, and who is sent the conversation."""

    turns: int
    to: Literal["each", "model"] = "each"


@activity.defn(name="bare_tool")
async def bare_tool(act: Act) -> Message:
    """The tool: a kilobyte."""
    return Message(role="tool", text=KILOBYTE)


@workflow.defn(name="BareLoop")
class BareLoop:
    """Ask the model, do what it asks, repeat."""

    @workflow.run
    async def run(self, loop: Loop) -> str:
        """Until the model asks for nothing more."""
        messages = [Message(role="user", text=KILOBYTE)]
        while True:
            said = await workflow.execute_activity(
                bare_model, Ask(turns=loop.turns, messages=messages), start_to_close_timeout=TIMEOUT
            )
            messages.append(said)
            if not said.calls:
                return said.text
            for call in said.calls:
                act = Act(call=call, messages=messages if loop.to == "each" else [])
                messages.append(await workflow.execute_activity(bare_tool, act, start_to_close_timeout=TIMEOUT))


@workflow.defn(name="Nothing")
class Nothing:
    """What the server alone costs: a workflow that is over at once."""

    @workflow.run
    async def run(self) -> None:
        """Do nothing."""


async def serve(address: str) -> None:
    """Serve until killed."""
    client = await Client.connect(address, data_converter=pydantic_data_converter)
    worker = Worker(client, task_queue=QUEUE, workflows=[BareLoop, Nothing], activities=[bare_model, bare_tool])
    await worker.run()


if __name__ == "__main__":
    asyncio.run(serve(sys.argv[1]))
