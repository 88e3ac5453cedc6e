"""What these tests share: servers of the other suites, and a directory with a secret beside it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from horarium.workspace import Workspace
from tests.core.conftest import fresh, kind, new_settings, postgres
from tests.engine.conftest import env

__all__ = ["env", "fresh", "kind", "new_settings", "postgres"]

SECRET = "the secret"


@pytest.fixture
def outside(tmp_path: Path) -> Path:
    """A directory that nothing may be read from or written to."""
    directory = tmp_path / "outside"
    directory.mkdir()
    (directory / "secret").write_text(SECRET)
    return directory


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    made = tmp_path / "inside"
    made.mkdir()
    return made


@pytest.fixture
def workspace(directory: Path) -> Iterator[Workspace]:
    made = Workspace(directory)
    yield made
    made.close()
