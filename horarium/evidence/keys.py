"""The key that signs evidence: made once for a project, or given by the environment where several machines share it.

It is no approver key: whoever has it says what the ledger held, and can release nothing.
"""

from __future__ import annotations

import base64
import binascii
import contextlib
import hashlib
import os
import secrets
import stat
from pathlib import Path

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

from horarium.errors import ConfigError
from horarium.secrets import conceal
from horarium.settings import Settings

VARIABLE = "HORARIUM_EVIDENCE_KEY"
FILE = "evidence-key"


class EvidenceKey:
    """A private key. `public` is what a verifier pins, `id` is derived from it."""

    def __init__(self, private: str) -> None:
        """`private`: 32 bytes as base64url without padding.

        Raises:
            ValueError: It is something else.
        """
        conceal(private)
        self._private = Ed25519PrivateKey.from_private_bytes(decoded(private, 32))
        self.public = encoded(self._private.public_key().public_bytes_raw())
        self.id = key_id(self.public)

    @classmethod
    def of(cls, settings: Settings) -> EvidenceKey:
        """The project's: from the environment, else from its own file, made at first use.

        Raises:
            ConfigError: It cannot be read or written, is no key, or its file is open to others.
        """
        given = os.environ.get(VARIABLE)
        file = settings.state / "secrets" / FILE
        where = f"the environment variable {VARIABLE}" if given is not None else str(file)
        try:
            return cls(given.strip() if given is not None else _read_or_make(file))
        except OSError as error:
            raise ConfigError(f"Cannot use {file}: {error.strerror}.", hint=f"Or set {VARIABLE}.") from error
        except ValueError as error:
            raise ConfigError(
                f"There is no evidence key in {where}: it is 32 bytes as base64url, without padding.",
                hint=f"Move the file away and a new one is made, or set {VARIABLE}.",
            ) from error

    def sign(self, statement: bytes) -> str:
        """The signature, as base64url without padding."""
        return encoded(self._private.sign(statement))


def signed_by(public: str, signature: str, statement: bytes) -> bool:
    """Whether the holder of a key signed this."""
    try:
        Ed25519PublicKey.from_public_bytes(decoded(public, 32)).verify(decoded(signature, 64), statement)
    except (ValueError, InvalidSignature):
        return False
    return True


def key_id(public: str) -> str:
    """The short name of a public key."""
    return f"evk_{hashlib.sha256(public.encode()).hexdigest()[:16]}"


def encoded(data: bytes) -> str:
    """Base64url without padding."""
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def decoded(text: str, length: int) -> bytes:
    """What `encoded` wrote, and nothing else that would decode to the same.

    Raises:
        ValueError: It is something else, or of another length.
    """
    try:
        data = base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
    except (binascii.Error, UnicodeEncodeError) as error:
        raise ValueError("is no base64url") from error
    # The last character has bits to spare: without this look, it could be changed and mean the same.
    if len(data) != length or encoded(data) != text:
        raise ValueError(f"is not {length} bytes")
    return data


def _read_or_make(file: Path) -> str:
    with contextlib.suppress(FileNotFoundError):
        return _read(file)
    file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
    part = file.with_name(f".{file.name}.{secrets.token_hex(8)}")
    descriptor = os.open(part, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(descriptor, "w", encoding="ascii") as opened:
            opened.write(encoded(secrets.token_bytes(32)))
            opened.flush()
            os.fsync(opened.fileno())
        # A link and no rename: of two who make one at once, the first wins and both read the same.
        with contextlib.suppress(FileExistsError):
            file.hardlink_to(part)
    finally:
        part.unlink()
    return _read(file)


def _read(file: Path) -> str:
    with file.open(encoding="ascii") as opened:
        mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
        if mode & 0o077:
            raise ConfigError(
                f"{file} is open to others (mode {mode:o}), so what it signs proves nothing.",
                hint=f"Move it away, and a new one is made; or, if nobody can have read it: chmod 600 {file}",
            )
        return opened.read().strip()
