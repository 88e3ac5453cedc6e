"""The entries of the audit trail that a file has about its runs, and whether the whole trail has the same."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator
from itertools import pairwise
from typing import Any

from horarium.audit import entry_hash
from horarium.audit import verify as verify_trail
from horarium.evidence.findings import Findings

Row = dict[str, Any]


def check_entries(body: Row, runs: list[Row], found: Findings) -> None:
    """That the entries of the audit trail in a file are as they were written, and in their order."""
    head = body["chain"]
    entries = sorted((entry for run in runs for entry in run["audit"]), key=lambda entry: int(entry["seq"]))
    for run in runs:
        strange = [entry["seq"] for entry in run["audit"] if entry["run"] != run["id"]]
        if strange:
            found.wrong.append(f"Entry {strange[0]} of the audit trail is not about {run['id']}.")
    for entry in entries:
        good = entry_hash(entry) == entry["hash"]
        wrong = f"Entry {entry['seq']} of the audit trail does not say what its hash is of."
        found.say(good, "Entries of the audit trail have their hashes", wrong, texts=[entry])
    for before, after in pairwise(entries):
        if after["seq"] == before["seq"] + 1:
            wrong = f"Entry {after['seq']} of the audit trail does not follow entry {before['seq']}."
            found.say(after["previous"] == before["hash"], "Neighbours in the audit trail are joined", wrong)
        elif after["seq"] == before["seq"]:
            found.wrong.append(f"Entry {after['seq']} of the audit trail is there twice.")
    last = entries[-1] if entries else None
    if last and (last["seq"] > head["seq"] or (last["seq"] == head["seq"] and last["hash"] != head["hash"])):
        found.wrong.append("The head of the audit trail is not one that its entries lead to.")


def check_trail(body: Row, runs: list[Row], lines: Iterable[str], found: Findings) -> None:
    """That the project's whole trail is intact, has these entries, and no others about these runs."""
    upto, there = {run["id"]: run["audit_upto"] for run in runs}, dict[int, Row]()
    head, tenant = body["chain"], body["run"]["tenant"]

    def watched() -> Iterator[str]:
        for line in lines:
            try:
                entry = json.loads(line)
                about = entry["run"] in upto and entry["tenant"] == tenant
            except (ValueError, TypeError, KeyError, RecursionError):
                about = False  # the trail's own verification says what is wrong with it
            if about:
                there[entry["seq"]] = entry
            yield line

    report = verify_trail(watched(), anchor=head["hash"])
    if report.problem is not None:
        found.wrong.append(f"The audit trail: {report.problem.message}")
        return
    own = {entry["seq"]: entry for run in runs for entry in run["audit"]}
    # The trail may have been exported later, when there was more about a run that had not ended.
    wanted = {seq for seq, entry in there.items() if seq <= upto[entry["run"]]}
    wrong = next((seq for seq in sorted({*own, *wanted}) if own.get(seq) != there.get(seq)), None)
    if wrong is not None:
        found.wrong.append(f"Entry {wrong} about it is not the same in the file and in the audit trail.")
    else:
        found.good["The audit trail is whole, and has exactly these entries about it"] += 1
