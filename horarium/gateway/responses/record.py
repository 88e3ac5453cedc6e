"""One response as the ledger has it: a part of a run's steps, and what became of it.

A run that waits for approvals, or for functions that the client carries out, ends the response that shows it so far;
what happens afterwards is another response of the same run. Where one ends is read from the approvals and from the
calls, so every process sees the same parts.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from horarium.client import Client
from horarium.contract import OPEN_STATUSES
from horarium.errors import NotFound
from horarium.gateway.responses.names import ResponseName, no_response
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.functions import FunctionCall, Functions, RunFunctions
from horarium.ledger.journal import SETTLED, StepRecord
from horarium.ledger.runs import RunRecord
from horarium.structured import AnswerSchema
from horarium.turns import stored_turn

OURS = "horarium.response"  # in a run's metadata
SUMMARY = "summary"  # the name of a model call that compacts a thread; it says nothing to anybody
ResponseStatus = Literal["queued", "in_progress", "completed", "incomplete", "failed", "cancelled"]


class AskedFor(BaseModel):
    """What a request said about its response; kept with the run, without what was said in it."""

    model_config = ConfigDict(frozen=True, extra="ignore")

    previous: str | None = None
    in_conversation: bool = False
    background: bool = False
    store: bool = True
    deleted: bool = False
    max_output_tokens: int | None = None
    max_tool_calls: int | None = None
    format: dict[str, Any] | None = None  # of its text, without the schema

    @classmethod
    def of(cls, run: RunRecord) -> AskedFor:
        """Of a run; of one that was started in another way, the defaults."""
        try:
            return cls.model_validate_json(run.metadata.get(OURS, "{}"))
        except ValidationError:
            return cls()

    def as_metadata(self) -> dict[str, str]:
        """To be kept with the run."""
        return {OURS: self.model_dump_json(exclude_defaults=True)}


@dataclass(frozen=True)
class Part:
    """The steps that one response shows.

    `approvals`: those that were asked, without those taken back undecided. `calls`: all that its client was to carry
    out. `functions`: those that it said it could.
    """

    name: ResponseName
    run: RunRecord
    steps: Sequence[StepRecord]
    approvals: Sequence[ApprovalRecord]
    asked_for: AskedFor = field(default_factory=AskedFor)
    calls: Sequence[FunctionCall] = ()
    functions: RunFunctions = field(default_factory=RunFunctions)

    @cached_property
    def schema(self) -> dict[str, Any] | None:
        """What its answer has to fit."""
        found = AnswerSchema.of(self.run.metadata)
        return found.json_schema if found is not None else None

    @cached_property
    def given(self) -> dict[int, FunctionCall]:
        """The calls that the client was to carry out, by their steps."""
        return {call.step: call for call in self.calls}

    @cached_property
    def _answered_or_open(self) -> list[FunctionCall]:
        """Of these, all but those taken back with the run's end."""
        return [call for call in self.calls if not self.is_taken_back(call)]

    def is_taken_back(self, call: FunctionCall) -> bool:
        """Whether the run has ended before the client carried it out."""
        return call.ended == "withdrawn" or (call.waits and self.run.closed_at is not None)

    @cached_property
    def turns(self) -> list[int]:
        """The numbers of the model's turns, in order."""
        return [step.number for step in self.steps if step.kind == "model_call" and step.name != SUMMARY]

    def turn_of(self, number: int) -> int:
        """The turn that asked for a call."""
        place = bisect_left(self.turns, number)
        return self.turns[place - 1] if place else number - 1

    @cached_property
    def ends(self) -> list[int]:
        """The turns after which the run waited for approvals, or for its client."""
        asked = (*(approval.guards for approval in self.approvals), *(call.step for call in self._answered_or_open))
        return sorted({self.turn_of(number) for number in asked})

    @cached_property
    def upto(self) -> int | None:
        """The turn after which this part waits for answers; None: it goes to the end of the run."""
        return next((turn for turn in self.ends if turn > (self.name.after or 0)), None)

    @cached_property
    def asks(self) -> list[ApprovalRecord]:
        """The approvals at its end."""
        return [a for a in self.approvals if self.upto is not None and self.turn_of(a.guards) == self.upto]

    @cached_property
    def wants(self) -> list[FunctionCall]:
        """The calls at its end that its client carries out."""
        return [c for c in self._answered_or_open if self.upto is not None and self.turn_of(c.step) == self.upto]

    @cached_property
    def guards(self) -> dict[int, str]:
        """The approval of each call that has one."""
        return {approval.guards: approval.id for approval in self.approvals}

    @cached_property
    def shown(self) -> list[StepRecord]:
        """Its turns and calls, in order."""
        return [step for step in self.steps if self._shows(step)]

    def _shows(self, step: StepRecord) -> bool:
        after, upto = self.name.after or 0, self.upto
        if step.kind == "model_call":
            return step.name != SUMMARY and step.number > after and (upto is None or step.number <= upto)
        if step.kind not in ("tool_call", "handoff"):
            return False
        turn = self.turn_of(step.number)
        if step.number in self.guards:  # what was approved is shown by whoever comes after the approval
            return turn >= after if upto is None else after <= turn < upto
        return turn > after and (upto is None or turn <= upto)

    def is_next(self, step: StepRecord) -> bool:
        """Whether everything before a step of this part is known, so that its place among the items is certain."""
        if self.run.closed_at is not None:
            return True
        turn = self.turn_of(step.number) if step.kind != "model_call" else step.number
        return all(number in self._known for number in range(turn + 1, step.number))

    @cached_property
    def _known(self) -> set[int]:
        return {step.number for step in self.steps} | set(self.guards)

    @cached_property
    def waits_for_answers(self) -> bool:
        """Whether it has come to its end at approvals or calls of its client's; all else of its last turn is done."""
        if self.upto is None:
            return False
        others = [step for step in self.shown if step.number > self.upto and step.number not in self.given]
        if not all(self.is_settled(step) for step in others):
            return False
        # A call has no step until somebody has begun it.
        wanted = next((step for step in self.steps if step.number == self.upto), None)
        calls = stored_turn((wanted.output if wanted is not None else None) or "{}").calls
        known = len(others) + len(self.asks) + len(self.wants) >= sum(call.problem is None for call in calls)
        return known or self.run.closed_at is not None or any(turn > self.upto for turn in self.turns)

    def is_settled(self, step: StepRecord) -> bool:
        """Whether nothing more is coming of a step; of a run that has ended, nothing is."""
        return step.status in SETTLED or self.run.closed_at is not None

    @property
    def status(self) -> ResponseStatus:
        """In the words of the protocol."""
        if self.waits_for_answers:
            return "completed"
        match self.run.status:
            case "requires_action":
                return "in_progress"
            case "expired":
                return "failed"
            case status:
                return status

    @property
    def ended(self) -> bool:
        """Whether nothing of it will change any more."""
        return self.waits_for_answers or self.run.status not in OPEN_STATUSES

    @property
    def previous(self) -> str | None:
        """The response that it goes on with."""
        if self.name.after is None:
            return self.asked_for.previous
        earlier = [turn for turn in self.ends if turn < self.name.after]
        return str(ResponseName(self.name.run, earlier[-1] if earlier else None))

    @property
    def created_at(self) -> datetime:
        """When it was asked for; of a later part, when the one before came to its end.

        Not when it was answered: that reaches the ledger a moment later, and an event is the same whenever it is made.
        """
        after = self.name.after
        asked = [a.requested_at for a in self.approvals if self.turn_of(a.guards) == after]
        asked += [call.asked_at for call in self.calls if self.turn_of(call.step) == after]
        return max(asked, default=self.run.created_at)

    @property
    def completed_at(self) -> datetime | None:
        """When it came to its end."""
        if self.waits_for_answers:
            return max((*(a.requested_at for a in self.asks), *(call.asked_at for call in self.wants)))
        return self.run.closed_at


