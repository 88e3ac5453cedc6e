"""A signature is good for exactly what it was made for: this run, this question, these words, this person, in time."""

from __future__ import annotations

import asyncio
import errno
import fcntl
import json
import os
import sys
import tempfile
from datetime import UTC, datetime, timedelta, timezone
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horarium.contract import Decision, Proof, Remember, Resolution
from horarium.errors import ConfigError, NotFound, ProofInvalid
from horarium.proof import ANYBODY, FILE, KeyRing, Signer, read_private, write_private, write_public
from horarium.secrets import HIDDEN, redact
from horarium.settings import ApprovalsSettings, Settings

RUN = "run_1"
DECISION = Decision(approval="apr_1", digest="sha256:one", by="ana", verdict="approve", comment="checked")
RESOLUTION = Resolution(step="run_1/0003", question="apr_2", verdict="retry", by="ana")

Said = Decision | Resolution


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(root=tmp_path)


@pytest.fixture
def ring(settings: Settings) -> KeyRing:
    return KeyRing.of(settings)


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> KeyRing:
    """One key that many examples share."""
    ring = KeyRing.of(Settings(root=tmp_path_factory.mktemp("shared")))
    ring.create("a service", (ANYBODY,))
    return ring


def now() -> datetime:
    return datetime.now(UTC)


def a_signer(ring: KeyRing, *subjects: str) -> Signer:
    return Signer(ring.create("a service", subjects or (ANYBODY,)))


def signed_by(signer: Signer, said: Said) -> Said:
    match said:
        case Decision():
            return signer.sign(RUN, said)
        case Resolution():
            return signer.sign(RUN, said)


@pytest.mark.parametrize("said", [DECISION, RESOLUTION])
def test_what_was_signed_is_proved_by_its_key(ring: KeyRing, said: Said) -> None:
    signer = a_signer(ring)

    assert ring.verify(RUN, signed_by(signer, said), now()) == signer.id


STORABLE = st.characters(codec="utf-8", exclude_characters="\x00")
TEXT = st.text(STORABLE, min_size=1, max_size=20).filter(str.strip)
VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False, allow_infinity=False) | TEXT,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXT, inner, max_size=3),
    max_leaves=5,
)
ARGUMENTS = st.dictionaries(TEXT, VALUES, max_size=3)
# What is equal to Python, like 1, 1.0 and True, is told apart where it is signed; a change has to be one for both.
PROOF: dict[str, st.SearchStrategy[Any]] = {
    "key": st.from_regex(r"\Akey_[0-9a-z]{16}\Z"),
    "expires_at": st.datetimes(timezones=st.just(UTC), min_value=datetime(2030, 1, 1)),
    "nonce": st.text("abcdef", min_size=8, max_size=64),
    "signature": st.text("abcdefAEIQ", min_size=86, max_size=86),
}
BOTH: dict[str, st.SearchStrategy[Any]] = {"by": TEXT, "comment": st.none() | TEXT}
DECISION_FIELDS = BOTH | {
    "approval": TEXT,
    "digest": TEXT,
    "verdict": st.sampled_from(["approve", "reject", "answer"]),
    "arguments": st.none() | ARGUMENTS,
    "answer": st.none() | TEXT,
    "remember": st.none()
    | st.builds(
        Remember,
        scope=st.sampled_from(["run", "thread", "agent"]),
        lasts=st.timedeltas(min_value=timedelta(microseconds=1), max_value=timedelta(days=1000)),
        bounds=ARGUMENTS,
    ),
}
RESOLUTION_FIELDS = BOTH | {
    "step": TEXT,
    "question": TEXT,
    "verdict": st.sampled_from(["retry", "supply", "skip", "fail"]),
    "output": st.none() | TEXT,
}
DECISIONS = st.builds(Decision, **DECISION_FIELDS)
RESOLUTIONS = st.builds(Resolution, **RESOLUTION_FIELDS)
FIELDS: dict[type[Said], dict[str, st.SearchStrategy[Any]]] = {
    Decision: DECISION_FIELDS | PROOF,
    Resolution: RESOLUTION_FIELDS | PROOF,
}

