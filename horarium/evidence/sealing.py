"""The envelope: what is signed, and the one way to write it.

The file is canonical byte for byte, so that a reader needs to trust no other reading of it: a name that stands twice,
another spelling of a number or a space more is found like any other change.
"""

from __future__ import annotations

import json
from collections.abc import Collection
from typing import Any

from horarium.content import canonical
from horarium.errors import HorariumError
from horarium.evidence.keys import EvidenceKey, decoded, key_id, signed_by

FORMAT = "horarium-evidence/1"
FIELDS = {"format", "made", "key", "body", "signature"}


class NotEvidence(HorariumError):
    """A file is no evidence, or not as it was signed."""

    code = "not_evidence"


def seal(body: dict[str, Any], made: dict[str, Any], key: EvidenceKey) -> str:
    """The text of the file: ASCII, so that nothing in it can steer a terminal."""
    sealed = {"format": FORMAT, "made": made, "key": {"id": key.id, "public": key.public}, "body": body}
    return written(sealed | {"signature": key.sign(statement(sealed))})


def statement(sealed: dict[str, Any]) -> bytes:
    """What is signed: everything but the signature.

    Raises:
        ValueError: It holds what cannot be signed, such as half a surrogate pair.
    """
    return f"{FORMAT}\n{canonical({name: sealed[name] for name in sealed if name != 'signature'})}".encode()


def written(value: Any) -> str:
    """Sorted names, no spaces, ASCII, and one line end."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False) + "\n"


def opened(text: str, pinned: Collection[str] = ()) -> dict[str, Any]:
    """The envelope, as it was signed.

    Args:
        pinned: Public keys; one of them has to have signed. None: whichever the file names.

    Raises:
        NotEvidence: It was changed, is something else, or another key signed it.
    """
    try:
        sealed = json.loads(text)
        same = written(sealed) == text
    except (ValueError, RecursionError) as error:
        raise NotEvidence(f"It cannot be read: {error}.", hint="Export it again.") from None
    if not isinstance(sealed, dict) or sealed.get("format") != FORMAT:
        raise NotEvidence(
            "It is no evidence of this format.", hint=f"This version of horarium reads {FORMAT}, whole files alone."
        )
    key, signature = sealed.get("key"), sealed.get("signature")
    if set(sealed) != FIELDS or not isinstance(sealed["body"], dict) or not isinstance(key, dict):
        raise NotEvidence("It was changed: parts of the file are missing, or there are more than it has.")
    public = key.get("public")
    if not isinstance(public, str) or not isinstance(signature, str) or key != {"id": key_id(public), "public": public}:
        raise NotEvidence("It was changed: it does not say properly which key signed it.")
    try:
        whole = statement(sealed)
    except ValueError as error:
        raise NotEvidence(f"It was changed: it holds what nobody can sign ({error}).") from None
    if not signed_by(public, signature, whole):
        raise NotEvidence(f"It was changed: the signature of {key['id']} is not over what it says.")
    if not same:
        raise NotEvidence("It was written anew: it says what was signed, but not byte for byte.")
    if pinned and public not in pinned:
        raise NotEvidence(
            f"Another key signed it: {key['id']}, with the public part {public}.",
            hint="Ask whoever gave you the key which keys are theirs: horarium evidence key",
        )
    return sealed


def a_public_key(said: str) -> str:
    """A public key as somebody gave it.

    Raises:
        ValueError: It is none.
    """
    decoded(said.strip(), 32)
    return said.strip()
