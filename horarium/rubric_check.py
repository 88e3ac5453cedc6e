"""A rubric's check in a process of its own: `python -m horarium.rubric_check ROOT FILE:FUNCTION`, a `JudgedRun` as JSON
on standard input.

It is the project's code, and the engine waits for its word: here it can be stopped, and can take nothing down. The
last line of standard output is the answer; what the check prints goes to standard error.
"""

from __future__ import annotations

import asyncio
import contextlib
import importlib.util
import inspect
import json
import math
import sys
from pathlib import Path
from typing import Any

from horarium.memories import JudgedRun, JudgedStep


def main(root: str, check: str) -> None:
    """Run the check and print what it says."""
    run = json.load(sys.stdin)
    steps = tuple(JudgedStep(**step) for step in run.pop("steps"))
    with contextlib.redirect_stdout(sys.stderr):
        answer = _answer(Path(root), check, JudgedRun(**run, steps=steps))
    print(json.dumps(answer))


def _answer(root: Path, check: str, run: JudgedRun) -> dict[str, Any]:
    try:
        function = _function(root, check)
        said = function(run)
        if inspect.isawaitable(said):
            said = asyncio.run(_awaited(said))
    except Exception as error:
        return {"error": f"{type(error).__name__}: {error}"}
    if isinstance(said, bool):
        return {"score": 1.0 if said else 0.0}
    if not isinstance(said, int | float) or not math.isfinite(said) or not 0 <= said <= 1:
        return {"error": f"It gave {said!r}: give a bool, or a number from 0 to 1."}
    return {"score": float(said)}


async def _awaited(said: Any) -> Any:
    return await said


def _function(root: Path, check: str) -> Any:
    name, _, function = check.partition(":")
    file = (root / name).resolve()
    if not file.is_relative_to(root.resolve()) or not file.is_file():
        raise FileNotFoundError(f"there is no file {name} in the project")
    sys.path.append(str(root))
    spec = importlib.util.spec_from_file_location(f"_horarium_rubric_{file.stem}", file)
    if spec is None or spec.loader is None:
        raise ImportError(f"{name} is no Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return getattr(module, function)


if __name__ == "__main__":
    main(*sys.argv[1:3])