CHANGES: list[tuple[Said, dict[str, Any]]] = [
    (DECISION, {"approval": "apr_9"}),
    (DECISION, {"digest": "sha256:two"}),
    (DECISION, {"by": "ben"}),
    (DECISION, {"verdict": "reject"}),
    (DECISION, {"comment": "other"}),
    (DECISION, {"comment": None}),
    (DECISION, {"arguments": {"amount": 9}}),
    (DECISION, {"answer": "it is 7"}),
    (DECISION, {"remember": Remember(scope="agent", lasts=timedelta(hours=1))}),
    (RESOLUTION, {"step": "run_1/0004"}),
    (RESOLUTION, {"question": "apr_3"}),
    (RESOLUTION, {"verdict": "supply"}),
    (RESOLUTION, {"by": "ben"}),
    (RESOLUTION, {"output": "done"}),
    (RESOLUTION, {"comment": "other"}),
]


@pytest.mark.parametrize(("said", "change"), CHANGES, ids=str)
def test_nothing_that_a_decision_says_can_be_changed_afterwards(
    ring: KeyRing, said: Said, change: dict[str, Any]
) -> None:
    changed = signed_by(a_signer(ring), said).model_copy(update=change)

    with pytest.raises(ProofInvalid, match="signature"):
        ring.verify(RUN, changed, now())


def test_every_field_of_a_decision_is_bound() -> None:
    changed: dict[type[Said], set[str]] = {Decision: set(), Resolution: set()}
    for said, change in CHANGES:
        changed[type(said)] |= set(change)

    assert changed[Decision] == set(Decision.model_fields) - {"proof"}
    assert changed[Resolution] == set(Resolution.model_fields) - {"proof"}


@given(data=st.data())
def test_whatever_is_said_is_proved_as_it_was_said_and_in_no_other_words(data: st.DataObject, shared: KeyRing) -> None:
    signer = shared.signer()
    assert signer is not None
    said = data.draw(st.one_of(DECISIONS, RESOLUTIONS))
    # As it arrives: over the wire and back.
    signed = type(said).model_validate_json(signed_by(signer, said).model_dump_json())
    proof = signed.proof
    assert proof is not None
    assert shared.verify(RUN, signed, now()) == signer.id

    name = data.draw(st.sampled_from(sorted(FIELDS[type(said)])))
    if name in Proof.model_fields:
        other = data.draw(FIELDS[type(said)][name].filter(lambda value: value != getattr(proof, name)))
        changed = signed.model_copy(update={"proof": proof.model_copy(update={name: other})})
    else:
        other = data.draw(FIELDS[type(said)][name].filter(lambda value: value != getattr(said, name)))
        changed = signed.model_copy(update={name: other})

    with pytest.raises(ProofInvalid):
        shared.verify(RUN, changed, now())


UNSAYABLE: list[dict[str, Any]] = [
    {"arguments": {"amount": float("nan")}},
    {"arguments": {"at": datetime(2026, 11, 21, tzinfo=UTC)}},
    {"remember": Remember(scope="run", lasts=timedelta(hours=1), bounds={"amount": {"maximum": float("inf")}})},
]


@pytest.mark.parametrize("unsayable", UNSAYABLE, ids=str)
def test_what_no_json_can_say_is_neither_signed_nor_proved(ring: KeyRing, unsayable: dict[str, Any]) -> None:
    signer = a_signer(ring)

    with pytest.raises(ProofInvalid, match="cannot be signed"):
        signer.sign(RUN, DECISION.model_copy(update=unsayable))
    with pytest.raises(ProofInvalid, match="cannot be signed"):
        ring.verify(RUN, signer.sign(RUN, DECISION).model_copy(update=unsayable), now())


