"""Whether the evidence of a run holds: the signature, and whatever in it can be worked out anew from the file alone.

The signature says that the file is as the project made it. The rest says that what the project wrote down fits
together: digests, approvals, proofs of people, entries of the audit trail. What cannot be worked out is said too.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Collection, Iterable, Iterator
from typing import Any

from pydantic import BaseModel, ConfigDict, Field, computed_field

from horarium.content import digest
from horarium.evidence.calls import Calls
from horarium.evidence.entries import check_entries, check_trail
from horarium.evidence.findings import Findings
from horarium.evidence.proofs import Proofs
from horarium.evidence.sealing import NotEvidence, opened
from horarium.people import is_among, plain

Row = dict[str, Any]
NOTHING: Row = {}
_SAID = ("approval.voted", "approval.decided", "approval.reassigned", "question.resolved")


class EvidenceReport(BaseModel):
    """What became of a verification, in words."""

    model_config = ConfigDict(frozen=True)

    run: str | None = Field(description="Whose evidence it is; None: that cannot be read.")
    key: str | None = Field(default=None, description="Id of the key that signed.")
    pinned: bool = Field(default=False, description="Whether that key was asked for.")
    verified: list[str] = Field(default=[])
    unchecked: list[str] = Field(default=[], description="What nobody can tell from this file.")
    wrong: list[str] = Field(default=[])

    @computed_field  # type: ignore[prop-decorator]
    @property
    def holds(self) -> bool:
        """Whether nothing is wrong."""
        return not self.wrong


def verify(text: str, *, pinned: Collection[str] = (), trail: Iterable[str] | None = None) -> EvidenceReport:
    """Verify a file. It needs nothing else.

    Args:
        pinned: Public keys; one of them has to have signed.
        trail: The lines of the project's whole audit trail, exported: then it is seen too whether entries are missing.
    """
    try:
        sealed = opened(text, pinned)
    except NotEvidence as error:
        return EvidenceReport(run=None, wrong=[str(error)])
    key, body = sealed["key"], sealed["body"]
    found = Findings()
    try:
        _Checking(body, found).all(trail)
    except (LookupError, TypeError, ValueError, AttributeError, ArithmeticError, RecursionError) as error:
        # Signed, and not of the form that this format has: its maker is wrong, and not whoever passed it on.
        found.wrong.append(f"It is signed, but is not formed like evidence: {type(error).__name__} ({error}).")
    run = body.get("run")
    name = run.get("id") if isinstance(run, dict) else None
    return EvidenceReport(
        run=name if isinstance(name, str) else None,
        key=key["id"],
        pinned=bool(pinned),
        verified=[f"The signature of {key['id']} is over the whole file.", *found.verified()],
        unchecked=found.unchecked,
        wrong=found.wrong,
    )


class _Checking:
    def __init__(self, body: Row, found: Findings) -> None:
        self._body = body
        self._found = found

    def all(self, trail: Iterable[str] | None) -> None:
        proofs = Proofs(self._body["keys"])
        runs = list(_runs(self._body["run"]))
        for run in runs:
            self._definitions(run)
            self._steps(run, calls := Calls(run))
            self._approvals(run, calls)
            self._messages(run)
            self._words(run, proofs)
            self._children(run)
        check_entries(self._body, runs, self._found)
        if trail is not None:
            check_trail(self._body, runs, trail, self._found)
        else:
            self._found.unchecked.append(
                "Whether the audit trail has more about it, and is whole, shows only with the trail: --trail FILE."
            )

    def _call(self, fits: bool | None, what: str, subject: str, arguments: str | None) -> None:
        if fits is not None:
            wrong = f"{subject} are not those of their digest."
            self._found.say(fits, f"{what} have the digest of tool, schema and arguments", wrong, texts=[arguments])
        elif not arguments:
            self._found.unchecked.append(f"{subject}: they are not in the ledger any more.")
        else:
            self._found.unchecked.append(f"{subject}: how the tool's schema was then is not known.")

    def _definitions(self, run: Row) -> None:
        for name, words in (("definition", "definition of its agent"), ("toolset", "set of its tools")):
            found = run[name]
            if found is not None:
                good = digest(found["definition"]) == found["digest"]
                wrong = f"The {words} of {run['id']} is not that of its digest."
                self._found.say(good, f"The {words} has its digest", wrong, texts=[found])
        if run["definition"] is None:
            self._found.unchecked.append(f"How the agent of {run['id']} was defined: the ledger does not have it.")

    def _steps(self, run: Row, calls: Calls) -> None:
        for step in run["steps"]:
            if step["kind"] in ("tool_call", "handoff") and step["input_digest"]:
                self._call(
                    calls.fits(step["name"], step["arguments"], step["input_digest"]),
                    "Calls",
                    f"The arguments of step {step['id']} ({step['name']})",
                    step["arguments"],
                )
        for step in run["steps"]:
            if step.get("output_whole") is not None:
                found = hashlib.sha256(base64.b64decode(step["output_whole"], validate=True)).hexdigest()
                wrong = f"The output of step {step['id']} is not that of its digest."
                self._found.say(f"sha256:{found}" == step["output_blob"], "Whole outputs have their digests", wrong)
            elif step["output_blob"] is not None:
                self._found.unchecked.append(f"The whole output of step {step['id']}: only its digest is in the file.")

    def _approvals(self, run: Row, calls: Calls) -> None:
        steps = {step["id"]: step for step in run["steps"]}
        for approval in run["approvals"]:
            one = f"Approval {approval['id']}"
            step = steps.get(approval["guards"], NOTHING)
            for edit in approval["edits"]:
                self._call(
                    calls.fits(approval["tool"], edit["arguments"], edit["digest"]),
                    "Edits by people",
                    f"The arguments of {approval['id']} as {edit['by']} changed them",
                    edit["arguments"],
                )
            if approval["kind"] != "approval":
                continue
            self._call(
                calls.fits(approval["tool"], approval["arguments"], approval["digest"]),
                "Questions",
                f"The arguments that people were asked about in {approval['id']}",
                approval["arguments"],
            )
            if approval["status"] == "approved":
                released = approval["decided_digest"]
                wrong = f"{one} released {released}, and step {approval['guards']} made {step.get('input_digest')}."
                # A run that ended between the decision and the call has no such step, or one without a digest.
                if step.get("input_digest") is not None:
                    what = "Calls that were made are those that were released"
                    self._found.say(step["input_digest"] == released, what, wrong)
                if approval["decided_via"] == "grant":
                    self._grant(approval, one, run["grants"])
                elif approval["decided_via"] != "plan":
                    self._people(approval, one)
        released = {approval["guards"] for approval in run["approvals"] if approval["status"] == "approved"}
        for step in run["steps"]:
            if step["effect_state"] in ("sent", "confirmed", "unknown") and step["id"] not in released:
                # Of a run that goes on with another one, the other has it.
                self._found.unchecked.append(
                    f"Who released step {step['id']} ({step['name']}): the file has no approval of it."
                )

    def _grant(self, approval: Row, one: str, grants: list[Row]) -> None:
        # Not when it ended: that was looked at when the call was asked for, and is written down a moment later.
        good = any(
            grant["id"] == approval["decided_by"]
            and grant["tool"] == approval["tool"]
            and grant["created_at"] <= approval["decided_at"]
            for grant in grants
        )
        wrong = f"{one}: no grant {approval['decided_by']!r} for {approval['tool']!r} was given before."
        self._found.say(good, "Grants that released calls were given before, for that tool", wrong)

    def _people(self, approval: Row, one: str) -> None:
        released = [vote for vote in approval["votes"] if vote["verdict"] == "approve"]
        people = {plain(vote["by"]) for vote in released if vote["digest"] == approval["decided_digest"]}
        enough = len(people) >= approval["required"]
        self._found.say(
            enough,
            "As many people approved as had to",
            f"{one} needed {approval['required']} people; {len(people)} approved what was released.",
        )
        others = [vote["by"] for vote in released if not _may(vote["by"], approval)]
        if others:
            self._found.wrong.append(f"{one}: {others[0]!r} was not among those who may decide.")

    def _messages(self, run: Row) -> None:
        numbers = {step["number"] for step in run["steps"]}
        own = [one for one in run["messages"] if one["run"] == run["id"] and one["step"] is not None]
        lost = [one["seq"] for one in own if one["step"] not in numbers]
        if lost:
            self._found.wrong.append(
                f"Message {lost[0]} of {run['thread']} is that of a step which {run['id']} does not have."
            )
        places = [one["seq"] for one in run["messages"]]
        if places != sorted(set(places)):
            self._found.wrong.append(f"The messages of {run['thread']} are not in their order.")

    def _words(self, run: Row, proofs: Proofs) -> None:
        """What people said, by the audit trail: that the votes say the same, and the proofs."""
        said = [entry for entry in run["audit"] if entry["kind"] in ("approval.voted", "approval.decided")]
        written = {(entry["subject"], entry["data"].get("by"), entry["data"].get("released")): entry for entry in said}
        for approval in run["approvals"]:
            for vote in approval["votes"]:
                entry = written.get((approval["id"], vote["by"], vote["digest"]), NOTHING)
                good = entry != NOTHING and entry["data"].get("verdict") == vote["verdict"]
                wrong = f"Approval {approval['id']}: the audit trail does not have the vote of {vote['by']!r}."
                self._found.say(good, "Votes are in the audit trail too", wrong)
            self._reassigned(run, approval)
        for entry in run["audit"]:
            if entry["kind"] in _SAID:
                state, why = proofs.of(run, entry)
                if state == "good":
                    self._found.good["Words of people are signed, with a key that may sign for them"] += 1
                elif state == "wrong":
                    self._found.wrong.append(why)
                else:
                    self._found.unchecked.append(why)

    def _reassigned(self, run: Row, approval: Row) -> None:
        """That who handed it to whom is in the audit trail, and leads from hand to hand to those who decide."""
        trail = [one for one in run["audit"] if one["subject"] == approval["id"]]
        named = [one["data"] for one in trail if one["kind"] == "approval.reassigned"]
        handed = approval.get("reassigned") or []  # evidence of earlier versions has none
        if not (named or handed):
            return  # most are decided by those who were asked first
        one = f"Approval {approval['id']}"
        same = [(data["by"], data["to"], data["approvers"]) for data in named] == [
            (kept["said"]["by"], kept["said"]["to"], kept["people"]) for kept in handed
        ]
        wrong = f"{one} was not handed to others as the audit trail says."
        self._found.say(same, "Who handed approvals to whom is in the audit trail too", wrong)
        by_others = [
            data["by"]
            for data in named
            if is_among(data["by"], approval["not_by"])
            or not (data["as_admin"] or not data["from"] or is_among(data["by"], data["from"]))
        ]
        if by_others:
            self._found.wrong.append(f"{one} was handed to others by {by_others[0]!r}, who may not.")

    def _children(self, run: Row) -> None:
        for child in run["sub_runs"]:
            good = child["parent_run"] == run["id"] and child["tenant"] == run["tenant"]
            wrong = f"{child['id']} is not a run that {run['id']} handed a task."
            self._found.say(good, "Runs of sub-agents are in their place, and verified like this one", wrong)


def _runs(run: Row) -> Iterator[Row]:
    yield run
    for child in run["sub_runs"]:
        yield from _runs(child)


def _may(person: str, approval: Row) -> bool:
    if is_among(person, approval["not_by"]):
        return False
    return not approval["approvers"] or is_among(person, approval["approvers"])
