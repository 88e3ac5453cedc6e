"""Effects are done once, approved and kept, whatever is killed. `python -m tests.chaos` is the long form."""

from __future__ import annotations

from pathlib import Path

import pytest

from horarium.definition import Execution
from tests.chaos.book import KINDS
from tests.chaos.harness import Target, chaos


@pytest.mark.slow
@pytest.mark.timeout(300)
@pytest.mark.parametrize(
    ("targets", "kills", "execution"),
    [
        (("engine",), 9, "steps"),
        (("engine",), 9, "segments"),
        (("tools",), 5, "steps"),
        (("server",), 3, "steps"),
        (("engine", "tools", "server"), 4, "steps"),
        (("engine", "tools", "server"), 4, "segments"),
    ],
    ids=["engine", "engine-segments", "tool-worker", "server", "all", "all-segments"],
)
async def test_no_effect_is_lost_or_doubled_under_kill_9(
    tmp_path: Path, targets: tuple[Target, ...], kills: int, execution: Execution
) -> None:
    outcome = await chaos(tmp_path, kills=kills, seed=20261121, targets=targets, execution=execution)

    assert outcome.problems == []
    assert outcome.kills.total() == kills
    assert outcome.runs["completed"] >= 20
    assert set(outcome.findings.effects) == set(KINDS.values())
    assert set(outcome.findings.unknown) == {"retry", "supply"}
    assert outcome.findings.edited > 0
    assert outcome.findings.approvals["rejected"] > 0


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_no_effect_behind_an_mcp_server_is_lost_or_doubled_under_kill_9(tmp_path: Path) -> None:
    outcome = await chaos(tmp_path, kills=8, seed=20261122, mcp=True)

    assert outcome.problems == []
    assert outcome.runs["completed"] >= 20
    assert set(outcome.findings.effects) == {KINDS["post"], KINDS["put"]}
    assert set(outcome.findings.unknown) == {"retry", "supply"}
