"""A request becomes a run: which agent, which thread, which limits, which functions of its client's."""

from __future__ import annotations

from horarium.client import Client
from horarium.definitions import ENDPOINT_PREFIX, Agent, Limits
from horarium.errors import AgentNotFound, NotFound, RunExists, ThreadBusy
from horarium.gateway.auth import Caller
from horarium.gateway.responses.errors import BadParameter
from horarium.gateway.responses.going_on import go_on
from horarium.gateway.responses.inputs import Said, read_input
from horarium.gateway.responses.names import ResponseName, read_response, thread_of
from horarium.gateway.responses.record import AskedFor, find
from horarium.gateway.responses.requests import CreateResponse
from horarium.ids import run_id_for_key
from horarium.ledger.runs import Runs


async def respond(
    client: Client, caller: Caller, body: CreateResponse, *, agent: str | None, key: str | None
) -> ResponseName:
    """Start what a request asks for, or go on with it.

    Args:
        agent: Of the path. None: the request's `model`.
        key: The same key, for the same request, is the same response.

    Raises:
        BadParameter: Something of it cannot be honoured.
        AgentNotFound, ResponseNotFound, ThreadNotFound: What it names is not there.
        NotAllowed: It decides about approvals, and the caller may not.
        Conflict: What it goes on with is not at its end.
    """
    body.check()
    said = read_input(body)
    if said.answers or said.outputs:
        return await go_on(client, caller, body, said, agent=agent)
    name = agent or body.model
    if name is None:
        raise BadParameter("model", "Missing required parameter: 'model'.", "missing_required_parameter")
    if name.startswith(ENDPOINT_PREFIX):  # it stands for a toolbox that is served, and has no model to ask
        raise AgentNotFound(f"There is no agent {name!r}.")
    definition = (await client.agent(name)).agent
    taken = [one.name for one in body.functions().functions if one.name in (*definition.tools, *definition.agents)]
    if taken:
        raise BadParameter("tools", f"The agent has a tool {taken[0]!r} of its own: give the function another name.")
    if key is not None:
        known = await _known(client, caller, key, definition, said)
        if known is not None:
            return known
    thread = await _thread(client, caller, body, agent)
    asked_for = AskedFor(
        previous=body.previous_response_id,
        in_conversation=body.conversation_id is not None,
        background=bool(body.background),
        store=body.store is not False,
        max_output_tokens=body.max_output_tokens,
        max_tool_calls=body.max_tool_calls,
        format=body.answer_format,
    )
    functions = body.functions()
    run = await client.start(
        name,
        said.text,
        key=_own(key) if key is not None else None,
        thread=thread,
        tenant=caller.tenant,
        requested_by=caller.name,
        limits=_limits(definition, body),
        metadata={**(body.metadata or {}), **asked_for.as_metadata()},
        functions=functions.functions,
        choice=functions.choice,
        output_schema=body.output_schema,
    )
    return ResponseName(run.id)


def _own(key: str) -> str:
    """So that no key of another protocol meets one of this."""
    return f"responses/{key}"


async def _known(client: Client, caller: Caller, key: str, agent: Agent, said: Said) -> ResponseName | None:
    """The response that this key stands for. Looked for first: to go on with a thread twice may fork it."""
    asked = await Runs(client.require_ledger()).asked(run_id_for_key(caller.tenant, _own(key)))
    if asked is None:
        return None
    if (asked.run.agent, asked.input) != (agent.name, said.text):
        raise RunExists(f"The key {key!r} was used before for another request.", hint="Use a new key.")
    return ResponseName(asked.run.id)


async def _thread(client: Client, caller: Caller, body: CreateResponse, agent: str | None) -> str | None:
    if body.conversation_id is not None:
        thread = await client.thread_record(thread_of(body.conversation_id), tenant=caller.tenant)
        if thread.open_run is not None:
            raise ThreadBusy("Another response of this conversation has not ended.", hint="Wait for it, or cancel it.")
        return thread.id
    if body.previous_response_id is None:
        return None
    try:
        before = await find(client, read_response(body.previous_response_id), tenant=caller.tenant, agent=agent)
    except NotFound as error:
        words = f"Previous response with id '{body.previous_response_id}' not found."
        raise BadParameter("previous_response_id", words, "previous_response_not_found") from error
    if before.run.closed_at is None and before.waits_for_answers:
        open_call = next((call for call in before.wants if call.waits), None)
        if open_call is not None:
            raise BadParameter("input", f"No tool output found for function call {open_call.call_id}.")
        words = "That response waits for approvals: answer them with items of type 'mcp_approval_response'."
        raise BadParameter("input", words, "approval_response_missing")
    return (await client.thread_after(before.run.id, before.run.thread_id, tenant=caller.tenant)).id


def _limits(agent: Agent, body: CreateResponse) -> Limits | None:
    """The agent's own, and never more than these."""
    wanted = {"max_output_tokens": body.max_output_tokens, "max_tool_calls": body.max_tool_calls}
    given = {name: value for name, value in wanted.items() if value is not None}
    if not given:
        return None
    own = agent.limits
    return own.model_copy(update={name: min(value, getattr(own, name) or value) for name, value in given.items()})
