"""How a process of ours ends.

Threads of Temporal's core outlive the event loop, and can abort the process while Python tears itself down: with exit
code 134 after everything went well (temporalio/sdk-python#300, seen with 1.35 on Python 3.11). So what is buffered is
written, and the process ends without the teardown.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sys
from typing import NoReturn


def leave(code: int) -> NoReturn:
    """End the process now, with everything written."""
    logging.shutdown()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError, ValueError):  # a closed pipe, or a stream that was closed
            stream.flush()
    os._exit(code)
