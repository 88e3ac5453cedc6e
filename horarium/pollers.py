"""Who asks a task queue for work: the server's own knowledge of which workers there are."""

from __future__ import annotations

import socket

from temporalio.api.enums.v1 import TaskQueueType
from temporalio.api.taskqueue.v1 import TaskQueue
from temporalio.api.workflowservice.v1 import DescribeTaskQueueRequest
from temporalio.client import Client as TemporalClient

from horarium.contract import ENGINE_QUEUE
from horarium.stack import is_alive


async def polling(temporal: TemporalClient, queue: str) -> frozenset[str]:
    """The identities (`pid@host`) of those who asked in the last minutes; one that died is among them for as long.

    Raises:
        RPCError: The server does not answer.
    """
    runs = queue == ENGINE_QUEUE  # every other queue has tool calls only
    kind = TaskQueueType.TASK_QUEUE_TYPE_WORKFLOW if runs else TaskQueueType.TASK_QUEUE_TYPE_ACTIVITY
    described = await temporal.workflow_service.describe_task_queue(
        DescribeTaskQueueRequest(namespace=temporal.namespace, task_queue=TaskQueue(name=queue), task_queue_type=kind)
    )
    return frozenset(poller.identity for poller in described.pollers)


def may_live(identity: str) -> bool:
    """Whether one of these may still be there: those of this host can be looked for."""
    pid, _, host = identity.partition("@")
    return host != socket.gethostname() or not pid.isdecimal() or is_alive(int(pid))
