"""A run as those who judge it and learn from it read it: what was asked, done and answered, cut to a bearable size."""

from __future__ import annotations

import json
from dataclasses import dataclass

from horarium.content import shorten
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Journal, StepRecord
from horarium.ledger.runs import RunRecord, Runs
from horarium.ledger.threads import ThreadMessage, Threads
from horarium.memories import JudgedRun, JudgedStep
from horarium.people import plain
from horarium.turns import stored_turn

PART_CHARS = 2_000
MOST_CHARS = 24_000
RESUMED_RUNS = 20  # in a row, that are read as one
ASKED_CHARS = 300
ANSWERED_CHARS = 700


@dataclass(frozen=True, slots=True)
class Transcript:
    """One run, with those that it resumes. `owner` is the user that it was for, folded; empty: nobody said."""

    run: RunRecord
    input: str
    output: str
    text: str
    steps: tuple[StepRecord, ...]

    @property
    def owner(self) -> str:
        """Whose memories it may use and leave."""
        return owner_of(self.run)

    @property
    def note(self) -> str:
        """What was asked and answered, as a summary that needs no model."""
        day = self.run.created_at.date().isoformat()
        return f"{day}: asked: {shorten(self.input, ASKED_CHARS)} — answered: {shorten(self.output, ANSWERED_CHARS)}"

    def judged(self) -> JudgedRun:
        """As a rubric's check sees it."""
        return JudgedRun(
            id=self.run.id,
            agent=self.run.agent,
            input=self.input,
            output=self.output,
            steps=tuple(
                JudgedStep(
                    kind=step.kind,
                    name=step.name,
                    status=step.status,
                    arguments=json.loads(step.arguments) if step.arguments else None,
                    output=step.output,
                )
                for step in self.steps
            ),
        )


def owner_of(run: RunRecord) -> str:
    """The user that a run is for: who asked for it; when nobody says so, the `user` of its metadata."""
    return plain(run.requested_by or run.metadata.get("user", ""))[:200]


async def transcript_of(ledger: Ledger, run_id: str) -> Transcript:
    """Read a run that has its answer."""
    runs, journal = Runs(ledger), Journal(ledger)
    run = await runs.get(run_id)
    ids, before = [run_id], run.resume_from
    while before is not None and len(ids) < RESUMED_RUNS:
        ids.append(before)
        before = (await runs.get(before)).resume_from
    messages = [message for message in await Threads(ledger).read(run.thread_id) if message.run_id in ids]
    said = [_said(message) for message in messages]
    answers = [stored_turn(message.output or "{}").text for message in messages if message.role == "assistant"]
    whole = "\n\n".join(part for part in said if part)
    if len(whole) > MOST_CHARS:
        whole = f"{whole[: MOST_CHARS // 2]}\n\n[… cut …]\n\n{whole[-MOST_CHARS // 2 :]}"
    return Transcript(
        run=run,
        input=next((message.text for message in messages if message.role == "user" and message.text), ""),
        output=next((text for text in reversed(answers) if text), ""),
        text=whole,
        steps=tuple(step for step in await journal.of_run(run_id) if step.kind != "memory_write"),
    )


def _said(message: ThreadMessage) -> str:
    match message.role:
        case "assistant":
            turn = stored_turn(message.output or "{}")
            calls = [f"AGENT calls {call.name} with {shorten(call.arguments, PART_CHARS)}" for call in turn.calls]
            return "\n".join([f"AGENT: {shorten(turn.text, PART_CHARS)}"] * bool(turn.text) + calls)
        case "tool":
            return f"TOOL answers: {shorten(message.output or message.text or '', PART_CHARS)}"
        case _:
            return f"{message.role.upper()}: {shorten(message.text or '', PART_CHARS)}"
