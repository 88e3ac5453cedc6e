"""How much Hypothesis tries, in CI a fixed set; which tests begin when several run at once; and how a session ends."""

from __future__ import annotations

import gc
import os
from itertools import groupby

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


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Let what takes long begin first, on every process of pytest-xdist: at the end it would run alone.

    Each process is given an even, contiguous part of the list, so each part begins with some of them. Those of one
    folder stay together: what is heavy in the same way does not come three times at once.
    """
    parts = int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "1"))
    modules = [list(tests) for _, tests in groupby(items, key=lambda item: item.path)]
    slow = [module for module in modules if _is_slow(module)]
    others = [test for module in modules if not _is_slow(module) for test in module]
    begins: list[list[pytest.Item]] = [[] for _ in range(parts)]
    for number, (_, folder) in enumerate(groupby(slow, key=lambda module: module[0].path.parent)):
        begins[number % parts] += [test for module in folder for test in module]
    size, ordered = -(-len(items) // parts), list[pytest.Item]()
    for part, begin in enumerate(begins, start=1):
        room = max(0, part * size - len(ordered) - len(begin))
        ordered += [*begin, *others[:room]]
        others = others[room:]
    items[:] = [*ordered, *others]


def _is_slow(module: list[pytest.Item]) -> bool:
    return any(test.get_closest_marker("slow") for test in module)


def pytest_collection_finish() -> None:
    """Leave what was imported and collected out of every later look for garbage.

    That is a million objects. Going through them in the middle of a workflow's task, while other processes have the
    cores, takes long enough for Temporal to believe in a deadlock, and to interrupt whatever the thread is doing.
    """
    gc.collect()
    gc.freeze()


def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    """Keep what the session came to."""
    session.config.stash[_EXIT_CODE] = int(exitstatus)


@pytest.hookimpl(trylast=True)
def pytest_unconfigure(config: pytest.Config) -> None:
    """End as our other processes do: the threads of Temporal's core could turn a success into an abort."""
    code = config.stash.get(_EXIT_CODE, None)
    if code is not None:
        leave(code)
