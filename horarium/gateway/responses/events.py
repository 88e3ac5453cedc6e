"""The events of a streamed response, made from what the ledger has, so any process can go on with a stream.

A response always has the same events in the same order with the same numbers, however often and from wherever it is
looked at: text is cut at fixed places, and items wait for those before them.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from horarium.gateway.responses import output
from horarium.gateway.responses.output import Item
from horarium.gateway.responses.record import Part, ResponseStatus
from horarium.ledger.journal import StepRecord

DELTA_CHARS = 32
Event = dict[str, Any]
_LAST: dict[ResponseStatus, str] = {
    "completed": "response.completed",
    "failed": "response.failed",
    "incomplete": "response.incomplete",
    "cancelled": "response.incomplete",  # the protocol has no event of its own for it
}


@dataclass
class Storyteller:
    """Tells a response as it goes: each look at it brings the events that have become certain since."""

    items: list[Item] = field(default_factory=list)
    last: Event = field(default_factory=dict)  # the one that ends it
    _number: int = 0
    _done: int = 0  # steps that are told to their end
    _open: bool = False  # the item of the next step was begun
    _sent: str = ""  # of its text
    _begun: set[str] = field(default_factory=set)

    @property
    def ended(self) -> bool:
        """Whether all is told."""
        return bool(self.last)

    def tell(self, part: Part) -> list[Event]:
        """What is new."""
        if self.ended:
            return []
        events = self._begin(part)
        shown = part.shown
        while self._done < len(shown):
            step = shown[self._done]
            if not part.is_next(step):
                return events
            told, finished = self._turn(part, step) if step.kind == "model_call" else self._call(part, step)
            events += told
            if not finished:
                return events
            self._done, self._open, self._sent = self._done + 1, False, ""
        if part.ended:
            events += self._end(part)
        return events

    def _event(self, kind: str, **more: Any) -> Event:
        event = {"type": kind, "sequence_number": self._number, **more}
        self._number += 1
        return event

    def _begin(self, part: Part) -> list[Event]:
        first = "queued" if part.asked_for.background else "in_progress"
        stages = [("response.created", first)]
        if part.asked_for.background:
            stages.append(("response.queued", "queued"))
        if part.run.status != "queued":
            stages.append(("response.in_progress", "in_progress"))
        events = []
        for kind, status in stages:
            if kind not in self._begun:
                self._begun.add(kind)
                events.append(self._event(kind, response=output.resource(part, (), begun=status)))
        return events

    def _end(self, part: Part) -> list[Event]:
        events: list[Event] = []
        for approval in part.asks if part.waits_for_answers else ():
            item = output.approval_request(part, approval)
            events += [self._added({**item, "arguments": ""}), self._finished(item)]
        self.last = self._event(_LAST[part.status], response=output.resource(part, self.items))
        return [*events, self.last]

    def _added(self, item: Item) -> Event:
        return self._event("response.output_item.added", output_index=len(self.items), item=item)

    def _finished(self, item: Item) -> Event:
        self.items.append(item)
        return self._event("response.output_item.done", output_index=len(self.items) - 1, item=item)

    # ---- a turn's text

    def _turn(self, part: Part, step: StepRecord) -> tuple[list[Event], bool]:
        settled = part.is_settled(step)
        text = output.said(part, step)
        if not text and not self._open:
            return [], settled
        where = {"item_id": part.name.item("msg", step.number), "output_index": len(self.items), "content_index": 0}
        events: list[Event] = []
        if not self._open:
            self._open = True
            empty = output.text_part("")
            events += [
                self._added(output.message(part, step, None)),
                self._event("response.content_part.added", **where, part=empty),
            ]
        # A turn that was begun again says something else: what was sent cannot be taken back, and the whole text
        # comes with its end.
        while text.startswith(self._sent) and (rest := text[len(self._sent) :]):
            if len(rest) < DELTA_CHARS and not settled:
                break
            delta = rest[:DELTA_CHARS]
            self._sent += delta
            events.append(self._event("response.output_text.delta", **where, delta=delta, logprobs=[]))
        if not settled:
            return events, False
        item = output.message(part, step, text, "completed" if text else "incomplete")
        return [
            *events,
            self._event("response.output_text.done", **where, text=text, logprobs=[]),
            self._event("response.content_part.done", **where, part=output.text_part(text)),
            self._finished(item),
        ], True

    # ---- a call

    def _function(self, part: Part, step: StepRecord) -> list[Event]:
        """A call that the client carries out: what becomes of it, the client says."""
        item = output.function_call(part, step)
        where = {"item_id": item["id"], "output_index": len(self.items)}
        arguments = item["arguments"]
        pieces = [arguments[at : at + DELTA_CHARS] for at in range(0, len(arguments), DELTA_CHARS)]
        return [
            self._added({**item, "arguments": "", "status": "in_progress"}),
            *(self._event("response.function_call_arguments.delta", **where, delta=piece) for piece in pieces),
            self._event("response.function_call_arguments.done", **where, name=item["name"], arguments=arguments),
            self._finished(item),
        ]

    def _call(self, part: Part, step: StepRecord) -> tuple[list[Event], bool]:
        if step.number in part.given:
            return self._function(part, step), True
        settled = part.is_settled(step)
        if not settled and step.status != "claimed" and not self._open:
            return [], False
        events: list[Event] = []
        item = output.call(part, step, done=True)
        where = {"item_id": item["id"], "output_index": len(self.items)}
        if not self._open:
            self._open = True
            arguments = item["arguments"]
            events += [
                self._added(output.call(part, step, done=False)),
                self._event("response.mcp_call.in_progress", **where),
                self._event("response.mcp_call_arguments.delta", **where, delta=arguments),
                self._event("response.mcp_call_arguments.done", **where, arguments=arguments),
            ]
        if not settled:
            return events, False
        end = "response.mcp_call.completed" if item["status"] == "completed" else "response.mcp_call.failed"
        return [*events, self._event(end, **where), self._finished(item)], True


def told(part: Part) -> Item:
    """The whole response as it is now."""
    teller = Storyteller()
    teller.tell(part)
    return output.resource(part, teller.items)
