"""Keeps a query from putting a run out of step with its own history.

A query that waited while no worker was alive is answered, on the next one, from a history whose end no workflow task
has seen yet: the SDK acts on those events, keeps the run in that state, and brings what else the real workflow task has
(updates, say) apart from them. The order in which commands are then recorded is not the one that a replay makes, and
from the next restart on the run is stuck (TMPRL1100). So the task that follows is failed here, once: the server gives
it again at once, and the run is read afresh, in step. Seen with temporalio 1.35.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import structlog
from temporalio.worker import WorkflowInstance, WorkflowInstanceDetails, WorkflowRunner

if TYPE_CHECKING:
    from temporalio.bridge.proto.workflow_activation import WorkflowActivation
    from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

log = structlog.get_logger()

_LOOKING = {"query_workflow", "remove_from_cache"}


class AlignedRunner(WorkflowRunner):
    """Any runner, its instances watched."""

    def __init__(self, runner: WorkflowRunner) -> None:
        self._runner = runner

    def prepare_workflow(self, defn: Any) -> None:
        """As the runner does."""
        self._runner.prepare_workflow(defn)

    def create_instance(self, det: WorkflowInstanceDetails) -> WorkflowInstance:
        """As the runner does, watched."""
        return _Aligned(self._runner.create_instance(det))

    def set_worker_level_failure_exception_types(self, types: Sequence[type[BaseException]]) -> None:
        """As the runner does."""
        self._runner.set_worker_level_failure_exception_types(types)


class _Aligned(WorkflowInstance):
    def __init__(self, instance: WorkflowInstance) -> None:
        self._instance = instance
        self._length = 0
        self._time = 0
        self._ahead = False

    def activate(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        """Act, unless the run went ahead of its workflow tasks before."""
        if any(job.WhichOneof("variant") not in _LOOKING for job in act.jobs):
            if self._ahead:
                return self._out_of_step(act)
            # A workflow task that was started brings its time; a longer history without one was read for a query.
            time = act.timestamp.ToNanoseconds()
            self._ahead = act.history_length > self._length and time == self._time
            self._length, self._time = act.history_length, time
        return self._instance.activate(act)

    def _out_of_step(self, act: WorkflowActivation) -> WorkflowActivationCompletion:
        from temporalio.bridge.proto.workflow_completion import WorkflowActivationCompletion

        log.info("run.read_afresh", run=self._instance.get_info().workflow_id)
        completion = WorkflowActivationCompletion(run_id=act.run_id)
        completion.failed.failure.message = "A query had taken this run ahead of its workflow tasks; it is read afresh."
        return completion

    def get_serialization_context(self, command_info: Any) -> Any:
        """As the instance does."""
        return self._instance.get_serialization_context(command_info)

    def get_external_store_context(self, command_info: Any) -> Any:
        """As the instance does."""
        return self._instance.get_external_store_context(command_info)

    def get_info(self) -> Any:
        """As the instance does."""
        return self._instance.get_info()

    def get_thread_id(self) -> int | None:
        """As the instance does."""
        return self._instance.get_thread_id()
