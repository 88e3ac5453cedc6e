"""Where workflow code runs: what takes microseconds on the worker's own loop, a replay on a thread.

Handing an activation to a thread and back costs more than most of them take. What reads a history again, or brings
many signals at once, may take long, and must not keep the worker from its heartbeats.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import ParamSpec, TypeVar

from temporalio.bridge.proto.workflow_activation import WorkflowActivation

MOST_JOBS = 8

P = ParamSpec("P")
T = TypeVar("T")


class ActivationExecutor(ThreadPoolExecutor):
    """Threads for the activations that may take long; the others are done before `submit` returns."""

    def submit(self, fn: Callable[P, T], /, *args: P.args, **kwargs: P.kwargs) -> Future[T]:
        """As `Executor.submit`."""
        if not (args and isinstance(args[0], WorkflowActivation) and _is_short(args[0])):
            return super().submit(fn, *args, **kwargs)
        future: Future[T] = Future()
        loop = asyncio._get_running_loop()  # workflow code has a loop of its own, and leaves none behind
        try:
            future.set_result(fn(*args, **kwargs))
        except BaseException as error:
            future.set_exception(error)
        finally:
            asyncio._set_running_loop(loop)
        return future


def _is_short(activation: WorkflowActivation) -> bool:
    return not activation.is_replaying and len(activation.jobs) <= MOST_JOBS
