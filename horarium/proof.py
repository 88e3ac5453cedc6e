"""Who said it, proved by a signature: approver keys, what they sign, and how it is verified.

Whoever reaches Temporal's port can send a decision, or an order about a routine. Where proof is required, one counts
only with an Ed25519 signature over everything it says, made by the gateway after it has authenticated the person, or by
a service that holds a key of its own. A key says whom it may sign for. Workers that only verify need no private key.
"""

from __future__ import annotations

import base64
import binascii
import fcntl
import json
import os
import secrets
import stat
import tempfile
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Any, Self, TypeVar

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from pydantic import (
    AwareDatetime,
    BaseModel,
    ConfigDict,
    Field,
    StringConstraints,
    TypeAdapter,
    ValidationError,
    model_validator,
)

from horarium.content import canonical, digest, digest_text
from horarium.contract import Decision, Proof, Reassignment, Remember, Resolution, RoutineOrder
from horarium.errors import ConfigError, NotFound, ProofInvalid
from horarium.people import is_among
from horarium.secrets import conceal, reveal
from horarium.settings import Settings

FILE = "approver-keys.json"
ANYBODY = "*"
LASTS = timedelta(hours=1)
LEEWAY = timedelta(seconds=30)  # between the clocks of who signs and who verifies
FOR_ADMINS = "Only a key that may sign for anybody can: the gateway's."
LOCK_SECONDS = 10.0  # a key is written in milliseconds

Name = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1, max_length=200)]
Bytes32 = Annotated[str, StringConstraints(pattern=r"^[A-Za-z0-9_-]{43}$")]  # as base64url without padding
Signable = Decision | Resolution | RoutineOrder | Reassignment
Said = TypeVar("Said", Decision, Resolution, RoutineOrder, Reassignment)


class Key(BaseModel):
    """One approver key. Without `private` it can only verify."""

    model_config = ConfigDict(frozen=True, extra="forbid", hide_input_in_errors=True)

    id: str = Field(pattern=r"^key_[0-9a-z]{16}$")
    name: Name = Field(max_length=100)
    subjects: tuple[Name, ...] = Field(min_length=1, description="Whom it may sign for; `*`: anybody.")
    public: Bytes32
    private: Bytes32 | None = Field(default=None, repr=False)
    created_at: AwareDatetime
    expires_at: AwareDatetime | None = None
    revoked_at: AwareDatetime | None = Field(default=None, description="From then on it releases nothing.")

    @model_validator(mode="after")
    def _is_one_pair(self) -> Self:
        if self.private is not None and _public_of(self.private) != self.public:
            raise ValueError("its two parts are not of one key")
        return self

    def unusable(self, at: datetime, *, used_at: datetime | None = None) -> str | None:
        """Why the key does not count at this moment; None when it does.

        Args:
            used_at: When it was verified before: a key that has ended since counts for that, a revoked one does not.
        """
        if self.revoked_at is not None and at >= self.revoked_at:
            return f"the key {self.id} was revoked"
        if self.expires_at is not None and (used_at or at) >= self.expires_at:
            return f"the key {self.id} expired"
        return None

    def may_sign_for(self, person: str) -> bool:
        """Whether it may speak for this person."""
        return ANYBODY in self.subjects or is_among(person, self.subjects)

    def only_public(self) -> Key:
        """The key as a worker needs it that only verifies."""
        return self.model_copy(update={"private": None})


_KEYS = TypeAdapter(list[Key])


def statement(workflow: str, said: Signable, *, key: str, expires_at: datetime, nonce: str) -> bytes:
    """What is signed: everything that is said, with digests in place of long texts.

    Args:
        workflow: The run that is decided about, or the id of the order's own workflow.

    Raises:
        ProofInvalid: It says what no JSON can, so no signature could be over it.
    """
    try:
        return canonical(_body(workflow, said, key, expires_at, nonce)).encode()
    except (TypeError, ValueError, OverflowError):
        raise ProofInvalid(
            "What it says cannot be signed.", hint="Arguments and bounds are plain JSON, times have a zone."
        ) from None


def _body(workflow: str, said: Signable, key: str, expires_at: datetime, nonce: str) -> dict[str, Any]:
    if expires_at.tzinfo is None:
        raise ValueError("no zone")
    proof = {"v": 1, "by": said.by, "key": key, "expires_at": _time(expires_at), "nonce": nonce}
    if isinstance(said, RoutineOrder):
        return proof | _order(workflow, said)
    if isinstance(said, Reassignment):
        return proof | {
            "kind": "reassignment",
            "run": workflow,
            "subject": said.approval,
            "digest": said.digest,
            "to": list(said.to),
            "as_admin": said.as_admin,
            "comment": _digest(said.comment),
        }
    if isinstance(said, Decision):
        body: dict[str, Any] = {
            "kind": "decision",
            "subject": said.approval,
            "digest": said.digest,
            "arguments": digest(said.arguments) if said.arguments is not None else None,
            "answer": _digest(said.answer),
            "remember": _remembered(said.remember) if said.remember else None,
        }
    else:
        body = {"kind": "resolution", "subject": said.question, "step": said.step, "output": _digest(said.output)}
    return proof | body | {"run": workflow, "verdict": said.verdict, "comment": _digest(said.comment)}


