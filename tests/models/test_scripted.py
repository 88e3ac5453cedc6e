"""The `scripted` provider."""

from __future__ import annotations

import json
from datetime import timedelta
from pathlib import Path

import pytest

from activities.models.base import ModelRequest, Turn, TurnMessage
from activities.models.scripted import ScriptedProvider
from horarium.errors import ConfigError, ModelRejected, ModelUnavailable
from tests.models.asking import request


def after(turns: int, model: str = "script.yaml") -> ModelRequest:
    return request(TurnMessage("user", "Go."), *[TurnMessage("assistant", "…")] * turns, model=model)


async def turn_of(folder: Path, script: str, turns: int) -> Turn:
    (folder / "script.yaml").write_text(script)
    return await ScriptedProvider(folder).generate(after(turns))


async def test_the_turn_depends_on_nothing_but_the_conversation(tmp_path: Path) -> None:
    (tmp_path / "script.yaml").write_text(
        "- calls: [{name: read_log, arguments: {path: a.log}}]\n- {text: Done., input_tokens: 5, output_tokens: 2}\n"
    )

    first, again = [await ScriptedProvider(tmp_path).generate(after(0)) for _ in range(2)]
    second = await ScriptedProvider(tmp_path).generate(after(1))

    assert first == again
    assert (first.calls[0].name, first.calls[0].arguments) == ("read_log", '{"path": "a.log"}')
    assert (second.text, second.input_tokens, second.output_tokens, second.model) == ("Done.", 5, 2, "scripted")


async def test_arguments_can_be_malformed_on_purpose(tmp_path: Path) -> None:
    turn = await turn_of(tmp_path, '- calls: [{name: read_log, raw: "{oops"}]', 0)

    assert turn.calls[0].arguments == "{oops"


async def test_a_script_may_be_json_and_may_be_cut_or_filtered(tmp_path: Path) -> None:
    turn = await turn_of(tmp_path, json.dumps({"turns": [{"text": "Half", "finish": "length"}]}), 0)

    assert turn.finish == "length"


async def test_errors_come_with_the_time_to_wait(tmp_path: Path) -> None:
    with pytest.raises(ModelUnavailable) as caught:
        await turn_of(tmp_path, "- {error: throttled, retry_after: 2s}", 0)

    assert (caught.value.retry_after, caught.value.throttled) == (timedelta(seconds=2), True)


async def test_a_script_that_is_used_up_says_so_unless_it_repeats(tmp_path: Path) -> None:
    with pytest.raises(ModelRejected, match="1 turn,"):
        await turn_of(tmp_path, "- {text: Once.}", 1)

    assert (await turn_of(tmp_path, "{turns: [{text: Always.}], repeat: last}", 40)).text == "Always."


async def test_many_turns_are_generated_with_their_numbers(tmp_path: Path) -> None:
    script = "generate: {turns: 1000, tool: note, arguments: {text: 'n. {n}', tags: ['{n}', 7]}, text: Finished.}"

    middle, last, end = [await turn_of(tmp_path, script, turns) for turns in (499, 999, 1000)]

    assert json.loads(middle.calls[0].arguments) == {"text": "n. 500", "tags": ["500", 7]}
    assert json.loads(last.calls[0].arguments)["text"] == "n. 1000"
    assert (end.text, end.calls) == ("Finished.", ())


async def test_a_wrong_script_is_refused_with_its_name(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"script\.yaml"):
        await turn_of(tmp_path, "- {txt: typo}", 0)
    with pytest.raises(ConfigError, match=r"nowhere\.yaml"):
        await ScriptedProvider(tmp_path).check("nowhere.yaml")
