"""How much Hypothesis tries: a fixed, bounded set in CI, more and different ones at a desk; and how a session ends."""

from __future__ import annotations

import os

import pytest
from hypothesis import HealthCheck, settings

from horarium.definition import Execution
from horarium.leaving import leave

_SLOW_MACHINES = [HealthCheck.too_slow, HealthCheck.data_too_large, HealthCheck.filter_too_much]

settings.register_profile(
    "ci", max_examples=60, derandomize=True, deadline=None, database=None, suppress_health_check=_SLOW_MACHINES
)
settings.register_profile("default", max_examples=60, deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.register_profile("long", max_examples=2_000, deadline=None, suppress_health_check=_SLOW_MACHINES)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE") or ("ci" if os.environ.get("CI") else "default"))

_EXIT_CODE = pytest.StashKey[int]()


@pytest.fixture
def execution() -> Execution:
    """How runs are carried out; modules whose promises hold either way take `tests.support.modes` in its place."""
    return "steps"


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep what the session came to."""
    session.config.stash[_EXIT_CODE] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End as our other processes do: the threads of Temporal's core could turn a success into an abort."""
    code = config.stash.get(_EXIT_CODE, None)
    if code is not None:
        leave(code)
