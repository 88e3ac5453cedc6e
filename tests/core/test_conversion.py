"""What stands in Temporal's history is small, whole and says nothing of the machine it came from."""

from __future__ import annotations

import json
from datetime import UTC, datetime, timedelta

import pytest
from temporalio.api.common.v1 import Payload as WirePayload
from temporalio.api.failure.v1 import Failure
from temporalio.exceptions import ApplicationError

from horarium.contract import Decision, Usage
from horarium.conversion import data_converter
from horarium.protocol import Ballot, Call, ModelReply, ModelStep, Payload, ToolStep
from horarium.tools import Effect

CALL = Call(id="c1", tool="pay", digest="sha256:1", key="k", source="run_1/0001", effect=Effect.EXTERNAL, gated=True)
BALLOT = Ballot(
    decision=Decision(approval="apr_1", verdict="approve", by="maria", digest="x"),
    at=datetime(2026, 11, 21, tzinfo=UTC),
    via="signal",
)
STEP = {"run": "run_1", "agent": "a", "tenant": "t", "number": 7}


@pytest.mark.parametrize(
    "payload",
    [
        ModelStep(**STEP, thread="thr_1", version=1),
        ModelStep(**STEP, thread="thr_1", version=1, answered=("run_1/0006",), note="again", closing=True, permit=2),
        ModelReply(),
        ModelReply(calls=(CALL,), finish="calls", usage=Usage(input_tokens=5)),
        ToolStep(**STEP, call=CALL.model_copy(update={"timeout": timedelta(hours=2)})),
        ToolStep(**STEP, call=CALL, ballots=(BALLOT,)),
    ],
)
async def test_a_payload_of_the_engine_reads_back_as_it_was(payload: Payload) -> None:
    encoded = await data_converter.encode([payload])
    assert await data_converter.decode(encoded, [type(payload)]) == [payload]


async def test_a_payload_of_the_engine_leaves_out_what_stands_at_its_default() -> None:
    assert await written(ModelStep(**STEP, thread="thr_1", version=1)) == {**STEP, "thread": "thr_1", "version": 1}
    assert "timeout" not in (await written(ToolStep(**STEP, call=CALL)))["call"]


async def test_what_other_services_read_keeps_every_field() -> None:
    assert (await written(Usage())).keys() == Usage.model_fields.keys()


async def test_a_failure_says_what_broke_and_names_no_file() -> None:
    try:
        try:
            raise OSError("the disk is full")
        except OSError as error:
            raise ApplicationError("Not stored.", type="tool_failed") from error
    except ApplicationError as error:
        failure = Failure()
        await data_converter.encode_failure(error, failure)
    assert (failure.message, failure.cause.message) == ("Not stored.", "the disk is full")
    assert failure.application_failure_info.type == "tool_failed"
    assert __file__ not in str(failure)
    assert failure.stack_trace == failure.cause.stack_trace == ""


async def written(value: object) -> dict[str, object]:
    payload: WirePayload = (await data_converter.encode([value]))[0]
    assert payload.metadata["encoding"] == b"json/plain"
    read: dict[str, object] = json.loads(payload.data)
    return read