@pytest.mark.parametrize(
    "ends",
    [
        datetime(2100, 1, 1),
        datetime.max.replace(tzinfo=UTC),
        datetime.max.replace(tzinfo=timezone(-timedelta(hours=12))),
        datetime.min.replace(tzinfo=timezone(timedelta(hours=12))),
    ],
    ids=str,
)
def test_a_deadline_that_somebody_made_up_is_refused_and_breaks_nothing(ring: KeyRing, ends: datetime) -> None:
    signed = a_signer(ring).sign(RUN, DECISION)
    assert signed.proof is not None
    forged = signed.model_copy(update={"proof": signed.proof.model_copy(update={"expires_at": ends})})

    with pytest.raises(ProofInvalid):
        ring.verify(RUN, Decision.model_validate_json(forged.model_dump_json()), now())


def test_a_proof_for_one_run_is_none_for_another(ring: KeyRing) -> None:
    with pytest.raises(ProofInvalid, match="signature"):
        ring.verify("run_2", a_signer(ring).sign(RUN, DECISION), now())


@given(st.binary(min_size=0, max_size=80), st.sampled_from(["signature", "nonce"]))
def test_a_forged_proof_is_refused_whatever_it_holds(forged: bytes, field: str) -> None:
    with tempfile.TemporaryDirectory() as directory:
        ring = KeyRing.of(Settings(root=Path(directory)))
        proof = a_signer(ring).sign(RUN, DECISION).proof
        assert proof is not None
        value = forged.hex() if field == "nonce" else forged.decode("latin-1")
        said = DECISION.model_copy(update={"proof": proof.model_copy(update={field: value})})

        with pytest.raises(ProofInvalid):
            ring.verify(RUN, said, now())


def test_a_decision_without_proof_proves_nothing(ring: KeyRing) -> None:
    with pytest.raises(ProofInvalid, match="no proof"):
        ring.verify(RUN, DECISION, now())


def test_an_unknown_key_proves_nothing(ring: KeyRing, tmp_path: Path) -> None:
    stranger = KeyRing.of(Settings(root=tmp_path / "elsewhere"))

    with pytest.raises(ProofInvalid, match="no key"):
        ring.verify(RUN, a_signer(stranger).sign(RUN, DECISION), now())


def test_a_proof_ends(ring: KeyRing) -> None:
    signed = a_signer(ring).sign(RUN, DECISION, lasts=timedelta(hours=1))

    ring.verify(RUN, signed, now() + timedelta(minutes=59))
    with pytest.raises(ProofInvalid, match="expired"):
        ring.verify(RUN, signed, now() + timedelta(minutes=62))


def test_an_expired_key_proves_nothing(ring: KeyRing) -> None:
    signer = Signer(ring.create("old", (ANYBODY,), now() + timedelta(minutes=1)))

    with pytest.raises(ProofInvalid, match="expired"):
        ring.verify(RUN, signer.sign(RUN, DECISION, lasts=timedelta(days=2)), now() + timedelta(minutes=2))


def test_a_revoked_key_proves_nothing_at_once_in_every_process_that_has_the_file(ring: KeyRing) -> None:
    signer = a_signer(ring)
    signed, elsewhere = signer.sign(RUN, DECISION), KeyRing(Settings(root=ring.file.parents[2]))
    elsewhere.verify(RUN, signed, now())

    ring.revoke(signer.id, now())

    with pytest.raises(ProofInvalid, match="revoked"):
        elsewhere.verify(RUN, signed, now())
    assert ring.signer() is None


def test_a_clock_that_is_behind_does_not_bring_a_revoked_key_back(ring: KeyRing) -> None:
    signer = a_signer(ring)
    signed = signer.sign(RUN, DECISION)
    ring.revoke(signer.id, now())

    with pytest.raises(ProofInvalid, match="revoked"):
        ring.verify(RUN, signed, now() - timedelta(hours=3))


