"""Tool workers without a ledger: the step protocol through the gateway, with kills, lost answers and wrong keys."""

from __future__ import annotations

import asyncio
import os
import secrets
import signal
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from temporalio import workflow
from temporalio.common import RetryPolicy
from temporalio.testing import WorkflowEnvironment
from temporalio.worker import Worker

from horarium.apikeys import identity_of
from horarium.client import Run
from horarium.contract import TOOL_QUEUE_PREFIX
from horarium.definitions import Agent, ApprovalRule
from horarium.errors import ConfigError
from horarium.gateway.serving import Serving, serving
from horarium.ids import new_run_id
from horarium.ledger.api_keys import ApiKeys
from horarium.ledger.journal import StepRecord
from horarium.ledger.toolworkers import ToolWorkers
from horarium.protocol import CALL_TOOL, ToolStep
from horarium.remote_journal import GatewayRefuses
from horarium.serving import serve_tools
from horarium.settings import Settings, TemporalSettings, ToolsSettings
from horarium.step_protocol import CLAIMS, OUTPUTS, SETTLEMENTS, TAKEOVERS, WORKERS
from horarium.tools import ToolContext, tool
from tests.gateway.conftest import of_gateway
from tests.gateway.dropping import Network, network
from tests.gateway.remote_worker import MEGABYTES_20, tools_of
from tests.gateway.rest import STRICT
from tests.support.engine import PATIENCE, Engine, asks, call, running_engine, says

CHECKOUT = Path(__file__).parents[2]
TOOLS = """
from pathlib import Path
from tests.gateway.remote_worker import tools_of
glance, note, pay, dump, odd = tools_of(Path(__file__).parent.parent)
"""
CLERK = Agent(
    "remote-clerk",
    model="scripted:x",
    tools=["glance", "note", "pay", "dump", "odd"],
    approvals=[ApprovalRule(tools=("note",), required=0)],
)


@pytest.fixture
async def engine(env: WorkflowEnvironment, tmp_path: Path) -> AsyncIterator[Engine]:
    """An engine that has no tools."""
    async with running_engine(env, tmp_path, []) as engine:
        yield engine


class Elsewhere:
    """Another machine: a directory with nothing in it, a group of its own, a key, and a network to the gateway."""

    def __init__(self, engine: Engine, served: Serving, net: Network, directory: Path, key: str, group: str) -> None:
        self.engine, self.served, self.net = engine, served, net
        self.directory, self.key, self.group = directory, key, group
        self.address = engine.env.client.service_client.config.target_host

    @property
    def effects(self) -> list[str]:
        """What was done there, in order."""
        file = self.directory / "effects"
        return [line.rpartition(" ")[0] for line in file.read_text().splitlines()] if file.exists() else []

    @property
    def queue(self) -> str:
        """Of its calls."""
        return TOOL_QUEUE_PREFIX + self.group

    async def until(self, name: str) -> None:
        """Wait until its tools have made a file."""
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while not (self.directory / name).exists():
                await asyncio.sleep(0.02)

    @asynccontextmanager
    async def program(self) -> AsyncIterator[asyncio.subprocess.Process]:
        """`horarium worker` in a process of its own, which knows Temporal's address, the gateway's, and the key."""
        (self.directory / "tools").mkdir(exist_ok=True)
        (self.directory / "tools" / "all.py").write_text(TOOLS)
        environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith("HORARIUM_")},
            "HORARIUM_TEMPORAL__ADDRESS": self.address,
            "HORARIUM_GATEWAY_KEY": self.key,
            "PYTHONPATH": str(CHECKOUT),
        }
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-m", "horarium", "worker", "--tools", "--name", self.group),
            *("--gateway", self.net.url, "-C", str(self.directory)),
            env=environment,
            cwd=self.directory,
        )
        try:
            yield process
        finally:
            if process.returncode is None:
                process.terminate()
            await asyncio.wait_for(process.wait(), 30)

    @asynccontextmanager
    async def worker(
        self, monkeypatch: pytest.MonkeyPatch, *, key: str | None = None
    ) -> AsyncIterator[asyncio.Task[None]]:
        """A worker in this process."""
        monkeypatch.setenv("HORARIUM_GATEWAY_KEY", key or self.key)
        stop = asyncio.Event()
        working = asyncio.create_task(
            serve_tools(tools_of(self.directory), name=self.group, settings=self.settings, stop=stop)
        )
        try:
            async with asyncio.timeout(PATIENCE.total_seconds()):
                while not working.done() and not await self.is_served():
                    await asyncio.sleep(0.02)
            if working.done():
                await working
            yield working
        finally:
            stop.set()
            await asyncio.wait({working}, timeout=30)
            assert working.done()

    async def is_served(self) -> bool:
        """Whether a worker of the group has announced itself."""
        workers = await ToolWorkers(self.engine.ledger).all()
        return any(worker.queue == self.queue and worker.stopped_at is None for worker in workers)

    @property
    def settings(self) -> Settings:
        """Of a worker there."""
        return Settings(
            root=self.directory,
            temporal=TemporalSettings(address=self.address),
            tools=ToolsSettings(gateway=self.net.url),
        )


