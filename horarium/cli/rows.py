"""Rows that have more to say than fits on a line: on a terminal it stands below them, in a pipe in a last column."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.text import Text

from horarium.cli import talk

Row = tuple[Sequence[str | Text], Sequence[str]]  # the columns, and lines to stand below them
_LEAST = 12  # columns of a terminal that a value gets


def heading(text: str) -> None:
    """What the next lines are about."""
    talk.out().print()
    talk.out().print(Text(text, "bold"))


def pairs(values: Sequence[tuple[str, str]]) -> None:
    """A word, and its value; what does not fit on a line goes on below itself."""
    width = max((cell_len(key) for key, _ in values), default=0)
    for key, value in values:
        hanging(Text.assemble("  ", (set_cell_size(key, width), "dim"), "  "), Text(value))


def indented(text: str, columns: int = 2, style: str = "") -> None:
    """A sentence, moved to the right in all its lines."""
    hanging(Text(" " * columns), Text(text, style=style))


def hanging(start: Text, rest: Text) -> None:
    """A line of two parts; on a terminal what does not fit goes on below the second."""
    out = talk.out()
    room = out.width - start.cell_len - 1
    lines = list(rest.wrap(out, room)) if out.is_terminal and room >= _LEAST else [rest]
    for number, line in enumerate(lines):
        line.rstrip()
        begin = Text(" " * start.cell_len) if number else start
        out.print(Text.assemble(begin, line), soft_wrap=True)


def print_rows(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """The rows, under the names of their columns; the last column is as wide as there is room."""
    out = talk.out()
    if not out.is_terminal:
        more = any(below for _, below in rows)
        plain = [(*row, "; ".join(below)) if more else tuple(row) for row, below in rows]
        out.print(talk.table((*columns, *(["details"] if more else [])), plain))
        return
    cells = [[Text(name.upper(), style="bold") for name in columns]]
    cells += [[cell if isinstance(cell, Text) else Text(cell) for cell in row] for row, _ in rows]
    widths = [max(cell.cell_len for cell in column) for column in zip(*cells, strict=True)]
    for row, below in zip(cells, [(), *(below for _, below in rows)], strict=True):
        start = Text()
        for cell, width in zip(row[:-1], widths, strict=False):
            start.append_text(cell).append(" " * (width - cell.cell_len + 2))
        if not row[-1]:
            start.rstrip()
        hanging(start, row[-1])
        for text in below:
            indented(text, 4, "dim")
