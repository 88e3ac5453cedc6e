"""A request goes on with a run that waits: it decides about approvals, and brings outputs of functions.

Which run that is, the answers say themselves, so a client may send the whole conversation along instead of the id of
the response before. Everything is safe to send again.
"""

from __future__ import annotations

from horarium.client import Client
from horarium.contract import Decision, Verdict
from horarium.errors import ApprovalNotFound, FunctionCallNotFound, NotFound
from horarium.gateway.auth import Caller
from horarium.gateway.responses.errors import BadParameter
from horarium.gateway.responses.inputs import ApprovalAnswer, FunctionOutput, Said
from horarium.gateway.responses.names import ResponseName, approval_of, call_of, read_response, thread_of
from horarium.gateway.responses.record import Part, Reader
from horarium.gateway.responses.requests import CreateResponse
from horarium.gateway.roles import NotAllowed, Role
from horarium.ledger.approvals import ApprovalRecord


async def go_on(client: Client, caller: Caller, body: CreateResponse, said: Said, *, agent: str | None) -> ResponseName:
    """Take a request's answers to what a run waits for; the response that begins with what became of them.

    Raises:
        BadParameter: They are of no run, or of more than one, or of another than the request says.
        NotAllowed: It decides about approvals, and the caller may not.
        OutputRefused: Another output was first.
        Conflict: It does not count.
    """
    if said.answers and caller.role < Role.APPROVER:
        raise NotAllowed("To answer approval requests needs the role approver.", hint="Use a key with role:approver.")
    asked = [await _asked(client, caller, answer, agent) for answer in said.answers]
    called = [await _called(client, caller, output, agent) for output in said.outputs]
    runs = {approval.run_id for approval in asked} | {run for run, _ in called}
    if len(runs) > 1:
        raise BadParameter("input", "These answers are for more than one response.")
    run = runs.pop()
    if body.previous_response_id is not None and read_response(body.previous_response_id).run != run:
        raise BadParameter("previous_response_id", "That response has not asked for these answers.")
    part = await Reader(client, ResponseName(run)).read()
    if body.conversation_id is not None and thread_of(body.conversation_id) != part.run.thread_id:
        raise BadParameter("conversation", "These answers are for a response of another conversation.")
    _goes_on_with_its_functions(body, part)
    turns = {part.turn_of(approval.guards) for approval in asked}
    if len(turns) > 1:
        raise BadParameter("input", "These approval requests are of more than one response.")
    turns |= {part.turn_of(step) for _, step in called}
    if said.outputs:
        await _submit(client, caller, run, said.outputs)
    for approval, answer in zip(asked, said.answers, strict=True):
        verdict: Verdict = "approve" if answer.approve else "reject"
        decision = Decision(
            approval=approval.id, digest=approval.digest, by=caller.name, verdict=verdict, comment=answer.reason
        )
        await client.decide(run, decision)
    return ResponseName(run, max(turns))


async def _submit(client: Client, caller: Caller, run: str, outputs: tuple[FunctionOutput, ...]) -> None:
    given: dict[str, str] = {}
    for one in outputs:
        if given.setdefault(one.call_id, one.output) != one.output:
            raise BadParameter(one.where, f"There are two outputs for function call {one.call_id}.")
    try:
        await client.run(run).submit_tool_outputs(given, by=caller.name)
    except FunctionCallNotFound as error:
        named = next((one for one in outputs if one.call_id in str(error)), outputs[0])
        raise _no_call(named) from error


async def _asked(client: Client, caller: Caller, answer: ApprovalAnswer, agent: str | None) -> ApprovalRecord:
    try:
        approval = await client.approval(approval_of(answer.request), tenant=caller.tenant)
    except ApprovalNotFound:
        approval = None
    if approval is None or approval.kind != "approval" or agent not in (None, approval.agent):
        raise ApprovalNotFound(f"There is no approval request '{answer.request}'.")
    return approval


async def _called(client: Client, caller: Caller, output: FunctionOutput, agent: str | None) -> tuple[str, int]:
    called = call_of(output.call_id)
    if called is None:
        raise _no_call(output)
    try:
        run = await client.run_record(called[0], tenant=caller.tenant)
    except NotFound as error:
        raise _no_call(output) from error
    if agent not in (None, run.agent):
        raise _no_call(output)
    return called


def _no_call(output: FunctionOutput) -> BadParameter:
    return BadParameter(output.where, f"No tool call found for function call output with call_id {output.call_id}.")


def _goes_on_with_its_functions(body: CreateResponse, part: Part) -> None:
    """Refuse functions that the run does not have: it was begun with others, and they stay as they are.

    What has to be called first was said of the run's first turn; here it is not read.
    """
    known = {function.name: function for function in part.functions.functions}
    for place, function in enumerate(body.model_copy(update={"tool_choice": None}).functions().functions):
        if known.get(function.name) != function:
            raise BadParameter(
                f"tools[{place}]", f"The run goes on with the functions that it began with; {function.name!r} is new."
            )
