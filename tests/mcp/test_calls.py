"""What a run promises of the tools of MCP servers, with a real server over each transport."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path

import pytest

from horarium.tools import Effect
from tests.mcp.rig import TRANSPORTS, Transport, bank
from tests.mcp.servers.bank import PICTURE
from tests.support.engine import PATIENCE, Engine, asks, call, says

READ = {"*": Effect.READ}


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_external_call_waits_for_its_approval_and_carries_its_key(
    engine: Engine, tmp_path: Path, transport: Transport
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        run = await engine.start(there.agent(), asks(call("bank__act", ref="7")), says())
        approval = await run.next_approval(PATIENCE)
        assert there.lines() == []

        await run.approve(approval, by="ann")

        assert (await engine.finish(run)).status == "completed"
        step = next(step for step in await run.steps() if step.kind == "tool_call")
        assert (step.status, step.output, step.effect, step.untrusted) == ("completed", "7: done", "external", 1)
        assert [line["key"] for line in there.lines("done")] == [step.key]
        assert step.key is not None
        assert step.key.startswith(f"horarium/{run.id}/")


async def test_the_model_sees_every_page_of_what_is_offered_under_its_label(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path) as there:
        await there.start()
        run = await engine.start(there.agent(tools=("a*", "count")), says())

        await engine.finish(run)

        tools = {tool.name: tool for tool in engine.model.requests[0].tools}
        assert sorted(tools) == ["bank__act", "bank__answer", "bank__ask", "bank__count"]
        assert tools["bank__act"].description == "Act on the world."
        assert tools["bank__act"].parameters["required"] == ["ref"]


async def test_a_hint_that_a_tool_only_reads_counts_for_nothing(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path) as there:
        await there.start()
        run = await engine.start(there.agent(), asks(call("bank__answer", ref="x")), says())

        assert (await run.next_approval(PATIENCE)).tool == "bank__answer"

        await run.cancel()


@pytest.mark.parametrize(
    ("kind", "heard"),
    [
        ("lines", "first\nsecond"),
        ("structured", '{"a": [1, 2]}'),
        ("resource", '{"type": "resource", "uri": "note://1", "text": "A note."}'),
        ("misses_its_schema", "Here it is."),
        ("failed", "Error: No such account."),
        ("invalid", "Error: The server refused the call: ref is not known"),
    ],
)
async def test_the_model_is_told_what_the_tool_said(engine: Engine, tmp_path: Path, kind: str, heard: str) -> None:
    with bank(tmp_path) as there:
        await there.start()
        run = await engine.start(there.agent(effects=READ), asks(call("bank__answer", ref=kind)), says())

        assert (await engine.finish(run)).status == "completed"
        assert engine.model.heard()[-1] == ("tool", heard)


async def test_a_large_answer_is_kept_whole_and_cut_for_the_model(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path) as there:
        await there.start()
        run = await engine.start(there.agent(effects=READ), asks(call("bank__answer", ref="large")), says())

        assert (await engine.finish(run)).status == "completed"
        step = next(step for step in await run.steps() if step.kind == "tool_call")
        assert (step.output_bytes, len(engine.model.heard()[-1][1]) < 20_000) == (5_000_000, True)


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_an_answer_that_nobody_would_keep_is_not_read_and_the_call_counts_as_made(
    engine: Engine, tmp_path: Path, transport: Transport
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        run = await engine.start(there.agent(effects=READ), asks(call("bank__answer", ref="endless")), says())

        assert (await engine.finish(run)).status == "completed"
        step = next(step for step in await run.steps() if step.kind == "tool_call")
        assert (step.status, step.attempts) == ("completed", 1)
        assert "has done what it was asked to" in engine.model.heard()[-1][1]


async def test_a_picture_is_kept_as_bytes_and_never_shown_as_base64(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path) as there:
        await there.start()
        calls = asks(call("bank__answer", "one", ref="picture"), call("bank__answer", "two", ref="mixed"))
        run = await engine.start(there.agent(effects=READ), calls, says())

        assert (await engine.finish(run)).status == "completed"
        one, two = (step for step in await run.steps() if step.kind == "tool_call")
        assert one.output_blob is not None
        assert await engine.ledger.blobs.get(one.output_blob) == PICTURE
        assert f"<{len(PICTURE)} bytes, sha256:" in (two.output or "")
        assert "iVBOR" not in str(engine.model.heard())


async def test_a_tool_that_takes_too_long_is_told_to_stop(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path) as there:
        await there.start()
        agent = there.agent(effects=READ, timeout=timedelta(seconds=0.4), attempts=1)
        run = await engine.start(agent, asks(call("bank__wait", ref="long")), says())

        assert (await engine.finish(run)).status == "completed"
        assert "no answer within" in engine.model.heard()[-1][1]
        await there.says("stopped", "long")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_cancelled_run_stops_the_tool_at_the_server(
    engine: Engine, tmp_path: Path, transport: Transport
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        run = await engine.start(there.agent(effects=READ), asks(call("bank__wait", ref="long")), says())
        await there.says("entered", "long")

        await run.cancel()

        assert (await engine.finish(run)).status == "cancelled"
        await there.says("stopped", "long")


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_dies_before_or_after_it_acted_leaves_an_unknown_outcome(
    engine: Engine, tmp_path: Path, transport: Transport
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        run = await engine.start(there.agent(), asks(call("bank__act", ref="die_after")), says())
        await run.approve(await run.next_approval(PATIENCE), by="ann")

        waits = (await engine.until(run, "requires_action")).waiting_for[0]
        assert waits.kind == "unknown_outcome"
        await run.resolve(waits.id, "supply", output="It is in the book.", by="ann")

        assert (await engine.finish(run)).status == "completed"
        assert len(there.lines("done")) == 1


@pytest.mark.parametrize("transport", TRANSPORTS)
async def test_a_server_that_honours_the_key_and_dies_is_asked_again_and_acts_once(
    engine: Engine, tmp_path: Path, transport: Transport
) -> None:
    with bank(tmp_path, transport, HONOURS="1") as there:
        await there.start()
        run = await engine.start(
            there.agent(effects={"act": Effect.IDEMPOTENT}, attempts=10),
            asks(call("bank__act", ref="die_after")),
            says(),
        )
        await run.approve(await run.next_approval(PATIENCE), by="ann")
        await there.says("done", "die_after")
        await there.start()

        assert (await engine.finish(run)).status == "completed"
        assert engine.model.heard()[-1] == ("tool", "die_after: was done before")
        assert (len(there.lines("done")), len({line["key"] for line in there.lines("entered")})) == (1, 1)


@pytest.mark.parametrize("transport", ["http", "http-legacy"])
async def test_a_call_that_never_reached_its_server_is_made_when_it_is_back_whatever_its_effect(
    engine: Engine, tmp_path: Path, transport: Transport
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        run = await engine.start(there.agent(attempts=10), asks(call("bank__act", ref="7")), says())
        approval = await run.next_approval(PATIENCE)
        there.stop()
        await run.approve(approval, by="ann")
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while not any(step.failures for step in await run.steps()):
                await asyncio.sleep(0.02)

        await there.start()

        assert (await engine.finish(run)).status == "completed"
        assert len(there.lines("done")) == 1


async def test_a_server_that_breaks_in_a_call_leaves_an_unknown_outcome(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path) as there:
        await there.start()
        run = await engine.start(there.agent(), asks(call("bank__answer", ref="internal")), says())
        await run.approve(await run.next_approval(PATIENCE), by="ann")

        waits = (await engine.until(run, "requires_action")).waiting_for[0]

        assert waits.kind == "unknown_outcome"
        await run.cancel()


@pytest.mark.parametrize("what", ["roots", "model", "person"])
@pytest.mark.parametrize("transport", ["stdio", "http-legacy"])
async def test_what_a_server_asks_of_us_is_refused_and_hangs_nothing(
    engine: Engine, tmp_path: Path, transport: Transport, what: str
) -> None:
    with bank(tmp_path, transport) as there:
        await there.start()
        run = await engine.start(there.agent(effects=READ), asks(call("bank__ask", ref=what)), says())

        assert (await engine.finish(run)).status == "completed"
        assert engine.model.heard()[-1][1].startswith("refused: ")


async def test_calls_of_one_turn_share_a_connection_and_progress_breaks_nothing(engine: Engine, tmp_path: Path) -> None:
    with bank(tmp_path, "stdio") as there:
        calls = [call("bank__act", f"c{number}", ref=str(number)) for number in range(20)]
        run = await engine.start(there.agent(effects=READ), asks(*calls, call("bank__count", "last", ref="")), says())

        assert (await engine.finish(run)).status == "completed"
        assert len(there.lines("done")) == 20
        assert len({line["pid"] for line in there.lines()}) == 1
        assert engine.model.heard()[-1] == ("tool", "counted")


async def test_a_command_gets_path_home_and_what_its_definition_names(
    engine: Engine, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("MY_TOKEN", "tok-3141592653")
    with bank(tmp_path, "stdio") as there:
        agent = there.agent(effects=READ, env={"TOKEN": "${MY_TOKEN}"})
        calls = asks(call("bank__answer", "one", ref="environment"), call("bank__answer", "two", ref="secret"))
        run = await engine.start(agent, calls, says())

        assert (await engine.finish(run)).status == "completed"
        names, secret = (text for role, text in engine.model.heard() if role == "tool")
        assert {"HOME", "PATH", "TOKEN"} <= set(names.split()) <= {"HOME", "PATH", "TOKEN", "LC_CTYPE"}
        assert secret == "my token is [secret]"


async def test_a_program_that_is_not_there_fails_the_run_at_once_and_by_its_name(
    engine: Engine, tmp_path: Path
) -> None:
    with bank(tmp_path, "stdio") as there:
        server = there.server().model_copy(update={"command": ("no-such-program",)})
        run = await engine.start(there.agent().model_copy(update={"mcp": {"bank": server}}), says())

        result = await engine.finish(run)

        assert (result.status, result.reason) == ("failed", "config")
        assert "'no-such-program' cannot be started" in (result.message or "")
