"""The key that signs evidence, and the envelope: one way to write it, and no other."""

from __future__ import annotations

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from horarium.errors import ConfigError
from horarium.evidence.keys import VARIABLE, EvidenceKey, encoded
from horarium.evidence.sealing import NotEvidence, opened, seal, written
from horarium.evidence.verifying import verify
from horarium.settings import Settings

KEY = EvidenceKey(encoded(bytes(range(32))))
JSON = st.recursive(
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats(allow_nan=False, allow_infinity=False)
    # Half a surrogate pair cannot be signed; the ledger has none.
    | st.text(st.characters(exclude_categories=["Cs"])),
    lambda inner: st.lists(inner) | st.dictionaries(st.text(st.characters(exclude_categories=["Cs"])), inner),
    max_leaves=20,
)


def test_the_key_is_made_once_for_its_owner_alone_also_by_two_at_once(tmp_path: Path) -> None:
    own = Settings(root=tmp_path)
    with ThreadPoolExecutor(8) as pool:
        made = {key.public for key in pool.map(lambda _: EvidenceKey.of(own), range(16))}

    (file,) = (own.state / "secrets").iterdir()
    assert len(made) == 1
    assert file.stat().st_mode & 0o777 == 0o600
    file.chmod(0o644)
    with pytest.raises(ConfigError, match="open to others"):
        EvidenceKey.of(own)


def test_the_environment_gives_one_key_to_several_machines(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(VARIABLE, encoded(bytes(range(32))))
    assert EvidenceKey.of(Settings(root=tmp_path)).public == KEY.public
    assert not (tmp_path / ".horarium").exists()

    for wrong in ("", "short", encoded(bytes(31)), encoded(bytes(32))[:-1] + "B", "ü" * 43):
        monkeypatch.setenv(VARIABLE, wrong)
        with pytest.raises(ConfigError, match="32 bytes"):
            EvidenceKey.of(Settings(root=tmp_path))


@given(JSON)
@settings(max_examples=60, deadline=None)
def test_whatever_is_sealed_is_opened_as_it_was(value: Any) -> None:
    text = seal({"value": value}, {"at": "now"}, KEY)

    assert text.isascii()
    assert opened(text, [KEY.public])["body"] == {"value": value}


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda text: text.replace('{"body"', '{"body":{},"body"'), "not byte for byte"),
        (lambda text: text.replace("1.5", "1.50"), "not byte for byte"),
        (lambda text: text.replace(":", ": ", 1), "not byte for byte"),
        (lambda text: text.replace("\\u00fc", "ü"), "not byte for byte"),
        (lambda text: text.replace("1.5", "1.6"), "not over what it says"),
        (lambda text: text.replace("1.5", "NaN"), "cannot be read"),
        (lambda text: text.replace("\\u00fc", "\\ud800"), "nobody can sign"),
        (lambda text: text.replace("evidence/1", "evidence/2"), "no evidence of this format"),
        (lambda text: written(json.loads(text) | {"note": 1}), "there are more"),
        (lambda text: text.replace('"evk_', '"evk_0'), "which key signed"),
        (lambda text: text[:40], "cannot be read"),
        (lambda text: "[" * 100_000, "cannot be read"),
        (lambda text: "[]\n", "no evidence of this format"),
    ],
)
def test_what_is_written_otherwise_is_refused_with_the_reason(make: Any, told: str) -> None:
    text = seal({"name": "ü", "amount": 1.5}, {}, KEY)

    with pytest.raises(NotEvidence, match=told):
        opened(make(text))
    assert not verify(make(text)).holds


def test_the_last_character_of_key_and_signature_has_one_spelling_though_it_has_bits_to_spare() -> None:
    found = json.loads(seal({}, {}, KEY))
    alphabet = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_"
    signature = found["signature"]

    good = [last for last in alphabet if _opens(written(found | {"signature": signature[:-1] + last}))]

    assert good == [signature[-1]]


def test_another_key_signs_as_well_and_only_a_pinned_one_tells_them_apart() -> None:
    forged = seal({}, {}, EvidenceKey(encoded(bytes(32))))

    assert _opens(forged)
    with pytest.raises(NotEvidence, match="Another key signed it"):
        opened(forged, [KEY.public])


@pytest.mark.parametrize("run", [None, [], {}, {"id": [None]}, {"id": 10**400, "steps": 1}, "run_1"])
def test_what_is_signed_and_no_evidence_is_said_to_be_none_and_breaks_nothing(run: Any) -> None:
    report = verify(seal({"run": run, "keys": [], "chain": {}}, {}, KEY))

    assert (report.holds, report.run) == (False, None)
    assert "not formed like evidence" in report.wrong[0]


def _opens(text: str) -> bool:
    try:
        opened(text)
    except NotEvidence:
        return False
    return True
