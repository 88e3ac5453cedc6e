"""What the timeline of a run shows: its steps, and what it waited for in between."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from datetime import datetime, timedelta

from horarium.gateway.console.gantt import Bar
from horarium.gateway.console.run_words import KINDS, effect_state, step_status
from horarium.gateway.story import Story
from horarium.ledger.journal import SETTLED
from horarium.ledger.overview import QuestionTime, StepOutline
from horarium.ledger.run_statuses import StatusChange
from horarium.ledger.runs import RunRecord

GROUPS = {
    "model_call": "Model",
    "tool_call": "Tools",
    "memory_write": "Memory",
    "handoff": "Agents",
    "approval": "People",
}
QUEUED_FOR = timedelta(seconds=1)  # after which it is worth a bar
MOST_UNTOLD = 1_500  # steps that the place of a story may name one by one
_MARKS = {"failed": "✕", "unknown": "?", "rejected": "✕", "pending": "…"}
Link = Callable[[int], str]


def bars_of(
    run: RunRecord, steps: Sequence[StepOutline], questions: Iterable[QuestionTime], link: Link, now: datetime
) -> list[Bar]:
    """A bar for each step that was begun in this run, and for each time that it waited."""
    asked = {question.guards: question for question in questions if question.kind != "approval"}
    found = [bar for step in steps for bar in _of_step(run, step, asked.get(step.number), link, now)]
    began = run.opened_at or (None if run.closed_at is None else run.closed_at)
    if (began or now) - run.created_at >= QUEUED_FOR:
        mark = "" if began else "…"
        found.append(Bar("Waits", run.created_at, began, "queued", "queued", state="waits", mark=mark))
    return found


def taken_over(run: RunRecord, step: StepOutline) -> bool:
    """Whether a step was settled in the run that this one resumes, before this one was there."""
    # Who starts a run and who performs it may have clocks that differ: of times alone it cannot be told.
    return run.resume_from is not None and step.settled_at is not None and step.settled_at < run.created_at


def _of_step(
    run: RunRecord, step: StepOutline, question: QuestionTime | None, link: Link, now: datetime
) -> Iterable[Bar]:
    start = step.claimed_at or step.settled_at
    if start is None or taken_over(run, step):
        return
    word = step_status(step.kind, step.status, step.output)
    end = step.settled_at
    if question is not None:
        end = question.requested_at if step.status == "unknown" else end
        until = question.decided_at or run.closed_at
        title = f"#{step.number}: people were asked about {question.tool}, {question.status}"
        waits = "" if until else "…"
        yield Bar("People", question.requested_at, until, title, question.tool, "waits", waits, link(step.number))
    elif step.status == "unknown":
        end = run.closed_at
    mark = _MARKS.get(step.status, "")
    if step.kind == "approval" and step.output in ("rejected", "expired"):
        mark = "✕"
    if step.attempts > 1:
        mark = f"↻{step.attempts}{mark}"
    tries = f", {step.attempts} attempts" if step.attempts > 1 else ""
    yield Bar(
        GROUPS.get(step.kind, "Tools"),
        start,
        max(end, start) if end is not None else None,
        f"#{step.number} {KINDS[step.kind][1]} {step.name}: {word}{tries}",
        step.name if step.kind != "model_call" else "",
        _state(step),
        mark,
        link(step.number),
    )


def _state(step: StepOutline) -> str:
    if step.kind == "approval":
        return "failed" if step.output in ("rejected", "expired") else "waits"
    state = effect_state(step.kind, step.status, step.effect)
    if state == "unknown":
        return "unknown"
    if step.status in ("failed", "rejected", "cancelled", "skipped"):
        return "failed"
    return "open" if step.status not in SETTLED else "completed"


def place_in_story(steps: Sequence[StepOutline], statuses: Sequence[StatusChange]) -> str | None:
    """From where on a page that shows all this needs to be told; None: from the beginning."""
    story = Story(status=statuses[-1].seq if statuses else 0)
    for step in steps:
        phase = "s" if step.status in SETTLED else "u" if step.status == "unknown" else "c"
        if step.number == story.steps + 1 and phase != "c" and not story.more.get(step.number):
            story.steps += 1
        if step.number > story.steps or (phase, step.permit) != ("s", 0):
            story.more[step.number] = (phase, step.permit)
    return story.place if len(story.more) <= MOST_UNTOLD else None