def test_what_was_recorded_in_time_is_proved_for_good_unless_its_key_is_revoked(ring: KeyRing) -> None:
    key = ring.create("a service", (ANYBODY,), expires_at=now() + timedelta(hours=2))
    signed = Signer(key).sign(RUN, DECISION, lasts=timedelta(hours=1))
    recorded, later = now(), now() + timedelta(days=3)

    with pytest.raises(ProofInvalid, match="expired"):
        ring.verify(RUN, signed, later)
    assert ring.verify(RUN, signed, later, recorded_at=recorded) == key.id
    with pytest.raises(ProofInvalid, match="expired"):
        ring.verify(RUN, signed, later, recorded_at=recorded + timedelta(hours=1, minutes=1))
    with pytest.raises(ProofInvalid, match="not over what it says"):
        ring.verify("run_other", signed, later, recorded_at=recorded)
    ring.revoke(key.id, now())
    with pytest.raises(ProofInvalid, match="was revoked"):
        ring.verify(RUN, signed, later, recorded_at=recorded)


def test_rotation_leaves_an_overlap_in_which_both_keys_count(ring: KeyRing) -> None:
    old = a_signer(ring)
    signed_before = old.sign(RUN, DECISION)
    ring.revoke(old.id, now() + timedelta(hours=24))
    new = a_signer(ring)

    assert ring.verify(RUN, signed_before, now()) == old.id
    newest = ring.signer()
    assert newest is not None
    assert newest.id == new.id
    with pytest.raises(ProofInvalid, match="revoked"):
        ring.verify(RUN, signed_before, now() + timedelta(hours=25))


def test_a_later_revocation_does_not_lengthen_an_earlier_one(ring: KeyRing) -> None:
    signer, at = a_signer(ring), now()
    ring.revoke(signer.id, at)

    assert ring.revoke(signer.id, at + timedelta(days=1)).revoked_at == at


def test_a_key_signs_for_its_own_people_alone(ring: KeyRing) -> None:
    signer = a_signer(ring, "billing@svc")

    with pytest.raises(ConfigError, match="may not sign for 'ana'"):
        signer.sign(RUN, DECISION)
    assert ring.signer("ana") is None
    assert ring.signer(" Billing@svc ") is not None


def test_a_key_that_speaks_for_others_is_refused_where_it_is_verified_too(ring: KeyRing) -> None:
    signer = a_signer(ring)
    signed = signer.sign(RUN, DECISION)
    keys = json.loads(ring.file.read_text())
    keys[0]["subjects"] = ["ben"]
    ring.file.write_text(json.dumps(keys))

    with pytest.raises(ProofInvalid, match="may not sign for"):
        ring.verify(RUN, signed, now())


def test_what_would_bind_nothing_is_not_signed(ring: KeyRing) -> None:
    signer = a_signer(ring)

    with pytest.raises(ProofInvalid, match="question"):
        signer.sign(RUN, RESOLUTION.model_copy(update={"question": None}))
    with pytest.raises(ProofInvalid, match="verdict"):
        signer.sign(RUN, DECISION.model_copy(update={"verdict": None}))


# ---- where keys are


def test_keys_are_kept_for_their_owner_alone(ring: KeyRing) -> None:
    a_signer(ring)

    assert ring.file.stat().st_mode & 0o777 == 0o600
    assert ring.file.parent.stat().st_mode & 0o777 == 0o700


def test_a_file_that_others_can_read_proves_nothing(ring: KeyRing) -> None:
    signed = a_signer(ring).sign(RUN, DECISION)
    ring.file.chmod(0o640)

    with pytest.raises(ConfigError, match="chmod 600"):
        ring.verify(RUN, signed, now())


def test_a_damaged_file_is_said_to_be_and_its_content_is_not_shown(ring: KeyRing) -> None:
    key = ring.create("a service", (ANYBODY,))
    ring.file.write_text(ring.file.read_text()[:-20])

    with pytest.raises(ConfigError, match="damaged") as caught:
        ring.all()
    assert str(key.private) not in str(caught.value)


def test_a_key_that_is_not_there_cannot_be_revoked(ring: KeyRing) -> None:
    with pytest.raises(NotFound, match="key_0000000000000000"):
        ring.revoke("key_0000000000000000", now())


