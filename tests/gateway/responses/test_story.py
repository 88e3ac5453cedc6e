"""A response told bit by bit has the events of one told at once, whenever it is looked at."""

from __future__ import annotations

import dataclasses
import json
import random
from datetime import UTC, datetime
from typing import Any, get_type_hints

import pytest

from horarium.gateway.responses.events import Storyteller
from horarium.gateway.responses.names import ResponseName
from horarium.gateway.responses.record import Part
from horarium.ledger.approvals import ApprovalRecord
from horarium.ledger.journal import StepRecord
from horarium.ledger.runs import RunRecord

NOW = datetime(2026, 11, 21, tzinfo=UTC)
TEXTS = ("", "Yes.", "Word by word, and more of them. " * 5, "🕯️" * 40)


def made(record: Any, /, **known: Any) -> Any:
    """A record with these fields; the others are empty."""
    hints = get_type_hints(record)
    empty = {int: 0, str: "", datetime: NOW, dict[str, str]: {}}
    values = {field.name: empty.get(hints[field.name]) for field in dataclasses.fields(record)}
    return record(**{**values, **known})


def step(number: int, kind: str, status: str, **more: Any) -> StepRecord:
    record: StepRecord = made(StepRecord, number=number, kind=kind, status=status, name="test:m", **more)
    return record


def moments(dice: random.Random) -> list[tuple[str, list[StepRecord], list[ApprovalRecord]]]:
    """What the ledger had after each change of a run: its status, its steps, its approvals."""
    steps: dict[int, StepRecord] = {}
    approvals: list[ApprovalRecord] = []
    seen: list[tuple[str, list[StepRecord], list[ApprovalRecord]]] = [("queued", [], [])]

    def put(record: StepRecord) -> None:
        steps[record.number] = record
        seen.append(("in_progress", [steps[number] for number in sorted(steps)], list(approvals)))

    number = 0
    for _ in range(dice.randint(1, 4)):
        number += 1
        turn, text = number, dice.choice(TEXTS)
        put(step(turn, "model_call", "claimed"))
        for cut in sorted(dice.sample(range(len(text) + 1), min(3, len(text)))):
            put(step(turn, "model_call", "claimed", partial=text[:cut] or None))
        calls = list(range(turn + 1, turn + 1 + dice.randint(0, 3)))
        asked = dice.random() < 0.4
        wanted = [{"id": f"c{call}", "name": "look", "arguments": "{}"} for call in range(len(calls) + asked)]
        output = json.dumps({"text": text, "calls": wanted})
        put(step(turn, "model_call", "completed", output=output, input_tokens=3))
        number += len(calls)
        if asked:
            number += 2
            approvals.append(made(ApprovalRecord, id=f"apr_{number}", step=number - 1, guards=number, status="pending"))
            put(step(number - 1, "approval", "pending"))
        waiting = [(call, status) for call in calls for status in ("claimed", dice.choice(("completed", "failed")))]
        for call, status in sorted(waiting, key=lambda each: (each[1] != "claimed", dice.random())):
            put(step(call, "tool_call", status, output="it", arguments="{}"))
        if asked:
            put(step(number - 1, "approval", "completed"))
            put(step(number, "tool_call", "claimed", arguments="{}"))
            put(step(number, "tool_call", "completed", output="it", arguments="{}"))
    status, last, _ = seen[-1]
    return [*seen, ("completed", last, approvals)]


def part(name: ResponseName, moment: tuple[str, list[StepRecord], list[ApprovalRecord]]) -> Part:
    status, steps, approvals = moment
    run = made(RunRecord, id="run_1", agent="clerk", thread_id="thr_1", status=status, created_at=NOW)
    if status == "completed":
        run = dataclasses.replace(run, closed_at=NOW)
    return Part(name, run, steps, approvals)


@pytest.mark.parametrize("seed", range(150))
def test_however_often_it_is_looked_at_the_events_are_the_same(seed: int) -> None:
    dice = random.Random(seed)
    history = moments(dice)
    whole = part(ResponseName("run_1"), history[-1])
    texts = ""
    for after in (None, *whole.ends):
        name = ResponseName("run_1", after)
        at_once = Storyteller().tell(part(name, history[-1]))
        looks = [moment for moment in history if after is None or after in part(name, moment).ends]
        teller = Storyteller()
        told = [event for moment in looks if dice.random() < 0.7 for event in teller.tell(part(name, moment))]
        told += teller.tell(part(name, history[-1]))

        assert told == at_once
        assert [event["sequence_number"] for event in told] == list(range(len(told)))
        assert told[-1]["type"] == "response.completed"
        texts += "".join(event["delta"] for event in told if event["type"] == "response.output_text.delta")
    said = "".join(json.loads(each.output or "{}")["text"] for each in history[-1][1] if each.kind == "model_call")
    assert texts == said
