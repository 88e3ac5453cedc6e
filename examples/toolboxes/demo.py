"""A run with a toolbox, from start to end: `python demo.py`, with nothing else running.

Starts the depot's API and `horarium up`, lets the agent look at a parcel, approves that it is redirected, and shows
what became of it. Then it makes a second version of the toolbox and lets it count.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TypeVar

T = TypeVar("T")

HERE = Path(__file__).resolve().parent
ENVIRONMENT = {**os.environ, "DEPOT_TOKEN": "only-for-this-example", "HORARIUM_BY": "ana"}
PATIENCE_SECONDS = 90.0


def main() -> None:
    """Do it, in a copy of this folder."""
    with tempfile.TemporaryDirectory() as directory, depot() as url:
        project = Path(directory) / "toolboxes"
        shutil.copytree(HERE, project, ignore=shutil.ignore_patterns(".horarium", "__pycache__"))
        document = project / "apis" / "depot.yaml"
        document.write_text(document.read_text().replace("http://127.0.0.1:8750", url))
        with up(project):
            use(project)
            change(project)


def use(project: Path) -> None:
    """A run that looks, and asks before it changes anything."""
    horarium(project, "toolbox", "check")
    run = json.loads(horarium(project, "run", "desk", "Where is 4711? Send it to the shop.", "--json"))["run"]
    horarium(project, "toolbox", "show", "parcels")
    asked = wait_for(lambda: horarium(project, "approvals", "list", "--json", quiet=True))
    horarium(project, "approvals", "approve", json.loads(asked)["id"])
    horarium(project, "runs", "watch", run)


def change(project: Path) -> None:
    """Another version, which counts when somebody says so."""
    file = project / "toolboxes" / "parcels.yaml"
    file.write_text(file.read_text().replace("[getParcel, redirectParcel]", "[getParcel]"))
    horarium(project, "toolbox", "publish")
    horarium(project, "toolbox", "list")
    horarium(project, "toolbox", "diff", "parcels", "1", "2")
    horarium(project, "toolbox", "promote", "parcels", "2")
    horarium(project, "toolbox", "rollback", "parcels")


@contextlib.contextmanager
def depot() -> Iterator[str]:
    """The API, on a port that is free."""
    command = [sys.executable, str(HERE / "depot.py"), "0"]
    running = subprocess.Popen(command, env=ENVIRONMENT, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    try:
        yield (running.stdout.readline() if running.stdout else "").split()[-1]
    finally:
        running.kill()
        running.wait()


@contextlib.contextmanager
def up(project: Path) -> Iterator[None]:
    """`horarium up`, ready."""
    with (project / "up.log").open("wb") as log:
        command = [sys.executable, "-m", "horarium", "up"]
        running = subprocess.Popen(command, cwd=project, env=ENVIRONMENT, stdout=log, stderr=subprocess.STDOUT)
    try:
        wait_for(lambda: (project / ".horarium" / "stack.json").exists())
        yield
    finally:
        running.terminate()
        running.wait()


def horarium(project: Path, *words: str, quiet: bool = False) -> str:
    """Type a command, and show it with its answer."""
    command = [sys.executable, "-m", "horarium", *words]
    done = subprocess.run(command, cwd=project, env=ENVIRONMENT, capture_output=True, text=True, check=False)
    if not quiet:
        print(f"\n$ horarium {' '.join(words)}\n{done.stdout}{done.stderr}".rstrip(), flush=True)
    if done.returncode:
        raise SystemExit(f"It ended with {done.returncode}: {done.stderr}")
    return done.stdout


def wait_for(look: Callable[[], T]) -> T:
    """What is there at last."""
    until = time.monotonic() + PATIENCE_SECONDS
    while time.monotonic() < until:
        if found := look():
            return found
        time.sleep(0.2)
    raise SystemExit("That takes too long.")


if __name__ == "__main__":
    main()