class Reader:
    """Reads one response again and again; steps that are settled are read once."""

    def __init__(self, client: Client, name: ResponseName) -> None:
        self._client = client
        self._approvals = Approvals(client.require_ledger())
        self._functions = Functions(client.require_ledger())
        self._name = name
        self._own: RunFunctions | None = None
        self._steps: dict[int, StepRecord] = {}
        self._settled_upto = 0

    async def read(self) -> Part:
        """How it is now."""
        # In this order: a run that has ended has all its steps, a question's step comes with its approval, and a call
        # that a client carries out is shown before its step is begun.
        run = await self._client.run_record(self._name.run)
        for step in await self._client.run(run.id).steps(after=self._settled_upto):
            self._steps[step.number] = step
        while self._settled_upto + 1 in self._steps and self._steps[self._settled_upto + 1].status in SETTLED:
            self._settled_upto += 1
        asked = {step.number for step in self._steps.values() if step.kind == "approval"}
        found = await self._approvals.of_run(run.id) if asked else []
        approvals = [a for a in found if a.kind == "approval" and a.step in asked and a.status != "withdrawn"]
        steps = [self._steps[number] for number in sorted(self._steps)]
        called = any(step.kind == "tool_call" for step in steps)
        calls = await self._functions.calls(run.id) if called else []
        if self._own is None:
            self._own = await self._functions.of_run(run.id)
        begun = [call for call in calls if call.step in self._steps]
        return Part(self._name, run, steps, approvals, AskedFor.of(run), begun, self._own)


async def find(client: Client, name: ResponseName, *, tenant: str, agent: str | None = None) -> Part:
    """A response that a caller may see.

    Args:
        agent: Whose it has to be. None: any agent's.

    Raises:
        ResponseNotFound: There is none, it was deleted or not stored, or it is another tenant's.
    """
    try:
        run = await client.run_record(name.run, tenant=tenant)
        await client.thread_record(run.thread_id, tenant=tenant)
    except NotFound as error:
        raise no_response(name) from error
    asked_for = AskedFor.of(run)
    if asked_for.deleted or not asked_for.store or agent not in (None, run.agent):
        raise no_response(name)
    part = await Reader(client, name).read()
    if name.after is not None and name.after not in part.ends:
        raise no_response(name)
    return part
