"""Logs: named events with fields, for people on a terminal and as JSON lines elsewhere, without secrets."""

from __future__ import annotations

import io
import logging
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, BinaryIO

import structlog

from horarium.secrets import REFERENCE, conceal, redact
from horarium.settings import Settings

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


def hide_secrets(settings: Settings) -> None:
    """Make every secret that the settings refer to known, before one of them is used, so that no event shows it."""
    for text in _texts(settings.model_dump()):
        match = REFERENCE.match(text)
        if match is not None:
            conceal(os.environ.get(match.group(1), ""))


def clean_output() -> None:
    """Let no known secret through this process's stdout and stderr: tools print, and the logs keep it."""
    sys.stdout, sys.stderr = (_CleanStream(stream.buffer, stream.errors) for stream in (sys.stdout, sys.stderr))


class _CleanStream(io.TextIOWrapper):
    def __init__(self, buffer: BinaryIO, errors: str | None) -> None:
        super().__init__(buffer, encoding="utf-8", errors=errors, write_through=True)

    def write(self, text: str) -> int:
        super().write(redact(text))
        return len(text)


def _texts(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for item in value.values():
            yield from _texts(item)
    elif isinstance(value, Sequence):
        for item in value:
            yield from _texts(item)


def _without_secrets(_logger: Any, _method: str, event: Any) -> Any:
    # What begins with an underscore is the logging machinery's own, and is not shown.
    return {key: value if key.startswith("_") else _redacted(value) for key, value in event.items()}


def _redacted(value: Any) -> Any:
    match value:
        case str():
            return redact(value)
        case Mapping():
            return {key: _redacted(item) for key, item in value.items()}
        case list() | tuple() | set():
            return [_redacted(item) for item in value]
        case None | bool() | int() | float():
            return value
        case _:
            text = repr(value)
            cleaned = redact(text)
            return value if cleaned == text else cleaned
