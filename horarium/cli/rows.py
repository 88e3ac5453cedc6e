"""Lists whose rows have more to say than fits beside each other: on a terminal below them, in a pipe in a last column."""

from __future__ import annotations

from collections.abc import Sequence

from rich.cells import cell_len, set_cell_size
from rich.padding import Padding
from rich.text import Text

from horarium.cli import talk

Row = tuple[Sequence[str | Text], Sequence[str]]  # the columns, and lines to stand below them
_LEAST = 20  # columns of a terminal that a value gets


def heading(text: str) -> None:
    """What the next lines are about."""
    talk.out().print()
    talk.out().print(Text(text, "bold"))


def pairs(values: Sequence[tuple[str, str]]) -> None:
    """A word, and its value; what does not fit on a line goes on below itself."""
    out = talk.out()
    width = max((cell_len(key) for key, _ in values), default=0)
    for key, value in values:
        if out.is_terminal:
            lines = Text(value).wrap(out, max(out.width - width - 4, _LEAST))
            for number, line in enumerate(lines):
                out.print(Text.assemble("  ", (set_cell_size("" if number else key, width), "dim"), "  ", line))
        else:
            out.print(Text(f"  {set_cell_size(key, width)}  {value}"))


def print_rows(columns: Sequence[str], rows: Sequence[Row]) -> None:
    """The rows, under the names of their columns."""
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
        line = Text()
        for cell, width in zip(row, widths, strict=True):
            line.append_text(cell).append(" " * (width - cell.cell_len + 2))
        line.rstrip()
        out.print(line, soft_wrap=True)
        for text in below:
            out.print(Padding(Text(text, style="dim"), (0, 0, 0, 4)))
