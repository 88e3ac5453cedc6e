"""Logs: named events with fields, for people on a terminal and as JSON lines elsewhere, without secrets."""

from __future__ import annotations

import logging
import sys
from typing import Any

import structlog

from horarium.secrets import redact

# Temporal's SDK reports every failed attempt with its stack; our own events say it shorter.
_NOISY = {"temporalio.activity": logging.ERROR, "temporalio.worker": logging.ERROR, "alembic": logging.WARNING}


def set_up_logging(level: str = "info", *, json: bool | None = None) -> None:
    """Send structlog's and the standard library's events to stderr, in one form.

    Args:
        level: The lowest that is shown.
        json: None: JSON lines unless stderr is a terminal.
    """
    as_json = not sys.stderr.isatty() if json is None else json
    shared: list[Any] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.processors.TimeStamper(fmt="iso", utc=as_json),
        structlog.processors.format_exc_info,
        _without_secrets,
    ]
    renderer = structlog.processors.JSONRenderer() if as_json else structlog.dev.ConsoleRenderer()
    structlog.configure(
        processors=[*shared, structlog.stdlib.ProcessorFormatter.wrap_for_formatter],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.make_filtering_bound_logger(getattr(logging, level.upper())),
        cache_logger_on_first_use=True,
    )
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    for name, least in _NOISY.items():
        logging.getLogger(name).setLevel(least)


def _without_secrets(_logger: Any, _method: str, event: Any) -> Any:
    return {key: redact(value) if isinstance(value, str) else value for key, value in event.items()}