def _order(workflow: str, said: RoutineOrder) -> dict[str, Any]:
    return {
        "kind": "routine-order",
        "order": workflow,
        "action": said.action,
        "routine": said.routine,
        "tenant": said.tenant,
        "definition": digest(said.definition) if said.definition is not None else None,
        "input": _digest(said.input),
        "note": _digest(said.note),
        "until": _time(said.until),
        "start": _time(said.start),
        "end": _time(said.end),
        "event": said.event,
        "payload": digest(said.payload) if said.payload is not None else None,
        "order_key": said.key,
    }


def _is_of_admin(said: Signable) -> bool:
    return isinstance(said, Reassignment) and said.as_admin


class Signer:
    """One private key."""

    def __init__(self, key: Key) -> None:
        if key.private is None:
            raise ConfigError(f"The key {key.id} has no private part here.", hint="Sign where it was created.")
        conceal(key.private)
        self.key = key
        self._private = Ed25519PrivateKey.from_private_bytes(_decoded(key.private))

    @property
    def id(self) -> str:
        """Of the key."""
        return self.key.id

    def sign(self, workflow: str, said: Said, *, lasts: timedelta = LASTS) -> Said:
        """The decision or order with its proof.

        Args:
            workflow: The run that is decided about, or the id of the order's own workflow.
            lasts: How long after now it may still be carried out.

        Raises:
            ConfigError: The key may not sign for this person, or an order names none.
            ProofInvalid: A resolution names no question, or a decision no verdict: nothing would bind it. Or it says
                what no JSON can.
        """
        return said.model_copy(update={"proof": self._proof(workflow, said, lasts)})

    def _proof(self, workflow: str, said: Signable, lasts: timedelta) -> Proof:
        if said.by is None:
            raise ConfigError("The order does not say who wants it.", hint="Give `by`.")
        if not self.key.may_sign_for(said.by):
            raise ConfigError(f"The key {self.id} may not sign for {said.by!r}.", hint="Use the person's own name.")
        if isinstance(said, Resolution) and said.question is None:
            raise ProofInvalid("A resolution is signed with the question it answers.", hint="Give `question`.")
        if _is_of_admin(said) and ANYBODY not in self.key.subjects:
            raise ConfigError(f"The key {self.id} may not sign for an administrator.", hint=FOR_ADMINS)
        if isinstance(said, Decision) and said.verdict is None:
            raise ProofInvalid("A decision is signed with its verdict.", hint="Give `verdict`.")
        expires_at, nonce = datetime.now(UTC) + lasts, secrets.token_urlsafe(16)
        signature = self._private.sign(statement(workflow, said, key=self.id, expires_at=expires_at, nonce=nonce))
        return Proof(key=self.id, expires_at=expires_at, nonce=nonce, signature=_encoded(signature))


