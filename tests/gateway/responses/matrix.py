"""What a program does with the official client for Python, the blocking one; `matrix.mjs` does it in JavaScript."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any

import openai
from pydantic import BaseModel

from tests.gateway.responses.schema import check_event, check_response

RUNNING = ("queued", "in_progress")
CITY = {
    "type": "object",
    "properties": {"city": {"type": "string"}},
    "required": ["city"],
    "additionalProperties": False,
}
WEATHER: Any = {"type": "function", "name": "get_weather", "strict": True, "parameters": CITY}


class Place(BaseModel):
    """What is asked for as JSON."""

    shelf: str


def told(events: Iterable[Any]) -> dict[str, Any]:
    """What a stream said."""
    seen = list(events)
    for event in seen:
        check_event(event.to_dict())
    return {
        "types": [event.type.removeprefix("response.") for event in seen],
        "numbered": [event.sequence_number for event in seen]
        == list(range(seen[0].sequence_number, seen[0].sequence_number + len(seen))),
        "text": "".join(event.delta for event in seen if event.type == "response.output_text.delta"),
    }


def refused(ask: Callable[[], Any]) -> Any:
    """Which exception a client makes of a refusal."""
    try:
        ask()
    except openai.APIStatusError as error:
        return [type(error).__name__, error.status_code, error.type, error.code, error.param]
    return "not refused"


def run(base_url: str, api_key: str, say: Callable[[str, Any], None], wait: Callable[[], None]) -> None:
    """All of it. `say`: what it saw; `wait`: until it is told to go on."""
    model = "clerk"
    client = openai.OpenAI(base_url=base_url, api_key=api_key, max_retries=0, timeout=30)
    say("models", [one.id for one in client.models.list()])

    plain = client.responses.create(model=model, input="How is it?", metadata={"ticket": "7"})
    assert plain.usage is not None
    say("plain", [plain.status, plain.output_text, plain.usage.total_tokens, plain.metadata, plain.model])

    say("stream", told(client.responses.create(model=model, input="Look.", stream=True)))

    with client.responses.stream(model=model, input="How is it?") as helper:
        helped = "".join(event.delta for event in helper if event.type == "response.output_text.delta")
        final = helper.get_final_response()
    say("helper", [helped, final.output_text, final.status])

    parsed = client.responses.parse(model=model, input="Where?", text_format=Place).output_parsed
    say("parse", parsed.model_dump() if parsed is not None else None)

    begun = client.responses.create(model=model, input="Go.", background=True)
    later, until = begun, time.monotonic() + 30
    while later.status in RUNNING and time.monotonic() < until:
        time.sleep(0.05)
        later = client.responses.retrieve(begun.id)
    say("background", [begun.background, begun.status in RUNNING, later.status, later.output_text])

    whole = list(client.responses.retrieve(begun.id, stream=True))
    say("starting_after", list(client.responses.retrieve(begun.id, stream=True, starting_after=3)) == whole[4:])

    following = client.responses.create(model=model, input="And now?", previous_response_id=plain.id)
    say("next", [following.output_text, following.previous_response_id == plain.id])

    asked = client.responses.create(model=model, input="Pay 30.")
    request: Any = asked.output[-1]
    answer: Any = {"type": "mcp_approval_response", "approval_request_id": request.id, "approve": True}
    paid = client.responses.create(model=model, input=[answer], previous_response_id=asked.id)
    kinds = [item.type for item in paid.output]
    say("approval", [request.type, request.name, request.arguments, kinds, paid.output_text])

    given: list[str] = []
    items: Any = [{"role": "user", "content": "How is Oslo?"}]
    while True:
        answered = client.responses.create(model=model, input=items, tools=[WEATHER])
        calls = [item for item in answered.output if item.type == "function_call"]
        if not calls:
            break
        given += [item.arguments for item in calls]
        items += answered.output
        items += [{"type": "function_call_output", "call_id": item.call_id, "output": "cold"} for item in calls]
    say("functions", [given, answered.output_text])

    conversation = client.conversations.create(items=[{"type": "message", "role": "user", "content": "I am Ana."}])
    greeted = client.responses.create(model=model, input="Greet me.", conversation=conversation.id)
    page: Any = client.conversations.items.list(conversation.id, order="asc", limit=2)
    said = [item.content[0].text for item in page]
    say("conversation", [greeted.conversation is not None and greeted.conversation.id == conversation.id, said])
    say("conversation gone", client.conversations.delete(conversation.id).deleted)

    waiting = client.responses.create(model=model, input="Pay 40.")
    cancelled = client.responses.cancel(waiting.id)
    say("cancel", [waiting.output[-1].type, cancelled.status])
    for response in (plain, begun, later, following, asked, paid, greeted, waiting, cancelled):
        check_response(response.to_dict())

    client.responses.delete(plain.id)
    say("deleted", refused(lambda: client.responses.retrieve(plain.id)))

    wrong_key = client.with_options(api_key="hk_wrong")
    elsewhere = client.with_options(default_headers={"Origin": "http://evil.example"})
    say("wrong key", refused(lambda: wrong_key.responses.create(model=model, input="Go.")))
    say("wrong origin", refused(elsewhere.models.list))
    say("no such model", refused(lambda: client.responses.create(model="nobody", input="Go.")))
    nonsense = {"nonsense": 1}
    say("unknown parameter", refused(lambda: client.responses.create(model=model, input="Go.", extra_body=nonsense)))
    say("too large", refused(lambda: client.responses.create(model=model, input="x" * 2_000_000)))
    say("not kept", refused(lambda: client.responses.create(model=model, input="\x00")))
    say("nowhere", refused(lambda: client.get("/responses/resp_1/nowhere", cast_to=object)))
    say("not done", refused(lambda: client.put("/responses", cast_to=object)))

    before = []
    with client.responses.create(model=model, input="Wait.", stream=True) as dropped:
        for event in dropped:
            before.append(event)
            if event.type == "response.mcp_call.in_progress":
                break  # the block's end closes its socket
    say("dropped", before[-1].type)
    wait()
    first: Any = before[0]
    last = before[-1].sequence_number
    after = client.responses.retrieve(first.response.id, stream=True, starting_after=last)
    say("taken up", told([*before, *after]))
    client.close()