@pytest.mark.parametrize("ends", [{}, {"expires_at": datetime(2030, 1, 1)}], ids=str)
def test_a_key_for_nobody_is_not_made(ring: KeyRing, ends: dict[str, datetime]) -> None:
    with pytest.raises(ConfigError, match="expires_at" if ends else "subjects"):
        ring.create("a service", ("ana",) if ends else (" ",), **ends)
    assert ring.all() == []


def test_a_process_that_hangs_while_it_writes_is_not_waited_for_without_end(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("a service", (ANYBODY,))
    monkeypatch.setattr("horarium.proof.LOCK_SECONDS", 0.05)

    with (ring.file.parent / ".keys.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(ConfigError, match="Another process"):
            ring.revoke(key.id, now())

    assert ring.revoke(key.id, now()).revoked_at is not None


def test_a_write_that_breaks_off_leaves_the_keys_that_were_there(
    ring: KeyRing, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("a service", (ANYBODY,))

    def no_room(_descriptor: int) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "fsync", no_room)
    with pytest.raises(ConfigError, match="No space left"):
        ring.create("another", (ANYBODY,))
    monkeypatch.undo()

    assert ring.all() == [key]
    assert sorted(file.name for file in ring.file.parent.iterdir()) == [".keys.lock", FILE]


async def test_two_processes_that_create_keys_at_once_lose_none(settings: Settings, ring: KeyRing) -> None:
    program = (
        "import sys; from pathlib import Path\n"
        "from horarium.proof import KeyRing; from horarium.settings import Settings\n"
        "ring = KeyRing.of(Settings(root=Path(sys.argv[1])))\n"
        "for n in range(10): ring.create(f'{sys.argv[2]}{n}', ('*',))"
    )
    started = [
        await asyncio.create_subprocess_exec(sys.executable, "-c", program, str(settings.root), name)
        for name in ("a", "b", "c")
    ]
    assert [await asyncio.wait_for(process.wait(), 60) for process in started] == [0, 0, 0]

    assert {key.name for key in ring.all()} == {f"{name}{n}" for name in "abc" for n in range(10)}


def test_a_service_signs_with_a_key_from_its_environment_and_a_worker_verifies_with_the_public_part(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("billing", ("billing@svc",))
    monkeypatch.setenv("APPROVER_KEY", write_private(key))
    monkeypatch.setenv("APPROVER_KEYS", write_public([key]))
    service = KeyRing(Settings(root=tmp_path / "service", approvals=ApprovalsSettings(signing_key="${APPROVER_KEY}")))
    worker = KeyRing(Settings(root=tmp_path / "worker", approvals=ApprovalsSettings(verify_keys="${APPROVER_KEYS}")))
    signer = service.signer("billing@svc")
    assert signer is not None

    signed = signer.sign(RUN, DECISION.model_copy(update={"by": "billing@svc"}))

    assert worker.verify(RUN, signed, now()) == key.id
    assert worker.signer() is None


def test_a_worker_that_only_verifies_need_not_be_given_the_signing_key(
    ring: KeyRing, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("a service", (ANYBODY,))
    monkeypatch.setenv("APPROVER_KEYS", write_public([key]))
    monkeypatch.delenv("APPROVER_KEY", raising=False)
    # One horarium.toml for all; the variables differ.
    both = ApprovalsSettings(signing_key="${APPROVER_KEY}", verify_keys="${APPROVER_KEYS}")
    worker = KeyRing.of(Settings(root=tmp_path / "worker", approvals=both))

    assert worker.verify(RUN, Signer(key).sign(RUN, DECISION), now()) == key.id
    assert worker.public_only().signer() is None
    with pytest.raises(ConfigError, match="APPROVER_KEY is not set"):
        worker.signer()


def test_a_ring_of_public_keys_verifies_and_signs_nothing(ring: KeyRing) -> None:
    signer, public = a_signer(ring), ring.public_only()

    assert public.verify(RUN, signer.sign(RUN, DECISION), now()) == signer.id
    assert public.signer() is None
    assert [key.private for key in public.all()] == [None]


def test_an_old_copy_in_the_environment_does_not_bring_a_revoked_key_back(
    ring: KeyRing, settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("a service", (ANYBODY,))
    signed = Signer(key).sign(RUN, DECISION)
    monkeypatch.setenv("APPROVER_KEY", write_private(key))
    monkeypatch.setenv("APPROVER_KEYS", write_public([key]))
    both = ApprovalsSettings(signing_key="${APPROVER_KEY}", verify_keys="${APPROVER_KEYS}")
    with_copies = KeyRing.of(settings.model_copy(update={"approvals": both}))
    assert with_copies.verify(RUN, signed, now()) == key.id

    ring.revoke(key.id, now())

    with pytest.raises(ProofInvalid, match="revoked"):
        with_copies.verify(RUN, signed, now())
    assert with_copies.signer() is None


def test_a_key_that_takes_the_id_of_another_is_refused(
    ring: KeyRing, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    key = ring.create("a service", (ANYBODY,))
    other = KeyRing.of(Settings(root=tmp_path / "elsewhere")).create("a stranger", (ANYBODY,))
    monkeypatch.setenv("APPROVER_KEYS", write_public([other.model_copy(update={"id": key.id})]))
    mixed = settings.model_copy(update={"approvals": ApprovalsSettings(verify_keys="${APPROVER_KEYS}")})

    with pytest.raises(ConfigError, match="two different keys"):
        KeyRing.of(mixed).all()
    with pytest.raises(ConfigError, match="no approver key"):
        read_private(write_private(key.model_copy(update={"private": other.private})))


@pytest.mark.parametrize("text", ["", "nonsense", "eyJhIjoxfQ", "ü"])
def test_something_else_in_the_environment_is_refused_without_showing_it(text: str) -> None:
    with pytest.raises(ConfigError, match="approver key") as caught:
        read_private(text)
    assert not text or text not in str(caught.value)


def test_a_private_key_is_kept_out_of_what_is_logged_or_printed(ring: KeyRing) -> None:
    key = ring.create("a service", (ANYBODY,))

    assert key.private is not None
    assert redact(f"broken: {key.private}") == f"broken: {HIDDEN}"
    assert key.private not in repr(key)
    assert key.private not in write_public([key])


async def test_a_key_from_the_environment_is_kept_out_of_the_log(ring: KeyRing, tmp_path: Path) -> None:
    key = ring.create("a service", (ANYBODY,))
    line = write_private(key)
    program = (
        "import sys, structlog; from pathlib import Path; from horarium.logs import set_up_logging\n"
        "from horarium.proof import KeyRing; from horarium.settings import ApprovalsSettings, Settings\n"
        "approvals = ApprovalsSettings(signing_key='${APPROVER_KEY}')\n"
        "signer = KeyRing.of(Settings(root=Path(sys.argv[1]), approvals=approvals)).signer()\n"
        "set_up_logging(json=True)\n"
        "structlog.get_logger().warning('broken', line=sys.stdin.read(), key=signer.key.private, signer=signer.key)\n"
    )

    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-c", program, str(tmp_path / "service")),
        env=os.environ | {"APPROVER_KEY": f"{line}\n"},
        stdin=asyncio.subprocess.PIPE,
        stderr=asyncio.subprocess.PIPE,
    )
    _, logged = await asyncio.wait_for(process.communicate(f"at {line} and".encode()), 60)

    assert process.returncode == 0, logged
    (event,) = (json.loads(found) for found in logged.decode().splitlines())
    assert (event["line"], event["key"]) == (f"at {HIDDEN} and", HIDDEN)
    assert str(key.private) not in logged.decode()


def test_a_proof_is_small_enough_for_a_signal(ring: KeyRing) -> None:
    proof = a_signer(ring).sign(RUN, DECISION).proof

    assert isinstance(proof, Proof)
    assert len(proof.model_dump_json()) < 400
