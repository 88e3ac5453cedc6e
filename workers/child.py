"""One process of the embedded stack: started with a log of its own, started again when it dies, never left behind."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from horarium.stack import Process

LONG_ENOUGH = 20.0  # seconds; what lived longer is started again at once
FREE_DEATHS = 1  # of those that come soon; more are answered with a growing delay
FIRST_DELAY, MOST_DELAY = 0.5, 15.0  # seconds
ROTATE_BYTES = 20 * 1024 * 1024
_PR_SET_PDEATHSIG = 1
# Looked up here: between fork and exec nothing may be loaded.
_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


@dataclass
class Child:
    """A process that is to be kept running."""

    name: str
    command: list[str]
    log_file: Path
    environment: Mapping[str, str] = field(default_factory=dict)
    directory: Path | None = None
    inherits: tuple[int, ...] = ()
    process: subprocess.Popen[bytes] | None = None
    _started_at: float = 0.0
    _log_from: int = 0
    _soon: int = 0
    _due: float | None = None

    def start(self) -> None:
        """Start it, its output added to its log; in a session of its own, so that Ctrl-C does not reach it."""
        if self.log_file.exists() and self.log_file.stat().st_size > ROTATE_BYTES:
            self.log_file.replace(self.log_file.with_suffix(".log.1"))
        with self.log_file.open("ab") as output:
            self._log_from = output.tell()
            self.process = subprocess.Popen(
                self.command,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                cwd=self.directory,
                env={**os.environ, **self.environment},
                pass_fds=self.inherits,
                start_new_session=True,
                preexec_fn=_die_with_parent(os.getpid()) if _libc is not None else None,
            )
        self._started_at = time.monotonic()

    @property
    def running(self) -> bool:
        """Whether it lives."""
        return self.process is not None and self.process.poll() is None

    @property
    def pid(self) -> int:
        """Its process id; 0 while it does not live."""
        return self.process.pid if self.process is not None and self.running else 0

    @property
    def as_process(self) -> Process | None:
        """As it is written down."""
        return Process(name=self.name, pid=self.pid) if self.pid else None

    def delay_after_death(self) -> float:
        """Seconds until it may start again: none for the first death, more for each that comes soon after a start."""
        self._soon = 1 if time.monotonic() - self._started_at > LONG_ENOUGH else self._soon + 1
        beyond = self._soon - FREE_DEATHS - 1
        delay = 0.0 if beyond < 0 else min(FIRST_DELAY * 2.0**beyond, MOST_DELAY)
        self._due = time.monotonic() + delay
        return delay

    def revive(self) -> str | None:
        """Start it again when it has died and its delay is over; what there is to say about it, if anything."""
        if self.running:
            return None
        if self._due is None:
            how = self.ending
            delay = self.delay_after_death()
            if delay:
                return f"{self.name} {how}; it is started again in {delay:g} s. Its log: {self.log_file}"
        else:
            how = ""
        if self._due is not None and time.monotonic() < self._due:
            return None
        self._due = None
        self.start()
        return f"{self.name} {how}; started again as process {self.pid}." if how else None

    @property
    def ending(self) -> str:
        """How it ended, in words."""
        code = self.process.returncode if self.process is not None else None
        if code is None:
            return "is not started"
        return f"was ended by {signal.Signals(-code).name}" if code < 0 else f"ended with exit code {code}"

    def said(self) -> str:
        """The last lines it has written since it was started last."""
        try:
            with self.log_file.open("rb") as log:
                log.seek(max(self._log_from, self.log_file.stat().st_size - 8192))
                lines = log.read().decode("utf-8", "replace").splitlines()
        except OSError:
            return ""
        words = [line for line in lines if line.strip()]
        start = next((at for at, line in enumerate(words) if line.startswith("Error: ")), max(0, len(words) - 3))
        return "\n".join(words[start:]).removeprefix("Error: ")

    def terminate(self) -> None:
        """Ask it to end."""
        if self.process is not None and self.running:
            self.process.terminate()

    def end(self, patience_seconds: float) -> None:
        """Wait until it has ended; after this long, end it."""
        if self.process is None:
            return
        try:
            self.process.wait(patience_seconds)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _die_with_parent(parent: int) -> Callable[[], None]:
    def prepare() -> None:
        if _libc is not None:
            _libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL)
        if os.getppid() != parent:  # it died before it was said
            os._exit(1)

    return prepare
