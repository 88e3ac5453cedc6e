"""Workflow code on the worker's own loop: it leaves the loop as it was, and what may take long gets a thread."""

from __future__ import annotations

import asyncio
import threading

import pytest
from temporalio.bridge.proto.workflow_activation import WorkflowActivation, WorkflowActivationJob

from workers.activations import MOST_JOBS, ActivationExecutor


def as_workflow_code_does(_activation: WorkflowActivation) -> int:
    asyncio._set_running_loop(None)
    return threading.get_ident()


def that_breaks(activation: WorkflowActivation) -> int:
    as_workflow_code_does(activation)
    raise ValueError("a mistake of ours")


async def test_a_short_activation_is_done_here_and_the_loop_goes_on() -> None:
    loop = asyncio.get_running_loop()
    executor = ActivationExecutor()

    done, broken = (executor.submit(code, WorkflowActivation()) for code in (as_workflow_code_does, that_breaks))

    assert asyncio.get_running_loop() is loop
    assert done.result(0) == threading.get_ident()
    with pytest.raises(ValueError, match="a mistake of ours"):
        broken.result(0)
    await asyncio.sleep(0)
    executor.shutdown()


@pytest.mark.parametrize(
    "activation",
    [WorkflowActivation(is_replaying=True), WorkflowActivation(jobs=[WorkflowActivationJob()] * (MOST_JOBS + 1))],
    ids=["a replay", "many jobs"],
)
def test_what_may_take_long_gets_a_thread(activation: WorkflowActivation) -> None:
    with ActivationExecutor() as executor:
        assert executor.submit(lambda _given: threading.get_ident(), activation).result(20) != threading.get_ident()