async def key_for(engine: Engine, *scopes: str, tenant: str = "default") -> str:
    return (await ApiKeys(engine.ledger).create("elsewhere", scopes, tenant=tenant))[1]


async def revoke(engine: Engine, key: str) -> None:
    await ApiKeys(engine.ledger).revoke(identity_of(key) or "")


@pytest.fixture
async def elsewhere(engine: Engine, tmp_path: Path) -> AsyncIterator[Elsewhere]:
    directory, group = tmp_path / "elsewhere", f"g{secrets.token_hex(6)}"
    directory.mkdir()
    key = await key_for(engine, f"tools:{group}")
    settings = of_gateway(engine.settings, STRICT)
    async with (
        serving(engine.client, settings, host="127.0.0.1", port=0) as served,
        network(served.port) as net,
    ):
        yield Elsewhere(engine, served, net, directory, key, group)


async def approved(run: Run, by: str = "ana") -> None:
    await run.approve(await run.next_approval(PATIENCE), by=by)


async def made(run: Run) -> dict[str, StepRecord]:
    """The tool steps of a run, by the tool."""
    return {step.name: step for step in await run.steps() if step.kind == "tool_call"}


async def test_a_worker_with_a_key_and_no_ledger_performs_what_was_asked_and_approved(
    engine: Engine, elsewhere: Elsewhere
) -> None:
    async with elsewhere.program():
        run = await engine.start(
            CLERK,
            asks(
                call("glance", "c1", what="the sea"),
                call("note", "c2", text="low tide"),
                call("pay", "c3", amount=7),
                call("dump", "c4"),
                call("odd", "c5"),
            ),
            says("Paid."),
        )
        await approved(run)
        result = await engine.finish(run)

    assert (result.status, result.output) == ("completed", "Paid.")
    assert sorted(elsewhere.effects) == ["note low tide", "pay 7"]
    steps = await made(run)
    assert {step.status for step in steps.values()} == {"completed"}
    assert (steps["glance"].output, steps["pay"].output, steps["pay"].effect) == ("saw the sea", "paid 7", "external")
    dump = steps["dump"]
    assert (dump.output_bytes, len(dump.output or "") < 10_000) == (MEGABYTES_20, True)
    assert dump.output_blob is not None
    assert len(await engine.ledger.blobs.get(dump.output_blob)) == MEGABYTES_20
    assert not (engine.settings.state / "blobs" / "incoming").exists() or not any(
        (engine.settings.state / "blobs" / "incoming").iterdir()
    )
    assert '"ratio": "NaN"' in (steps["odd"].output or "")
    assert set((steps["odd"].changes or "").split(",")) == {
        "not_a_number",
        "unstorable_characters",
        "number_too_large",
    }
    assert sorted(path.name for path in elsewhere.directory.iterdir()) == ["effects", "entered", "tools"]


async def test_a_worker_killed_in_the_middle_of_an_external_effect_leaves_a_question_and_not_a_second_effect(
    engine: Engine, elsewhere: Elsewhere
) -> None:
    (elsewhere.directory / "hold").touch()
    async with elsewhere.program() as process:
        run = await engine.start(CLERK, asks(call("pay", amount=7)), says("Paid."))
        await approved(run)
        await elsewhere.until("entered")

        process.send_signal(signal.SIGKILL)
        await process.wait()
        (elsewhere.directory / "hold").unlink()
        async with elsewhere.program():
            status = await engine.until(run, "requires_action")

            [waiting] = status.waiting_for
            assert waiting.kind == "unknown_outcome"
            await run.resolve(waiting.id, "supply", by="ana", output="paid 7")
            assert (await engine.finish(run)).status == "completed"

    assert elsewhere.effects == ["pay 7"]


