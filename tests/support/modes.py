"""Both ways in which runs are carried out: a module that takes this fixture over says the same of either."""

from __future__ import annotations

from typing import get_args

import pytest

from horarium.definition import Execution


@pytest.fixture(params=get_args(Execution))
def execution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Execution:
    """Steps, then segments; the processes that a test starts follow it too."""
    mode: Execution = request.param
    monkeypatch.setenv("HORARIUM_WORKER__EXECUTION", mode)
    return mode
