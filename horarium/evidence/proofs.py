"""Whether what a person said was signed: the statement is put together anew from the evidence, and verified.

The ledger keeps what was decided and not the message that said it. Where two messages would have had the same effect,
as with the arguments sent again or left out, each is tried.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import datetime, timedelta
from itertools import product
from typing import Any, Literal

from pydantic import ValidationError

from horarium.content import digest_text
from horarium.contract import Decision, Proof, Reassignment, Remember, Resolution
from horarium.errors import ProofInvalid
from horarium.evidence.keys import signed_by
from horarium.proof import ANYBODY, LEEWAY, Key, statement
from horarium.secrets import HIDDEN

Row = dict[str, Any]
State = Literal["good", "wrong", "unknown"]
ANSWER = "The answer: "


class Proofs:
    """The public approver keys of a file."""

    def __init__(self, keys: list[Row]) -> None:
        found = [Key.model_validate(key) for key in keys]
        self._keys = {key.id: key for key in found}

    def of(self, run: Row, entry: Row) -> tuple[State, str]:
        """Whether an entry of the audit trail is proved, and if not, why."""
        data, name = entry["data"], f"the word of {entry['data'].get('by')!r} on {entry['subject']}"
        if data.get("identity") != "proven":
            return "unknown", f"Who gave {name}: it carries no proof, so the name is a claim."
        if data.get("proof") is None:
            return "wrong", f"The audit trail says that {name} was proved, and has no proof."
        proof = Proof.model_validate(data["proof"])
        key = self._keys.get(proof.key)
        if key is None:
            return "unknown", f"The proof of {name}: the public key {proof.key} is not in the file."
        at = datetime.fromisoformat(entry["at"])
        over = (key.revoked_at is not None and at >= key.revoked_at) or (
            key.expires_at is not None and at >= key.expires_at
        )
        for_admins = not data.get("as_admin") or ANYBODY in key.subjects
        if over or proof.expires_at < at - LEEWAY or not key.may_sign_for(data["by"]) or not for_admins:
            return "wrong", f"The key {key.id} did not count for {name} when that was written down."
        if any(_is_signed(run["id"], said, proof, key) for said in _messages(run, entry)):
            return "good", ""
        if HIDDEN in str(data.get("comment")) or _is_partly_kept(run, entry):
            return "unknown", f"The proof of {name}: not all that was signed is in the ledger."
        return "wrong", f"The proof of {name} is not over what it says."


def _is_signed(run: str, said: Decision | Resolution | Reassignment, proof: Proof, key: Key) -> bool:
    try:
        whole = statement(run, said, key=proof.key, expires_at=proof.expires_at, nonce=proof.nonce)
    except ProofInvalid:
        return False
    return signed_by(key.public, proof.signature, whole)


def _messages(run: Row, entry: Row) -> Iterator[Decision | Resolution | Reassignment]:
    """What the person may have sent, so that the ledger came to have what it has."""
    data = entry["data"]
    if entry["kind"] == "approval.reassigned":
        said = {name: data[name] for name in ("digest", "to", "by", "as_admin", "comment")}
        yield Reassignment.model_validate({**said, "approval": entry["subject"]})
        return
    common = {"by": data["by"], "verdict": data["verdict"], "comment": data.get("comment")}
    if entry["kind"] == "question.resolved":
        for text in _texts(run, entry, data.get("output")):
            yield Resolution.model_validate(
                {**common, "step": data["step"], "question": entry["subject"], "output": text}
            )
        return
    approval = _approval(run, entry)
    # A second person may have been shown what a first one had changed, and changed it back.
    changed = [edit["digest"] for edit in approval["edits"]]
    shown = dict.fromkeys((data.get("digest"), approval["digest"], data.get("released"), *changed))
    answers = list(_texts(run, entry, data.get("answer")))
    for digest, arguments, answer, remember in product(
        shown, _arguments(approval, data), answers, _remembered(run, entry)
    ):
        try:
            said = {"approval": entry["subject"], "digest": digest, "arguments": arguments, "answer": answer}
            yield Decision.model_validate({**common, **said, "remember": remember})
        except ValidationError:
            continue


def _approval(run: Row, entry: Row) -> Row:
    found: Row | None = next((one for one in run["approvals"] if one["id"] == entry["subject"]), None)
    if found is None:
        raise ValueError(f"entry {entry['seq']} is about an approval that the run does not have")
    return found


def _texts(run: Row, entry: Row, wanted: str | None) -> Iterator[str | None]:
    """The text of a digest, from the step that it became the output of."""
    if wanted is None:
        yield None
        return
    for step in run["steps"]:
        if step["id"] == entry["data"].get("step") and step["output"] is not None:
            for text in (step["output"], step["output"].partition(ANSWER)[2]):
                if digest_text(text) == wanted:
                    yield text


def _arguments(approval: Row, data: Row) -> Iterator[Row | None]:
    yield None
    kept = [edit["arguments"] for edit in approval["edits"] if edit["digest"] == data.get("released")]
    if approval["digest"] == data.get("released") and approval["arguments"]:
        kept.append(approval["arguments"])
    for text in kept:
        yield json.loads(text)


def _remembered(run: Row, entry: Row) -> Iterator[Remember | None]:
    yield None
    for grant in run["grants"]:
        if grant["granted_in"] == entry["subject"]:
            lasts = datetime.fromisoformat(grant["ends_at"]) - datetime.fromisoformat(grant["created_at"])
            # Without bounds it is for exactly what was shown, and the ledger has that.
            if lasts > timedelta(0):
                yield Remember(scope=grant["scope"], lasts=lasts, bounds=grant["bounds"])
                yield Remember(scope=grant["scope"], lasts=lasts)


def _is_partly_kept(run: Row, entry: Row) -> bool:
    """Whether a thread was deleted meanwhile, or a text was kept elsewhere, or a grant says it in other words."""
    data = entry["data"]
    wanted = data.get("output") or data.get("answer")
    if wanted is not None and not any(_texts(run, entry, wanted)):
        return True
    if any(grant["granted_in"] == entry["subject"] for grant in run["grants"]):
        return True
    if entry["kind"] in ("question.resolved", "approval.reassigned"):
        return False
    approval = _approval(run, entry)
    edited = data.get("released") not in (None, approval["digest"])
    return edited and not any(edit["digest"] == data["released"] for edit in approval["edits"])
