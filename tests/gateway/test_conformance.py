"""The server scenarios of MCP's own conformance suite that are about tools, against a served toolbox.

The suite and the Node that it needs come from npm, once, into a cache. What is left out, and why, is in
docs/guides/serving-toolboxes.md.
"""

from __future__ import annotations

import asyncio
from pathlib import Path

import pytest
from temporalio.testing import WorkflowEnvironment

from horarium.gateway.serving import serving
from horarium.ledger.toolboxes import Toolboxes
from horarium.toolboxes import Toolbox
from tests.gateway.conformance_tools import TOOLS
from tests.gateway.conftest import PATIENT, of_gateway
from tests.support.engine import running_engine
from tests.support.thirdparty import node, node_modules

SCENARIOS = (
    "server-initialize",
    "ping",
    "tools-list",
    "tools-call-simple-text",
    "tools-call-image",
    "tools-call-audio",
    "tools-call-embedded-resource",
    "tools-call-error",
    "tools-call-with-progress",
    "server-sse-multiple-streams",
    "dns-rebinding-protection",
)


pytestmark = [pytest.mark.slow, pytest.mark.timeout(400)]  # the first installs


@pytest.fixture(scope="session")
def conformance() -> list[str]:
    """The command of the suite, installed when it is not there."""
    return [node(), str(node_modules() / "@modelcontextprotocol" / "conformance" / "dist" / "index.js")]


async def test_the_scenarios_about_tools_pass(env: WorkflowEnvironment, tmp_path: Path, conformance: list[str]) -> None:
    async with running_engine(env, tmp_path / "project", TOOLS) as engine:
        toolbox = Toolbox(name="conformance", tools=tuple(item.name for item in TOOLS))
        await Toolboxes(engine.ledger).register(toolbox)
        async with serving(engine.client, of_gateway(engine.settings, PATIENT), host="127.0.0.1", port=0) as served:
            at_once = asyncio.Semaphore(3)

            async def run(scenario: str) -> str | None:
                async with at_once:
                    return await _run(conformance, served.address("conformance"), scenario, tmp_path)

            said = await asyncio.gather(*map(run, SCENARIOS))

    assert {scenario: words for scenario, words in zip(SCENARIOS, said, strict=True) if words is not None} == {}


async def _run(command: list[str], url: str, scenario: str, directory: Path) -> str | None:
    """What the suite has against us; None when nothing. Every check has to have passed, and there has to be one."""
    process = await asyncio.create_subprocess_exec(
        *(*command, "server", "--url", url, "--scenario", scenario, "--verbose"),
        cwd=directory,
        stdout=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.STDOUT,
    )
    try:
        output, _ = await asyncio.wait_for(process.communicate(), 60)
    finally:
        if process.returncode is None:
            process.kill()
    said = output.decode("utf-8", "replace")
    passed = '"status": "SUCCESS"' in said
    return None if process.returncode == 0 and passed else said[-1_500:]
