"""Files that commands write: whole or not at all, and for this user only, because they say who did what."""

from __future__ import annotations

import os
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO

from horarium.errors import ConfigError


@contextmanager
def whole(file: Path | None) -> Iterator[IO[str]]:
    """A file that is there when everything was written, and else is as it was; None: stdout. Lines end with LF.

    Raises:
        ConfigError: It cannot be written.
    """
    if file is None:
        yield sys.stdout
        return
    try:
        # Of this user only, as `tempfile` makes it.
        with tempfile.NamedTemporaryFile("w", encoding="utf-8", dir=file.parent, delete=False, newline="") as made:
            written = Path(made.name)
            try:
                yield made
                made.flush()
                os.fsync(made.fileno())
                written.replace(file)
            except BaseException:
                written.unlink(missing_ok=True)
                raise
    except OSError as error:
        raise ConfigError(f"Cannot write {file}: {error.strerror}.", hint="Name another file.") from error
