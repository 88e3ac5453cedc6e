"""Servers and tools of other people, installed once into the user's cache and used as they are."""

from __future__ import annotations

import fcntl
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

NODE = "node@22.23.3"  # the conformance suite needs Node 22
FILESYSTEM = "@modelcontextprotocol/server-filesystem@2026.8.31"
CONFORMANCE = "@modelcontextprotocol/conformance@0.1.16"
# The server was made for the SDK's first major version, so it has an environment of its own.
SQLITE = ("mcp-server-sqlite==2025.4.25", "mcp==1.30.0")
OPENAI = "openai@7.57.0"  # the official client for JavaScript
INSTALL_SECONDS = 240
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "horarium-tests"


def node_modules() -> Path:
    """Where the npm packages are."""
    if shutil.which("npm") is None:
        pytest.skip("npm is not installed")
    return _from_npm("npm", NODE, FILESYSTEM, CONFORMANCE)


def openai_client() -> Path:
    """The folder of npm packages that has OpenAI's client. Fails where it cannot be had."""
    if shutil.which("npm") is None:
        pytest.fail("npm is not installed")
    return _from_npm("npm-openai", OPENAI)


def _from_npm(name: str, *packages: str) -> Path:
    def install(directory: Path) -> None:
        patience = [
            "--fetch-retries=2",
            "--fetch-retry-mintimeout=1000",
            "--fetch-retry-maxtimeout=5000",
            "--fetch-timeout=60000",
        ]
        command = ["npm", "install", "--no-audit", "--no-fund", *patience, "--prefix", str(directory)]
        _run([*command, *packages])

    return _installed(name, " ".join(packages), install) / "node_modules"


def node() -> str:
    """Node 22."""
    return str(node_modules() / "node" / "bin" / "node")


def filesystem_server(directory: Path) -> tuple[str, ...]:
    """The reference server for files, allowed to work in one directory."""
    script = node_modules() / "@modelcontextprotocol" / "server-filesystem" / "dist" / "index.js"
    return (node(), str(script), str(directory))


def sqlite_server(database: Path) -> tuple[str, ...]:
    """The reference server for a SQLite file."""

    def install(directory: Path) -> None:
        _run([sys.executable, "-m", "venv", str(directory)])
        _run([str(directory / "bin" / "pip"), "install", "--quiet", *SQLITE])

    program = _installed("sqlite", " ".join(SQLITE), install) / "bin" / "mcp-server-sqlite"
    return (str(program), "--db-path", str(database))


_refused: dict[str, str] = {}


def _installed(name: str, wanted: str, install: Callable[[Path], None]) -> Path:
    """The directory with what is wanted; two sessions do not install at once."""
    CACHE.mkdir(parents=True, exist_ok=True)
    directory, note = CACHE / name, CACHE / f"{name}.installed"
    with (CACHE / f"{name}.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not note.exists() or note.read_text() != wanted:
            if name in _refused:
                pytest.fail(_refused[name])
            note.unlink(missing_ok=True)
            shutil.rmtree(directory, ignore_errors=True)
            try:
                install(directory)
            except pytest.fail.Exception as failed:
                _refused[name] = str(failed)  # the next test need not try again
                raise
            note.write_text(wanted)
    return directory


def _run(command: list[str]) -> None:
    # Where Python is told of a certificate authority, node has to be told as well.
    authority = os.environ.get("NODE_EXTRA_CA_CERTS") or os.environ.get("SSL_CERT_FILE")
    environment = {**os.environ, **({"NODE_EXTRA_CA_CERTS": authority} if authority else {})}
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=INSTALL_SECONDS, check=False, env=environment
        )
    except subprocess.TimeoutExpired:
        pytest.fail(f"not to be installed here within {INSTALL_SECONDS} s: {command[0]}")
    if done.returncode:
        pytest.fail(f"not to be installed here: {done.stderr.strip()[-300:]}")
