"""Both ways in which runs are carried out: a module that takes this fixture over says the same of either."""

from __future__ import annotations

from typing import get_args

import pytest

from horarium.definition import Execution

in_both_modes = pytest.mark.usefixtures("execution")  # one test, or all of a module as its `pytestmark`


@pytest.fixture(params=get_args(Execution))
def execution(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Execution:
    """Steps, then segments; the processes that a test starts follow it too."""
    mode: Execution = request.param
    monkeypatch.setenv("HORARIUM_WORKER__EXECUTION", mode)
    return mode
