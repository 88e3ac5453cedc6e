"""Approvals by the protocol's own items: asked in one response, answered in the request for the next."""

from __future__ import annotations

import json
from typing import Any

import openai
import pytest

from horarium.definitions import Agent, ApprovalRule
from horarium.ledger.agents import Agents
from tests.gateway.responses.conftest import Desk
from tests.gateway.responses.schema import check_event, check_response
from tests.gateway.responses.test_streams import events_of
from tests.support.cast import Cast, approve, hands, until_asked
from tests.support.engine import asks, call, says


def answer(request: Any, approve: bool = True, **more: Any) -> Any:
    """One item that answers an approval request."""
    return {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": approve, **more}


async def test_a_call_waits_for_its_approval_and_goes_on_in_the_same_run(desk: Desk) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", amount=30)), says("Paid."))

    asked = await client.responses.create(model="clerk", input="Pay 30.")
    request = asked.output[-1]
    assert request.type == "mcp_approval_request"
    done = await client.responses.create(model="clerk", input=[answer(request)], previous_response_id=asked.id)

    assert (asked.status, request.name, json.loads(request.arguments)) == ("completed", "pay", {"amount": 30})
    assert done.output[0].type == "mcp_call"
    assert (done.output[0].approval_request_id, done.output[0].output) == (request.id, "paid 30")
    assert (done.status, done.output_text, done.previous_response_id) == ("completed", "Paid.", asked.id)
    approval = (await desk.engine.client.approvals(status=None))[0]
    assert (approval.decided_by, approval.status) == ("approver", "approved")
    assert len(await desk.engine.client.runs()) == 1


async def test_both_responses_of_a_run_are_retrieved_as_they_were(desk: Desk) -> None:
    client, http = await desk.client("approver"), await desk.http()
    desk.says(asks(call("look", "c0"), call("pay", amount=30)), says("Paid."))
    asked = await client.responses.create(model="clerk", input="Pay 30.")
    done = await client.responses.create(model="clerk", input=[answer(asked.output[-1])])

    for response in (asked, done):
        found = (await http.get(f"/v1/responses/{response.id}")).json()
        events = await events_of(http, "GET", f"/v1/responses/{response.id}", params={"stream": True})
        check_response(found)
        for event in events:
            check_event(event)
        assert found == response.to_dict() == events[-1]["response"]
    assert [item.type for item in asked.output] == ["mcp_call", "mcp_approval_request"]


async def test_a_rejection_and_its_reason_reach_the_model(desk: Desk, world: Any) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", amount=30)), says("Then not."))

    asked = await client.responses.create(model="clerk", input="Pay 30.")
    done = await client.responses.create(model="clerk", input=[answer(asked.output[-1], False, reason="Too much.")])

    assert done.output[0].type == "mcp_call"
    assert done.output[0].error.type == "mcp_tool_execution_error"  # type: ignore[union-attr]
    assert "Too much." in str(done.output[0].error.content)  # type: ignore[union-attr]
    check_response(done.to_dict())
    assert done.output_text == "Then not."
    assert "Too much." in desk.engine.model.heard()[-1][1]
    assert world.effects == []


async def test_a_stream_ends_with_the_request_and_the_next_one_goes_on(desk: Desk) -> None:
    http = await desk.http("approver")
    desk.says(asks(call("pay", amount=30)), says("Paid."))

    asked = await events_of(http, "POST", "/v1/responses", json={"model": "clerk", "input": "Pay.", "stream": True})
    request = asked[-1]["response"]["output"][-1]
    item = {"type": "mcp_approval_response", "approval_request_id": request["id"], "approve": True}
    done = await events_of(http, "POST", "/v1/responses", json={"model": "clerk", "input": [item], "stream": True})

    assert [event["type"] for event in asked[-3:]] == [
        "response.output_item.added",
        "response.output_item.done",
        "response.completed",
    ]
    assert done[-1]["response"]["status"] == "completed"
    assert [item["type"] for item in done[-1]["response"]["output"]] == ["mcp_call", "message"]


async def test_a_client_that_sends_the_whole_conversation_along_approves_as_well(desk: Desk) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", amount=30)), says("Paid."))
    said: list[Any] = [{"role": "user", "content": "Pay 30."}]

    asked = await client.responses.create(model="clerk", input=said)
    said += [item.to_dict() for item in asked.output]
    done = await client.responses.create(model="clerk", input=[*said, answer(asked.output[-1])])

    assert done.output_text == "Paid."


async def test_whoever_may_not_decide_does_not(desk: Desk) -> None:
    operator, approver = await desk.client("operator"), await desk.client("approver")
    plan = (ApprovalRule(tools=("pay",), approvers=("ana",)),)
    await Agents(desk.engine.ledger).register(Agent("guarded", model="scripted:test", tools=["pay"], approvals=plan))
    desk.says(asks(call("pay", amount=30)), says("Paid."))

    asked = await operator.responses.create(model="guarded", input="Pay 30.")
    for client in (operator, approver):
        with pytest.raises(openai.PermissionDeniedError):
            await client.responses.create(model="guarded", input=[answer(asked.output[-1])])

    assert (await desk.engine.client.approvals())[0].status == "pending"


async def test_the_first_answer_counts(desk: Desk) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", amount=30)), asks(call("ship", item="box")), says("Done."))
    asked = await client.responses.create(model="clerk", input="Pay 30.")
    await client.responses.create(model="clerk", input=[answer(asked.output[-1])])

    again = await client.responses.create(model="clerk", input=[answer(asked.output[-1])])
    with pytest.raises(openai.ConflictError):
        await client.responses.create(model="clerk", input=[answer(asked.output[-1], False)])

    assert again.output[-1].type == "mcp_approval_request"


async def test_answers_to_some_of_the_requests_leave_the_response_in_progress(desk: Desk) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", "c1", amount=1), call("pay", "c2", amount=2)), says("Paid."))
    asked = await client.responses.create(model="clerk", input="Pay both.")
    one, two = asked.output

    half = await client.responses.create(model="clerk", input=[answer(one)])
    whole = await client.responses.create(model="clerk", input=[answer(two)])

    assert half.status == "in_progress"
    assert whole.id == half.id
    assert (whole.status, [item.type for item in whole.output]) == ("completed", ["mcp_call", "mcp_call", "message"])


async def test_a_response_that_waits_is_gone_on_with_by_answers_only(desk: Desk) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", amount=30)), says("Paid."))
    asked = await client.responses.create(model="clerk", input="Pay 30.")

    with pytest.raises(openai.BadRequestError) as other:
        await client.responses.create(model="clerk", input="Hello?", previous_response_id=asked.id)
    with pytest.raises(openai.BadRequestError) as both:
        await client.responses.create(
            model="clerk", input=[answer(asked.output[-1]), {"role": "user", "content": "Hurry."}]
        )

    assert other.value.code == "approval_response_missing"
    assert both.value.param == "input"


async def test_what_is_said_after_an_approval_goes_on_with_the_conversation(desk: Desk) -> None:
    client = await desk.client("approver")
    desk.says(asks(call("pay", amount=30)), says("Paid."), says("Thirty."))
    asked = await client.responses.create(model="clerk", input="Pay 30.")
    done = await client.responses.create(model="clerk", input=[answer(asked.output[-1])])

    after = await client.responses.create(model="clerk", input="How much?", previous_response_id=done.id)

    assert after.output_text == "Thirty."
    assert [text for _, text in desk.engine.model.heard()[-4:]] == ["", "paid 30", "Paid.", "How much?"]


async def test_a_sub_agents_question_is_told_with_where_it_is_answered(desk: Desk) -> None:
    client, cast = await desk.client("operator"), Cast(desk.engine)
    await cast.agent("payer", asks(call("pay", "p1", amount=7)), says("Paid 7."), tools=["pay"])
    await cast.agent("chief", asks(hands("payer", "Pay 7.")), says("All done."), agents=["payer"])

    waits = await client.responses.create(model="chief", input="Go.")
    (asked,) = await until_asked(desk.engine)
    await approve(desk.engine, asked)
    done = await desk.until(client, waits.id, "completed")

    check_response(waits.to_dict())
    note: Any = waits.output[-1]
    assert (waits.status, note.phase) == ("in_progress", "commentary")
    assert asked.id in note.content[0].text
    assert asked.run_id in note.content[0].text
    assert [item.type for item in done.output] == ["mcp_call", "message"]
    assert done.output_text == "All done."
