"""The bench itself: its table has the rows it promises. What the figures are is no test's business."""

from __future__ import annotations

import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from bench.__main__ import main
from bench.parts import PARTS
from bench.report import FRUGAL, Report, Row, table


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_the_bench_measures_steps_decisions_and_parked_runs_and_writes_them_down(tmp_path: Path) -> None:
    file = tmp_path / "report.json"

    assert main(["--quick", "--only", "steps,decide,parked", "--out", str(file)]) == 0

    rows = json.loads(file.read_text("utf-8"))["rows"]
    assert [(row["measure"], row["against"]) for row in rows] == [
        ("a step, 10 turns", "bare"),
        ("a step, 10 turns", "frugal bare"),
        ("a step, 10 turns, absolute", None),
        ("a step, 100 turns", "bare"),
        ("a step, 100 turns", "frugal bare"),
        ("a step, 100 turns, absolute", None),
        ("history of 100 turns", "frugal bare"),
        ("decision sent → effect", None),
        ("decision sent → effect, p99", None),
        ("memory of a parked run, cached", None),
        ("memory of a parked run, evicted", None),
        ("kill -9, 30 approved → all done", None),
    ]
    figures = {row["measure"]: row["horarium"] for row in rows}
    # So few runs weigh next to nothing: what the evicted ones left may even be less than none.
    assert all(figure > 0 for measure, figure in figures.items() if "evicted" not in measure)
    assert figures["decision sent → effect, p99"] >= figures["decision sent → effect"]
    assert [row["met"] in (True, False) for row in rows] == [row["bar"] is not None for row in rows]


@pytest.mark.parametrize(("columns", "most_lines"), [(80, 2), (120, 1)])
def test_a_row_of_the_table_wraps_once_at_most(columns: int, most_lines: int) -> None:
    rows = [
        Row(part="kill", measure="kill -9 at a random moment → next step", unit="s", horarium=2.4, bar=3),
        Row(part="steps", measure="history of 100 turns", unit="bytes", horarium=282_818, against=FRUGAL, other=11e6),
        Row(part="long", measure="a step, 1,000 turns", unit="ms", horarium=11, against="at 100 turns", other=10),
    ]
    terminal = Console(width=columns, record=True, file=io.StringIO())

    terminal.print(table(Report.of(rows, quick=True)))

    lines = terminal.export_text().splitlines()
    body = lines[next(at for at, line in enumerate(lines) if "───" in line) + 1 :]
    body = body[: next(at for at, line in enumerate(body) if "Medians" in line)]
    assert len(rows) <= len(body) <= most_lines * len(rows)
    assert "…" not in "".join(lines)


def test_help_names_every_part_with_what_it_measures(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])

    said = capsys.readouterr().out.splitlines()
    described = {line.split()[0] for line in said if line.startswith("  ") and len(line.split()) > 3}
    assert set(PARTS) <= described


def test_a_part_that_does_not_exist_is_refused_by_its_name(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--only", "stepz"])

    assert "stepz" in capsys.readouterr().err
