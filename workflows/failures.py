"""What came of an activity that failed, and carrying on through a cancellation."""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import Coroutine
from typing import Any, TypeVar

from temporalio import workflow
from temporalio.exceptions import (
    ActivityError,
    ApplicationError,
    FailureError,
    TimeoutError,
    TimeoutType,
    is_cancelled_exception,
)

with workflow.unsafe.imports_passed_through():
    from horarium.content import shorten
    from horarium.protocol import NOTE_CHARS

T = TypeVar("T")


def code_of(error: FailureError) -> str:
    """The stable code of what went wrong."""
    cause = _cause(error)
    if isinstance(cause, ApplicationError) and cause.type:
        return cause.type
    return "cancelled" if is_cancelled_exception(error) else "activity_failed"


def words_of(error: FailureError) -> str:
    """What went wrong, in short."""
    cause = _cause(error)
    return shorten(cause.message if isinstance(cause, ApplicationError) else str(cause), NOTE_CHARS)


def nobody_took_it(error: ActivityError) -> bool:
    """Whether no worker began it, so that nothing of it was done."""
    return isinstance(error.cause, TimeoutError) and error.cause.type is TimeoutType.SCHEDULE_TO_START


async def to_the_end(work: Coroutine[Any, Any, T]) -> tuple[T, bool]:
    """Finish what has to be written down, even when a cancellation comes in now; its result, and whether one did."""
    task = asyncio.create_task(work)
    cancelled = False
    while not task.done():
        try:
            await asyncio.shield(task)
        except asyncio.CancelledError:
            cancelled = True
        except Exception:
            break
    return task.result(), cancelled


async def ask_to_end(run: str) -> None:
    """Cancel a child's run by its id, whichever of its executions is the latest.

    Cancelling the child itself would ask the first of them, and be lost on a run that has continued as new.
    """
    with contextlib.suppress(FailureError):  # it has ended by itself
        await workflow.get_external_workflow_handle(run).cancel()


def _cause(error: FailureError) -> BaseException:
    """What an activity raised: a remote one's comes wrapped, a local one's does not."""
    return (error.cause or error) if isinstance(error, ActivityError) else error
