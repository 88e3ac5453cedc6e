"""The step protocol against attempts that die anywhere: what was done in the world is counted outside of the ledger.

Attempts claim, perform, settle, fail, are handed back or taken over in any order, on both databases; an attempt that
dies simply takes no further step, or takes it late.
"""

from __future__ import annotations

import asyncio
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import Bundle, RuleBasedStateMachine, consumes, initialize, invariant, multiple, rule
from hypothesis.stateful import run_state_machine_as_test as run_machine

from horarium.errors import OutcomeUnknown, StepBlocked, StepCrashes
from horarium.ledger.database import Ledger
from horarium.ledger.journal import SETTLED, Held, Journal, StepClaim, StepRecord
from horarium.tools import Effect
from tests.core.conftest import Kind, NewSettings
from tests.core.ledgers import again, open_run, step


class Attempts(RuleBasedStateMachine):
    """Any number of attempts at a few steps of one run."""

    loop: ClassVar[asyncio.Runner]
    ledger: ClassVar[Ledger]

    claimed = Bundle("claimed")
    performed = Bundle("performed")
    broken = Bundle("broken")

    def wait(self, work: Any) -> Any:
        return self.loop.run(work)

    @initialize()
    def begin(self) -> None:
        self.journal = Journal(self.ledger)
        self.run = self.wait(open_run(self.ledger))
        self.claims: dict[int, StepClaim] = {}
        self.effects: Counter[tuple[int, int]] = Counter()
        self.settled: dict[int, StepRecord] = {}

    def claim_of(self, number: int) -> StepClaim:
        effect = (Effect.READ, Effect.IDEMPOTENT, Effect.EXTERNAL, Effect.EXTERNAL)[number - 1]
        return self.claims.setdefault(number, step(self.run, number, effect))

    def record(self, number: int) -> StepRecord | None:
        found = self.wait(self.journal.of_run(self.run, after=number - 1))
        return found[0] if found and found[0].number == number else None

    @rule(number=st.integers(1, 4), target=claimed)
    def claim(self, number: int) -> Any:
        claim = self.claim_of(number)
        before = self.record(number)
        try:
            answer = self.wait(self.journal.claim(claim))
        except OutcomeUnknown:
            assert before is not None
            assert before.status == "unknown" or (before.status == "claimed" and claim.effect is Effect.EXTERNAL)
            return multiple()
        except StepCrashes:
            assert claim.effect is not Effect.EXTERNAL
            return multiple()
        if isinstance(answer, StepRecord):
            assert answer == before
            assert answer.status in SETTLED
            return multiple()
        assert number not in self.settled, "what is settled is claimed again"
        return answer

    @rule(attempt=consumes(claimed), target=performed)
    def perform(self, attempt: Held) -> Held:
        """The moment at which the world is changed; a death just before or just after is an attempt left lying."""
        self.effects[attempt.claim.number, attempt.claim.permit] += 1
        return attempt

    @rule(attempt=consumes(claimed), target=broken)
    def dies_before_it_performs(self, attempt: Held) -> Held:
        return attempt

    @rule(attempt=consumes(claimed))
    def is_handed_back(self, attempt: Held) -> None:
        self.wait(self.journal.hand_back(attempt))

    @rule(attempt=consumes(claimed))
    def fails_without_effect(self, attempt: Held) -> None:
        self.wait(self.journal.attempt_failed(attempt, "no route"))

    @rule(attempt=performed, status=st.sampled_from(["completed", "failed"]))
    def settles(self, attempt: Held, status: Any) -> None:
        """In time, late, or twice."""
        number = attempt.claim.number
        record = self.wait(self.journal.settle(attempt, status, f"by {attempt.token}"))
        if number in self.settled:
            assert record == self.settled[number], "the first settlement stands"
        elif record.status in SETTLED:
            assert (record.status, record.output) == (status, f"by {attempt.token}")
            self.settled[number] = record
        else:
            assert record.token != attempt.token, "the attempt that holds the claim settles it"

    @rule(number=st.integers(1, 4))
    def is_given_up(self, number: int) -> None:
        if self.record(number) is not None:
            self.wait(self.journal.mark_unknown(self.claim_of(number), "silent"))

    @rule(attempt=consumes(broken), target=claimed)
    def a_probe_says_that_it_did_not_happen(self, attempt: Held) -> Any:
        """True of an attempt that is known to have died before it performed, when it still was the last to claim."""
        number = attempt.claim.number
        before = self.record(number)
        if before is None or before.token != attempt.token:
            return multiple()
        try:
            return self.wait(self.journal.take_over(attempt.claim))
        except StepBlocked:
            assert before.status not in ("claimed", "unknown")
            return multiple()

    @rule(number=st.integers(1, 4), target=claimed)
    def a_person_says_do_it_again(self, number: int) -> Any:
        before = self.record(number)
        if before is None or before.status not in ("unknown", "failed"):
            return multiple()
        self.claims[number] = again(self.claim_of(number), before.permit + 1)
        self.settled.pop(number, None)
        answer = self.wait(self.journal.claim(self.claims[number]))
        assert isinstance(answer, Held)
        return answer

    @rule(number=st.integers(1, 4))
    def a_person_supplies_the_result(self, number: int) -> None:
        before = self.record(number)
        if before is None or before.status != "unknown":
            return
        self.settled[number] = self.wait(
            self.journal.settle_unclaimed(self.claim_of(number), "completed", "receipt", by="ann")
        )

    @invariant()
    def an_external_effect_happens_at_most_once_for_each_permit(self) -> None:
        for (number, permit), times in self.effects.items():
            if self.claims[number].effect is Effect.EXTERNAL:
                assert times <= 1, f"step {number} was done {times} times under permit {permit}"

    @invariant()
    def what_is_settled_never_changes(self) -> None:
        for number, settled in self.settled.items():
            assert self.record(number) == settled


@pytest.fixture
def attempts(kind: Kind, new_settings: NewSettings, tmp_path: Path, runner: asyncio.Runner) -> Iterator[type[Attempts]]:
    """The machine on one of the databases."""
    ledger = runner.run(_open(new_settings, kind, tmp_path))

    class Here(Attempts):
        pass

    Here.loop, Here.ledger = runner, ledger
    yield Here
    runner.run(ledger.close())


async def _open(new_settings: NewSettings, kind: Kind, directory: Path) -> Ledger:
    return await Ledger.open(await new_settings(kind, directory))


def test_an_external_effect_is_done_at_most_once_per_permit_wherever_attempts_die(
    attempts: type[Attempts], kind: Kind
) -> None:
    run_machine(attempts, settings=settings(max_examples=100 if kind == "sqlite" else 40, stateful_step_count=30))
