"""Whoever reaches Temporal's port: a workflow of their own that asks for the engine's activities."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from typing import Any

from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.worker import Worker

from horarium.contract import ENGINE_QUEUE
from horarium.ids import new_run_id
from horarium.protocol import CALL_TOOL, Payload, ToolOutcome, ToolStep
from tests.support.engine import Engine


@workflow.defn(name="Intruder", sandboxed=False)
class Intruder:
    """Whoever reaches Temporal's port can ask for activities as well."""

    @workflow.run
    async def run(self, activity: str, payload: Any) -> Any:
        return await workflow.execute_activity(
            activity,
            payload,
            task_queue=ENGINE_QUEUE,
            start_to_close_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


async def ask_for(engine: Engine, activity: str, payload: Payload, *, id: str | None = None) -> Any:
    """Have a workflow of this id ask, as the run of this id would."""
    queue = f"intruder-{new_run_id()}"
    async with Worker(engine.env.client, task_queue=queue, workflows=[Intruder]):
        made = engine.env.client.execute_workflow(
            Intruder.run,
            args=[activity, payload.model_dump(mode="json")],
            id=id or new_run_id(),
            task_queue=queue,
            execution_timeout=timedelta(seconds=30),
        )
        return await asyncio.wait_for(made, 40)


async def intrude(engine: Engine, step: ToolStep) -> ToolOutcome:
    return ToolOutcome.model_validate(await ask_for(engine, CALL_TOOL, step))