class KeyRing:
    """The approver keys of a project: from its file, or from the environment where there is none to share.

    The file is read anew whenever it is used, so a revocation in it counts at once, also of a key that came from the
    environment. A process that has the environment alone learns of one when it is started anew.
    """

    def __init__(self, settings: Settings, *, public_only: bool = False) -> None:
        self._settings = settings
        self._public_only = public_only
        self.file = settings.state / "secrets" / FILE

    @classmethod
    def of(cls, settings: Settings) -> KeyRing:
        """The keys that these settings lead to."""
        return cls(settings)

    def all(self) -> list[Key]:
        """Every key, the oldest first; those from the environment too.

        Raises:
            ConfigError: The file is open to others, or cannot be read; a key in the environment is none.
        """
        known = _merged([*self._in_file(), *self._in_environment()])
        return [key.only_public() for key in known] if self._public_only else known

    def public_only(self) -> KeyRing:
        """The same keys for a process that only verifies: it signs nothing, and need not be given the signing key."""
        return KeyRing(self._settings, public_only=True)

    def signer(self, by: str | None = None) -> Signer | None:
        """The newest usable private key that may sign for this person; None when there is none."""
        now = datetime.now(UTC)
        for key in reversed(self.all()):
            usable = key.private is not None and key.unusable(now) is None
            if usable and (by is None or key.may_sign_for(by)):
                return Signer(key)
        return None

    def verify(self, workflow: str, said: Signable, at: datetime, *, recorded_at: datetime | None = None) -> str:
        """The id of the key that proves who said this.

        Args:
            workflow: The run that it was said of, or the id of the order's own workflow.
            recorded_at: When this very proof was verified and written down: what has expired since was in time. All
                else is checked as ever.

        Raises:
            ProofInvalid: It is not proved; says why.
        """
        proof, orders = said.proof, isinstance(said, RoutineOrder)
        if proof is None:
            hint = "Give it with `by`, where a key for that name is." if orders else "Decide through the gateway."
            raise ProofInvalid("It carries no proof, and proof is required here.", hint=hint)
        key = next((key for key in self.public_only().all() if key.id == proof.key), None)
        if key is None:
            raise ProofInvalid(f"There is no key {proof.key!r} here.")
        # Two clocks: a key that is unusable now, whatever the run's time is, counts no more.
        unusable = key.unusable(max(at, datetime.now(UTC)), used_at=recorded_at)
        if unusable is not None:
            raise ProofInvalid(f"It is not proved: {unusable}.")
        if proof.expires_at.tzinfo is None:
            raise ProofInvalid("Its proof says no time zone, so nobody knows when it ends.")
        if (recorded_at or at) - LEEWAY > proof.expires_at:
            ended = proof.expires_at.isoformat(sep=" ", timespec="seconds")
            raise ProofInvalid(f"Its proof expired at {ended}.", hint="Give it again." if orders else "Decide again.")
        if said.by is None or not key.may_sign_for(said.by):
            raise ProofInvalid(f"The key {key.id} may not sign for {said.by!r}.")
        if _is_of_admin(said) and ANYBODY not in key.subjects:
            raise ProofInvalid(f"The key {key.id} may not sign for an administrator.", hint=FOR_ADMINS)
        if isinstance(said, Resolution) and said.question is None:
            raise ProofInvalid("It names no question, so its proof would be good for any.")
        signed = statement(workflow, said, key=proof.key, expires_at=proof.expires_at, nonce=proof.nonce)
        try:
            Ed25519PublicKey.from_public_bytes(_decoded(key.public)).verify(_decoded(proof.signature), signed)
        except (InvalidSignature, ValueError, binascii.Error):
            raise ProofInvalid("Its signature is not over what it says.") from None
        return key.id

    # ---- changing

    def create(self, name: str, subjects: tuple[str, ...], expires_at: datetime | None = None) -> Key:
        """A new key in the project's file. Older ones go on counting until they are revoked.

        Raises:
            ConfigError: The file cannot be written, or what it is to be for is no name.
        """
        private = _encoded(Ed25519PrivateKey.generate().private_bytes_raw())
        conceal(private)
        try:
            key = Key(
                id=f"key_{secrets.token_hex(8)}",
                name=name,
                subjects=subjects,
                public=_public_of(private),
                private=private,
                created_at=datetime.now(UTC),
                expires_at=expires_at,
            )
        except ValidationError as error:
            first = error.errors(include_url=False, include_input=False)[0]
            field = ".".join(str(part) for part in first["loc"])
            raise ConfigError(f"No such key can be made: {field}: {first['msg']}.") from None
        with self._changing() as keys:
            keys.append(key)
        return key

    def revoke(self, key_id: str, at: datetime) -> Key:
        """End a key at this moment; a later one leaves time to change over. An earlier revocation stands.

        Raises:
            NotFound: The file has no such key.
        """
        with self._changing() as keys:
            for index, key in enumerate(keys):
                if key.id == key_id:
                    earliest = at if key.revoked_at is None else min(at, key.revoked_at)
                    keys[index] = key.model_copy(update={"revoked_at": earliest})
                    return keys[index]
        raise NotFound(
            f"There is no key {key_id!r} in {self.file}.",
            hint="See them: horarium keys list. One that is in the environment alone ends when it is taken out there.",
        )

    @contextmanager
    def _changing(self) -> Iterator[list[Key]]:
        try:
            self.file.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.file.parent.chmod(0o700)
            with (self.file.parent / ".keys.lock").open("w") as lock:
                self._wait_for(lock.fileno())
                keys = self._in_file()
                before = list(keys)
                yield keys
                if keys != before:
                    self._write(keys)
        except OSError as error:
            raise ConfigError(f"Cannot write {self.file}: {error.strerror}.") from error

    def _wait_for(self, lock: int) -> None:
        deadline = time.monotonic() + LOCK_SECONDS
        while True:
            try:
                return fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                if time.monotonic() > deadline:
                    raise ConfigError(
                        f"Another process has been writing {self.file} for {LOCK_SECONDS:.0f} seconds.",
                        hint="See whether a `horarium keys` hangs, end it, and try again.",
                    ) from None
                time.sleep(0.01)

    def _write(self, keys: list[Key]) -> None:
        descriptor, name = tempfile.mkstemp(dir=self.file.parent, prefix=".keys-")  # 0600
        try:
            with os.fdopen(descriptor, "wb") as opened:
                opened.write(_KEYS.dump_json(keys, indent=1))
                opened.flush()
                os.fsync(opened.fileno())
            Path(name).replace(self.file)
            _sync(self.file.parent)  # a revocation outlives a power cut
        except BaseException:
            Path(name).unlink(missing_ok=True)
            raise

    def _in_file(self) -> list[Key]:
        try:
            with self.file.open("rb") as opened:
                # Of what is open, not of the name: that can be another file by now.
                mode = stat.S_IMODE(os.fstat(opened.fileno()).st_mode)
                if mode & 0o077:
                    raise ConfigError(
                        f"{self.file} is open to others (mode {mode:o}), so its keys prove nothing.",
                        hint=f"Close it: chmod 600 {self.file}; then make new keys if others may have read it.",
                    )
                keys = _KEYS.validate_json(opened.read())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise ConfigError(f"Cannot read {self.file}: {error.strerror}.") from error
        except ValidationError:
            raise ConfigError(f"{self.file} is damaged.", hint="Put it back from a copy, or make new keys.") from None
        for key in keys:
            conceal(key.private or "")
        return keys

    def _in_environment(self) -> list[Key]:
        approvals, found = self._settings.approvals, list[Key]()
        if approvals.verify_keys is not None:
            found += _read_public(reveal(approvals.verify_keys))
        if approvals.signing_key is not None:
            try:
                line = reveal(approvals.signing_key)
            except ConfigError:
                if not self._public_only:
                    raise
            else:
                found.append(read_private(line))
        return found