async def test_a_gateway_that_is_away_when_a_call_is_done_is_told_when_it_is_back(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    (elsewhere.directory / "hold").touch()
    settings = of_gateway(engine.settings, STRICT)
    async with elsewhere.worker(monkeypatch):
        async with serving(engine.client, settings, host="127.0.0.1", port=0) as first:
            elsewhere.net.target = first.port
            run = await engine.start(CLERK, asks(call("pay", amount=7)), says("Paid."))
            await approved(run)
            await elsewhere.until("entered")
        (elsewhere.directory / "hold").unlink()
        async with asyncio.timeout(PATIENCE.total_seconds()):
            while SETTLEMENTS not in elsewhere.net.seen:
                await asyncio.sleep(0.02)
        assert (await made(run))["pay"].status == "claimed"

        async with serving(engine.client, settings, host="127.0.0.1", port=0) as second:
            elsewhere.net.target = second.port
            result = await engine.finish(run)

    assert (result.status, elsewhere.effects) == ("completed", ["pay 7"])
    assert (await made(run))["pay"].attempts == 1


async def test_answers_that_are_lost_on_the_way_do_not_make_an_outcome_unknown_nor_a_call_twice(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    lost = [f"{WORKERS}/", CLAIMS, CLAIMS, CLAIMS, SETTLEMENTS, SETTLEMENTS, f"{OUTPUTS}/"]
    elsewhere.net.drop += lost
    async with elsewhere.worker(monkeypatch):
        run = await engine.start(
            CLERK, asks(call("pay", "c1", amount=7), call("dump", "c2"), call("note", "c3", text="x")), says()
        )
        await approved(run)
        result = await engine.finish(run)

    assert elsewhere.net.drop == []
    assert (result.status, sorted(elsewhere.effects)) == ("completed", ["note x", "pay 7"])
    steps = await made(run)
    assert {name: (step.status, step.attempts) for name, step in steps.items()} == dict.fromkeys(
        ("pay", "dump", "note"), ("completed", 1)
    )


async def test_a_claim_that_was_never_answered_is_given_to_the_next_attempt_of_the_same_worker(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("horarium.remote_journal.CLAIM_PATIENCE", timedelta(milliseconds=500))
    async with elsewhere.worker(monkeypatch):
        run = await engine.start(CLERK, asks(call("glance", what="x")), says())
        assert (await engine.finish(run)).status == "completed"
        elsewhere.net.drop += [CLAIMS] * 4  # more than one attempt asks within its patience

        run = await engine.start(CLERK, asks(call("pay", amount=7)), says("Paid."))
        await approved(run)
        result = await engine.finish(run)

    assert elsewhere.net.drop == []
    assert (result.status, elsewhere.effects) == ("completed", ["pay 7"])
    assert (await made(run))["pay"].attempts == 1


# ---- who may, and what


@workflow.defn(name="ForgedAsking", sandboxed=False)
class ForgedAsking:
    """Whoever reaches Temporal's port can ask a tool worker as well."""

    @workflow.run
    async def run(self, queue: str, payload: Any) -> Any:
        return await workflow.execute_activity(
            CALL_TOOL,
            payload,
            task_queue=queue,
            start_to_close_timeout=timedelta(seconds=20),
            retry_policy=RetryPolicy(maximum_attempts=1),
        )


async def pending_call(engine: Engine, elsewhere: Elsewhere, name: str = "glance") -> tuple[Run, dict[str, Any]]:
    """A run whose call waits for a worker, and what one would say that takes it."""
    wanted = call("glance", what="the sea") if name == "glance" else call("pay", amount=7)
    run = await engine.start(CLERK, asks(wanted), says("Seen."))
    if name == "pay":
        await approved(run)
    handle = engine.env.client.get_workflow_handle(run.id)
    async with asyncio.timeout(PATIENCE.total_seconds()):
        while True:
            described = await handle.describe()
            waiting = [
                item for item in described.raw_description.pending_activities if item.activity_type.name == CALL_TOOL
            ]
            if waiting:
                break
            await asyncio.sleep(0.02)
    (spec,) = [tool.spec for tool in tools_of(elsewhere.directory) if tool.name == name]
    return run, {
        "group": elsewhere.group,
        "run": run.id,
        "number": 2 if name == "glance" else 3,
        "attempt": secrets.token_hex(16),
        "workflow": run.id,
        "execution": described.run_id,
        "activity": waiting[0].activity_id,
        "spec": spec.model_dump_json(),
    }


async def test_only_a_key_for_the_group_and_the_tenant_claims_and_only_what_the_run_asks_for(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with elsewhere.worker(monkeypatch):
        run = await engine.start(CLERK, asks(call("glance", what="x")), says())
        assert (await engine.finish(run)).status == "completed"
    run, said = await pending_call(engine, elsewhere)
    group = elsewhere.group
    other = await key_for(engine, "tools:another", "role:viewer")
    admin = await key_for(engine, "role:admin")
    stranger = await key_for(engine, f"tools:{group}", tenant="elsewhere")
    revoked = await key_for(engine, f"tools:{group}")
    await revoke(engine, revoked)

    async with httpx2.AsyncClient(base_url=elsewhere.served.url, timeout=20) as http:

        async def status(key: str | None, path: str = CLAIMS, **more: Any) -> int:
            headers = {"Authorization": f"Bearer {key}"} if key else {}
            return (await http.post(path, headers=headers, json={**said, **more})).status_code

        refused: list[tuple[int, Callable[[], Awaitable[int]]]] = [
            (401, lambda: status(None)),
            (401, lambda: status(revoked)),
            (403, lambda: status(other)),
            (403, lambda: status(admin)),
            (404, lambda: status(stranger)),
            (404, lambda: status(elsewhere.key, run="run_nobody", workflow="run_nobody")),
            (404, lambda: status(elsewhere.key, execution="no-execution")),
            (409, lambda: status(elsewhere.key, activity="999")),
            (409, lambda: status(elsewhere.key, number=9)),
            (404, lambda: status(elsewhere.key, SETTLEMENTS, status="completed", output="x", number=9)),
            (422, lambda: status(elsewhere.key, spec="[" * 100_000)),
        ]
        assert [await ask() for _, ask in refused] == [expected for expected, _ in refused]
        reading = await http.get("/v1/runs", headers={"Authorization": f"Bearer {elsewhere.key}"})
        assert reading.status_code == 403
        assert "glance" not in await made(run)

        claimed = await http.post(CLAIMS, headers={"Authorization": f"Bearer {elsewhere.key}"}, json=said)
        assert (claimed.json()["held"], claimed.json()["arguments"]) == (True, '{"what":"the sea"}')
        # Who guesses the run and the step, and not the attempt's secret, settles nothing once it is not asked for.
        assert await status(other, SETTLEMENTS, status="completed", output="forged") == 403
        forged = {"attempt": secrets.token_hex(16), "activity": "999"}
        assert await status(elsewhere.key, SETTLEMENTS, status="completed", output="forged", **forged) == 409
        assert await status(elsewhere.key, SETTLEMENTS, status="completed", output="saw it") == 200
        assert await status(elsewhere.key, SETTLEMENTS, status="failed", output="later") == 200
    assert (await made(run))["glance"].output == "saw it"

    async with elsewhere.worker(monkeypatch):
        assert (await engine.finish(run)).status == "completed"


async def test_of_two_workers_whose_probes_said_that_it_did_not_happen_one_takes_it_over(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with elsewhere.worker(monkeypatch):
        run = await engine.start(CLERK, asks(call("glance", what="x")), says())
        assert (await engine.finish(run)).status == "completed"
    run, said = await pending_call(engine, elsewhere, "pay")
    died, one, other = [{**said, "attempt": secrets.token_hex(16)} for _ in range(3)]

    headers = {"Authorization": f"Bearer {elsewhere.key}"}
    async with httpx2.AsyncClient(base_url=elsewhere.served.url, timeout=20, headers=headers) as http:
        assert (await http.post(CLAIMS, json=died)).json()["held"] is True
        seen = [(await http.post(CLAIMS, json=attempt)).json() for attempt in (one, other)]
        assert [(answer["held"], bool(answer["unclear"])) for answer in seen] == [(False, True)] * 2
        assert seen[0]["holder"] == seen[1]["holder"]
        taking = [{**attempt, "holder": answer["holder"]} for attempt, answer in zip((one, other), seen, strict=True)]

        assert (await http.post(TAKEOVERS, json=taking[0])).json()["attempts"] == 2
        assert (await http.post(TAKEOVERS, json=taking[0])).json()["attempts"] == 2  # its answer was lost
        assert (await http.post(TAKEOVERS, json=taking[1])).status_code == 409

        done = {"status": "completed", "output": "paid 7"}
        assert (await http.post(SETTLEMENTS, json={**other, **done})).status_code != 200
        assert (await http.post(SETTLEMENTS, json={**one, **done})).status_code == 200
    async with elsewhere.worker(monkeypatch):
        assert (await engine.finish(run)).status == "completed"
    assert elsewhere.effects == []
    assert (await made(run))["pay"].output == "paid 7"


async def test_a_call_that_nobody_approved_is_not_released_by_a_workflow_that_says_so(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with elsewhere.worker(monkeypatch):
        run = await engine.start(CLERK, asks(call("pay", amount=7)), says("Not paid."))
        approval = await run.next_approval(PATIENCE)
        turn = next(step for step in await run.steps() if step.kind == "model_call")
        wanted = {
            "id": "call_1",
            "tool": "pay",
            "digest": approval.digest,
            "key": f"horarium/{run.id}/call_1",
            "source": f"{run.id}/{turn.number:04d}",
            "effect": "read",
        }
        step = ToolStep.model_validate(
            {
                "run": run.id,
                "agent": CLERK.name,
                "tenant": "default",
                "number": 3,
                "call": wanted,
                "approval": approval.id,
            }
        )
        queue = f"forged-{new_run_id()}"
        async with Worker(engine.env.client, task_queue=queue, workflows=[ForgedAsking]):
            outcome = await engine.env.client.execute_workflow(
                ForgedAsking.run,
                args=[elsewhere.queue, step.model_dump(mode="json")],
                id=new_run_id(),
                task_queue=queue,
                execution_timeout=PATIENCE,
            )

        assert (outcome["status"], outcome["code"]) == ("refused", "not_approved")
        assert elsewhere.effects == []
        await run.reject(approval, by="ana")
        assert (await engine.finish(run)).status == "completed"
    assert elsewhere.effects == []


async def test_a_worker_whose_key_is_revoked_ends_and_says_so_and_its_call_waits_for_another(
    engine: Engine, elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    second = await key_for(engine, f"tools:{elsewhere.group}")
    async with elsewhere.worker(monkeypatch) as working:
        run = await engine.start(CLERK, asks(call("glance", what="x")), says())
        assert (await engine.finish(run)).status == "completed"
        await revoke(engine, elsewhere.key)

        run = await engine.start(CLERK, asks(call("pay", amount=7)), says("Paid."))
        await approved(run)
        with pytest.raises(GatewayRefuses, match="wrong, expired or revoked"):
            await asyncio.wait_for(asyncio.shield(working), 30)

    assert elsewhere.effects == []
    async with elsewhere.worker(monkeypatch, key=second):
        assert (await engine.finish(run)).status == "completed"
    assert elsewhere.effects == ["pay 7"]


async def test_what_does_not_work_through_a_gateway_is_refused_before_anything_is_served(
    elsewhere: Elsewhere, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HORARIUM_GATEWAY_KEY", elsewhere.key)

    @tool(effect="read")
    def read_file(name: str, context: ToolContext) -> str:
        """Read a file of the thread."""
        return context.workspace.read_text(name)

    with pytest.raises(ConfigError, match="'read_file' uses the workspace"):
        await serve_tools([read_file], name=elsewhere.group, settings=elsewhere.settings)
    with pytest.raises(GatewayRefuses, match="for the tool worker 'another'"):
        await serve_tools(tools_of(elsewhere.directory), name="another", settings=elsewhere.settings)
    with pytest.raises(ValueError, match="over https"):
        ToolsSettings(gateway="http://gateway.example.com")
