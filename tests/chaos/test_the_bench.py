"""The bench itself: its table has the rows it promises. What the figures are is no test's business."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from bench.__main__ import main


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_measures_steps_and_writes_them_down(tmp_path: Path) -> None:
    file = tmp_path / "report.json"

    assert main(["--quick", "--only", "steps,decide,parked", "--out", str(file)]) == 0

    rows = json.loads(file.read_text("utf-8"))["rows"]
    frugal = "bare, list to the model only"
    assert [(row["measure"], row["against"]) for row in rows] == [
        ("a step, 10 turns", "bare"),
        ("a step, 10 turns", frugal),
        ("a step, 10 turns, absolute", None),
        ("a step, 100 turns", "bare"),
        ("a step, 100 turns", frugal),
        ("a step, 100 turns, absolute", None),
        ("history of 100 turns", frugal),
        ("decision → effect", None),
        ("decision → effect, p99", None),
        ("a parked run in the cache, of 15", None),
        ("a parked run more, of 30", None),
        ("30 go on after a kill -9", None),
    ]
    assert all(row["horarium"] > 0 for row in rows if row["part"] != "parked" or row["unit"] == "s")
    assert [row["met"] in (True, False) for row in rows] == [row["bar"] is not None for row in rows]


def test_a_part_that_does_not_exist_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "stepz"])

    assert "stepz" in capsys.readouterr().err
