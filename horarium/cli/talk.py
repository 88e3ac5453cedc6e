"""How commands talk: results to stdout, everything else to stderr, errors in two lines, and the exit codes."""

from __future__ import annotations

import asyncio
import json
import sys
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

import typer
from pydantic import ValidationError
from rich.cells import cell_len, set_cell_size
from rich.console import Console, RenderableType
from rich.table import Table
from rich.text import Text

from horarium.errors import ConfigError, HorariumError, NotFound, Unreachable

DONE, RUN_FAILED, TYPED_WRONG, UNREACHABLE, INTERRUPTED = 0, 1, 2, 3, 130


def out() -> Console:
    """Where results go."""
    return Console(soft_wrap=not sys.stdout.isatty(), highlight=False, markup=False, emoji=False)


def err() -> Console:
    """Where talk goes."""
    return Console(stderr=True, soft_wrap=not sys.stderr.isatty(), highlight=False, markup=False, emoji=False)


def say(message: str) -> None:
    """A line of talk."""
    err().print(Text(message), soft_wrap=True)


def emit(value: Any) -> None:
    """One JSON value on one line; what could steer a terminal is escaped."""
    print(json.dumps(value, default=str), flush=True)


def table(columns: Sequence[str], rows: Sequence[Sequence[str | Text]], *, keep: Sequence[str] = ()) -> RenderableType:
    """Columns that fold on a terminal, except those to keep whole; in a pipe no line is ever cut or folded."""
    if not sys.stdout.isatty():
        return _plain(columns, rows)
    made = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for name in columns:
        made.add_column(name.upper(), no_wrap=name in keep, overflow="fold")
    for row in rows:
        made.add_row(*row)
    return made


def _plain(columns: Sequence[str], rows: Sequence[Sequence[str | Text]]) -> Text:
    cells = [[name.upper() for name in columns], *([str(cell) for cell in row] for row in rows)]
    widths = [max(map(cell_len, column)) for column in zip(*cells, strict=True)]
    lines = ("  ".join(map(set_cell_size, row, widths)).rstrip() for row in cells)
    return Text("\n".join(lines))


def perform(
    work: Coroutine[Any, Any, int | None], *, loop: Callable[[], asyncio.AbstractEventLoop] | None = None
) -> None:
    """Run a command's work to its exit code; errors raised on purpose become two lines, never a traceback.

    `loop` makes another event loop than Python's own, for what runs long.
    """
    try:
        with asyncio.Runner(loop_factory=loop) as runner:
            code = runner.run(work)
    except KeyboardInterrupt:
        raise typer.Exit(INTERRUPTED) from None
    except HorariumError as error:
        problem(error.message, error.hint)
        raise typer.Exit(exit_code(error)) from None
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        problem(f"{'.'.join(str(part) for part in first['loc'])}: {first['msg']}", "See the command's --help.")
        raise typer.Exit(TYPED_WRONG) from None
    if code:
        raise typer.Exit(code)


def problem(message: str, hint: str | None) -> None:
    """What went wrong, and the command to try."""
    say(f"Error: {message}")
    if hint:
        say(hint)


def exit_code(error: HorariumError) -> int:
    """2 for what was typed or written wrong, 3 for a server that does not answer, 1 for the rest."""
    if isinstance(error, Unreachable):
        return UNREACHABLE
    return TYPED_WRONG if isinstance(error, NotFound | ConfigError) else RUN_FAILED
