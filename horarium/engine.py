"""The way into the engine's folders, for the processes that run it and for nobody else.

In a checkout they stand beside this package, in a wheel below `horarium/_engine`. Another package may
have the same names, so ours go first on the path, and one that was imported before is refused by its name.
"""

from __future__ import annotations

import sys
from pathlib import Path

from horarium.errors import ConfigError

ENGINE_NAMES = ("workflows", "activities", "workers", "schedules")


def engine_root() -> Path:
    """The directory in which the engine's folders are."""
    package = Path(__file__).resolve().parent
    installed = package / "_engine"
    return installed if installed.is_dir() else package.parent


def use_engine() -> None:
    """Make the engine importable in this process.

    Raises:
        ConfigError: One of its names is imported already, from elsewhere.
    """
    root = engine_root()
    for name in ENGINE_NAMES:
        module = sys.modules.get(name)
        places = [str(Path(place).resolve()) for place in getattr(module, "__path__", [])]
        if module is not None and str(root / name) not in places:
            raise ConfigError(
                f"The engine needs the name {name!r}, which is imported already from {places or module!r}.",
                hint="Start the engine in a process of its own: horarium worker",
            )
    path = str(root)
    sys.path[:] = [path, *(entry for entry in sys.path if entry != path)]
