"""The secret that signs links: made once for a project, or given by the environment where several machines share it."""

from __future__ import annotations

import contextlib
import os
import secrets
from pathlib import Path

from horarium.errors import ConfigError
from horarium.secrets import conceal
from horarium.settings import Settings

VARIABLE = "HORARIUM_LINK_SECRET"
FILE = "link-secret"
_SHORTEST = 32  # characters


def link_secret(settings: Settings) -> str:
    """The secret that signs links: from the environment, else the project's own file, made at first use.

    Raises:
        ConfigError: It cannot be read or written, or is too short to be one.
    """
    secret = os.environ.get(VARIABLE)
    where = f"the environment variable {VARIABLE}"
    if secret is None:
        file = settings.state / "secrets" / FILE
        where = str(file)
        try:
            secret = _read_or_make(file)
        except OSError as error:
            raise ConfigError(f"Cannot use {file}: {error.strerror}.", hint=f"Or set {VARIABLE}.") from error
    if len(secret) < _SHORTEST:
        raise ConfigError(
            f"The secret in {where} is shorter than {_SHORTEST} characters.",
            hint="Make one with: openssl rand -base64 32",
        )
    conceal(secret)
    return secret


def _read_or_make(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return file.read_text("ascii").strip()
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(secrets.token_urlsafe(32))
            opened.flush()
            os.fsync(opened.fileno())
        # A link and no rename: of two who make one at once, the first wins and both read the same.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(part)
    finally:
        part.unlink()
    return file.read_text("ascii").strip()