def _merged(found: Iterable[Key]) -> list[Key]:
    """Each key once, the oldest first. Wherever it was ended first, it ended: an old copy brings nothing back.

    Raises:
        ConfigError: Two different keys have one id.
    """
    keys: dict[str, Key] = {}
    for key in found:
        other = keys.get(key.id, key)
        if other.public != key.public:
            raise ConfigError(f"There are two different keys {key.id}.", hint="Take the one out that is not yours.")
        keys[key.id] = key.model_copy(
            update={
                "subjects": other.subjects,
                "private": key.private or other.private,
                "expires_at": _earlier(key.expires_at, other.expires_at),
                "revoked_at": _earlier(key.revoked_at, other.revoked_at),
            }
        )
    return sorted(keys.values(), key=lambda key: (key.created_at, key.id))


def _earlier(one: datetime | None, other: datetime | None) -> datetime | None:
    return min((moment for moment in (one, other) if moment is not None), default=None)


def _public_of(private: str) -> str:
    return _encoded(Ed25519PrivateKey.from_private_bytes(_decoded(private)).public_key().public_bytes_raw())


def _sync(directory: Path) -> None:
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_private(key: Key) -> str:
    """One line for a service's environment; a secret."""
    return _encoded(key.model_dump_json(exclude_none=True).encode())


def read_private(text: str) -> Key:
    """What `write_private` wrote.

    Raises:
        ConfigError: It is something else.
    """
    conceal(text.strip())
    key = _read(text)
    if key.private is None:
        raise ConfigError("The signing key has no private part.", hint="Create one: horarium keys create --print")
    conceal(key.private)
    return key


def write_public(keys: list[Key]) -> str:
    """One line for the environment of workers that only verify."""
    return ",".join(_encoded(key.only_public().model_dump_json(exclude_none=True).encode()) for key in keys)


def _read_public(text: str) -> list[Key]:
    return [_read(part).only_public() for part in text.replace(",", " ").split()]


def _read(text: str) -> Key:
    try:
        return Key.model_validate(json.loads(_decoded(text.strip())))
    except (ValueError, binascii.Error):
        raise ConfigError(
            "That is no approver key.", hint="Take the line that `horarium keys` printed, whole."
        ) from None


def _remembered(remember: Remember) -> dict[str, Any]:
    # The bounds as they are: in pydantic's JSON an infinity becomes null, and both would have one signature.
    return remember.model_dump(mode="json", exclude={"bounds"}) | {"bounds": remember.bounds}


def _time(moment: datetime | None) -> str | None:
    if moment is not None and moment.tzinfo is not None:
        moment = moment.astimezone(UTC)
    return moment.isoformat(timespec="microseconds") if moment is not None else None


def _digest(text: str | None) -> str | None:
    return None if text is None else digest_text(text)


def _encoded(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode("ascii")


def _decoded(text: str) -> bytes:
    return base64.b64decode(text.encode("ascii") + b"=" * (-len(text) % 4), altchars=b"-_", validate=True)
