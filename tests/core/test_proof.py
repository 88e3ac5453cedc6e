"""A signature is good for exactly what it was made for: this run, this question, these words, this person, in time."""

from __future__ import annotations

import asyncio
import json
import sys
import tempfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from horarium.contract import Decision, Proof, Remember, Resolution
from horarium.errors import ConfigError, NotFound, ProofInvalid
from horarium.proof import ANYBODY, KeyRing, Signer, read_private, write_private, write_public
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


def now() -> datetime:
    return datetime.now(UTC)


def a_signer(ring: KeyRing, *subjects: str) -> Signer:
    return Signer(ring.create("a service", subjects or (ANYBODY,)))


@pytest.mark.parametrize("said", [DECISION, RESOLUTION])
def test_what_was_signed_is_proved_by_its_key(ring: KeyRing, said: Said) -> None:
    signer = a_signer(ring)

    assert ring.verify(RUN, signer.sign(RUN, said), now()) == signer.id


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
    changed = a_signer(ring).sign(RUN, said).model_copy(update=change)

    with pytest.raises(ProofInvalid, match="signature"):
        ring.verify(RUN, changed, now())


def test_every_field_of_a_decision_is_bound() -> None:
    changed = {type(said): {*()} for said, _ in CHANGES}
    for said, change in CHANGES:
        changed[type(said)] |= set(change)

    assert changed[Decision] == set(Decision.model_fields) - {"proof"}
    assert changed[Resolution] == set(Resolution.model_fields) - {"proof"}


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


def test_a_proof_is_small_enough_for_a_signal(ring: KeyRing) -> None:
    proof = a_signer(ring).sign(RUN, DECISION).proof

    assert isinstance(proof, Proof)
    assert len(proof.model_dump_json()) < 400
