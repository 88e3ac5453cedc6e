"""Structured answers, as each kind of server is asked for them; and what is asked for when one refuses."""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest

from activities.models.base import TurnMessage
from activities.models.formats import is_strict
from activities.models.foundry import FoundryProvider
from activities.models.local_prompt import form_of
from activities.models.openai import OpenAIProvider
from horarium.structured import judged
from tests.emulator.server import Fault, FoundryEmulator
from tests.models.asking import read_log, request

PLACE: dict[str, Any] = {
    "type": "object",
    "properties": {"shelf": {"type": "string", "pattern": "A"}, "near": {"$ref": "#/$defs/near"}},
    "required": ["shelf", "near"],
    "additionalProperties": False,
    "$defs": {"near": {"enum": ["door", "window"]}},
}
LOOSE = {"type": "object", "properties": {"shelf": {"type": "string"}}}


async def test_foundry_is_asked_for_the_schema_beside_what_else_is_said_of_the_text(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    for schema in (PLACE, LOOSE, {"type": "object"}, {"type": "array"}):
        await foundry.generate(request(answer_schema=schema, verbosity="low", tools=(read_log.spec,)))

    strict, loose, any_object, words_alone = (asked["text"] for asked in emulator.asked)
    asked_for = {"type": "json_schema", "name": "answer", "schema": PLACE, "strict": True}
    assert strict == {"verbosity": "low", "format": asked_for}
    assert loose["format"] == {"type": "json_schema", "name": "answer", "schema": LOOSE, "strict": False}
    assert any_object["format"] == {"type": "json_object"}
    assert words_alone == {"verbosity": "low"}


async def test_chat_completions_are_asked_in_their_own_words(emulator: FoundryEmulator, chat: OpenAIProvider) -> None:
    await chat.generate(request(answer_schema=PLACE))
    await chat.generate(request())

    said = {"name": "answer", "schema": PLACE, "strict": True}
    assert emulator.asked[0]["response_format"] == {"type": "json_schema", "json_schema": said}
    assert "response_format" not in emulator.asked[1]


async def test_a_schema_that_the_server_does_not_take_is_left_to_the_words(
    emulator: FoundryEmulator, foundry: FoundryProvider
) -> None:
    emulator.faults = [Fault(400, code="invalid_json_schema", param="text.format.schema")]

    turn = await foundry.generate(request(answer_schema=PLACE))
    await foundry.generate(request(answer_schema=LOOSE))

    assert turn.text == "Hello from the emulator."
    assert ["text" in asked for asked in emulator.asked] == [True, False, True]  # it was that schema, and not the model


async def test_a_server_without_structured_output_is_not_asked_for_it_twice(
    emulator: FoundryEmulator, chat: OpenAIProvider
) -> None:
    emulator.faults = [Fault(400, code="unsupported_parameter", param="response_format")]

    for _ in range(2):
        await chat.generate(request(answer_schema=PLACE))

    assert ["response_format" in asked for asked in emulator.asked] == [True, False, False]


@pytest.mark.parametrize(
    ("schema", "strict"),
    [
        (PLACE, True),
        (LOOSE, False),
        ({**PLACE, "required": ["shelf"]}, False),
        ({**PLACE, "properties": {"shelf": LOOSE, "near": {}}}, False),
        ({**PLACE, "properties": {"shelf": {"enum": [{"type": "object"}]}, "near": {}}}, True),
        ({**PLACE, "properties": {"shelf": {"anyOf": [LOOSE]}, "near": {}}}, False),
    ],
)
def test_only_a_schema_whose_objects_have_all_their_fields_and_no_others_is_strict(
    schema: dict[str, Any], *, strict: bool
) -> None:
    assert is_strict(schema) is strict


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ('{"a": 1}', '{"a": 1}'),
        ('\n```json\n{"a": 1}\n```\n', '{"a": 1}'),
        ('```\n{"a":\n 1}\n```', '{"a":\n 1}'),
        ('Here: ```json\n{"a": 1}\n```', None),
        ('{"a": 1} {"a": 2}', None),
        ('{"a": NaN}', None),
        ("[" * 100_000, None),
    ],
)
def test_an_answer_is_taken_out_of_its_fence_and_nothing_else(text: str, answer: str | None) -> None:
    found = judged({"type": "object"}, text)

    assert (found.text, found.problem is None) == (text if answer is None else answer, answer is not None)


def test_the_local_model_is_held_to_the_answer_or_to_a_choice_of_it_and_the_tools() -> None:
    asked = TurnMessage("user", "Where?")
    fine = '{"shelf": "B2", "near": "door"}'

    free = form_of(request(asked, answer_schema=PLACE), quoting=True)
    choosing = form_of(request(asked, answer_schema=PLACE, tools=(read_log.spec,)), quoting=True)

    assert free is not None
    assert free.read(fine) == (fine, None, None)
    jsonschema.validate({"shelf": "B2", "near": "door"}, free.schema)  # without the pattern
    assert choosing is not None
    assert choosing.read(f'{{"answer": {fine}}}')[0] == fine
    jsonschema.validate({"answer": {"shelf": "B2", "near": "door"}}, choosing.schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate({"answer": {"shelf": "B2", "near": "sea"}}, choosing.schema)
