"""The step protocol on both databases: claim, perform, settle, and every way in which an attempt can die."""

from __future__ import annotations

import asyncio
import json
import math
import subprocess
import sys
from collections.abc import Awaitable, Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from sqlalchemy import text

from horarium.contract import Decision, Usage
from horarium.errors import NotApproved, OutcomeUnknown, RunNotFound, StepBlocked, StepCrashes
from horarium.ids import approval_id, new_run_id, step_id
from horarium.ledger.approvals import Approvals, Asking
from horarium.ledger.database import Ledger
from horarium.ledger.journal import MAX_CRASHES, Answered, ApprovalRecorded, Held, Journal, StepRecord
from horarium.ledger.runs import Runs
from horarium.ledger.threads import Threads
from horarium.protocol import ApprovalOutcome, ApprovalRequest, Ballot, Call, Gate
from horarium.tools import Effect
from tests.core.conftest import Kind
from tests.core.ledgers import NOON, again, ask, held, open_run, step, thread_of

EVERY_EFFECT = pytest.mark.parametrize("effect", list(Effect))
LASTING = pytest.mark.parametrize("effect", [Effect.READ, Effect.IDEMPOTENT])


@pytest.fixture
def journal(ledger: Ledger) -> Journal:
    return Journal(ledger)


@pytest.fixture
async def run(ledger: Ledger) -> str:
    return await open_run(ledger)


# ---- claim and settle


@EVERY_EFFECT
async def test_a_settled_step_is_not_done_again(journal: Journal, run: str, effect: Effect) -> None:
    claim = step(run, effect=effect)
    settled = await journal.settle(
        await held(journal, claim), "completed", "42", usage=Usage(input_tokens=3, output_tokens=4, cost_micro_usd=5)
    )

    repeated = await journal.claim(claim)

    assert repeated == settled
    assert (settled.status, settled.output, settled.attempts, settled.arguments) == ("completed", "42", 1, '{"n":1}')
    assert (settled.input_tokens, settled.output_tokens, settled.cost_micro_usd) == (3, 4, 5)
    assert await journal.get(run, 2) == settled


@pytest.mark.parametrize("status", ["completed", "failed", "rejected", "skipped", "cancelled"])
async def test_every_outcome_is_final(journal: Journal, run: str, status: Any) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    first = await held(journal, claim)
    stands = await journal.settle(first, status, "first")

    assert await journal.settle(first, "completed", "second") == stands
    assert await journal.settle_unclaimed(claim, "skipped", "third") == stands or status == "failed"
    claimed = await journal.claim(claim)
    assert isinstance(claimed, StepRecord)
    assert claimed.output == ("third" if status == "failed" else "first")


@LASTING
async def test_a_claim_that_died_is_taken_over_when_doing_it_twice_is_harmless(
    journal: Journal, run: str, effect: Effect
) -> None:
    dead = await held(journal, step(run, effect=effect))

    second = await held(journal, step(run, effect=effect))

    assert (dead.attempt, second.attempt) == (1, 2)
    assert second.claim.key == dead.claim.key
    late = await journal.settle(dead, "completed", "from the grave")
    assert (late.status, late.output) == ("claimed", None)
    assert (await journal.settle(second, "completed", "alive")).output == "alive"


async def test_a_claim_of_an_external_effect_that_died_is_never_taken_over_in_silence(
    journal: Journal, run: str
) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    await held(journal, claim)

    for _ in range(3):
        with pytest.raises(OutcomeUnknown, match="without saying whether 'look' was done"):
            await journal.claim(claim)

    marked = await journal.mark_unknown(claim, "The worker died.")
    assert (marked.status, marked.code, marked.message) == ("unknown", "outcome_unknown", "The worker died.")
    with pytest.raises(OutcomeUnknown):
        await journal.claim(claim)


async def test_an_unknown_outcome_is_done_again_only_with_a_new_permit_and_only_once(
    journal: Journal, run: str
) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    dead = await held(journal, claim)
    await journal.mark_unknown(claim, "The worker died.")

    permitted = await held(journal, again(claim, 1))

    assert permitted.attempt == 1
    with pytest.raises(OutcomeUnknown):
        await journal.claim(again(claim, 1))
    assert (await journal.settle(dead, "completed", "from the grave")).status == "claimed"
    assert (await journal.settle(permitted, "completed", "done")).output == "done"
    assert isinstance(await journal.claim(again(claim, 2)), StepRecord), "a permit does not reopen what is completed"


async def test_a_failed_step_is_done_again_when_a_person_says_so(journal: Journal, run: str) -> None:
    claim = step(run)
    await journal.settle(await held(journal, claim), "failed", "Error: no route", code="tool_failed")

    second = await held(journal, again(claim, 1))

    settled = await journal.settle(second, "completed", "a route")
    assert (settled.status, settled.code, settled.permit) == ("completed", None, 1)


async def test_what_an_attempt_brings_after_it_was_given_up_still_counts_while_nobody_knows(
    journal: Journal, run: str
) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    zombie = await held(journal, claim)
    await journal.mark_unknown(claim, "It was silent for long.")

    settled = await journal.settle(zombie, "completed", "receipt 12")

    assert (settled.status, settled.output, settled.code) == ("completed", "receipt 12", None)
    assert await journal.mark_unknown(claim, "too late") == settled


async def test_what_a_person_settled_stands_against_a_zombie(journal: Journal, run: str) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    zombie = await held(journal, claim)
    await journal.mark_unknown(claim, "The worker died.")

    supplied = await journal.settle_unclaimed(claim, "completed", "receipt 12", by="ann")

    assert (supplied.status, supplied.output, supplied.by) == ("completed", "receipt 12", "ann")
    assert await journal.settle(zombie, "completed", "receipt 13") == supplied
    with pytest.raises(StepBlocked, match="settled or taken over meanwhile"):
        await journal.take_over(claim)


async def test_a_call_that_was_never_begun_can_be_settled_without_a_claim(journal: Journal, run: str) -> None:
    rejected = await journal.settle_unclaimed(step(run), "rejected", "ann rejected it", by="ann")

    assert (rejected.status, rejected.attempts, rejected.by) == ("rejected", 0, "ann")
    assert await journal.claim(step(run)) == rejected


async def test_after_a_probe_said_that_it_did_not_happen_it_is_done(journal: Journal, run: str) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    zombie = await held(journal, claim)

    mine = await journal.take_over(claim)

    assert mine.attempt == 2
    assert (await journal.settle(zombie, "completed", "zombie")).status == "claimed"
    assert (await journal.settle(mine, "completed", "mine")).output == "mine"


async def test_of_two_attempts_whose_probes_said_so_one_does_it(journal: Journal, run: str) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    await held(journal, claim)
    holders = []
    for _ in range(2):  # the second one's worker stood still after its probe
        with pytest.raises(OutcomeUnknown) as unknown:
            await journal.claim(claim)
        holders.append(unknown.value.holder)

    mine = await journal.take_over(claim, holder=holders[0])

    with pytest.raises(StepBlocked, match="taken over meanwhile"):
        await journal.take_over(claim, holder=holders[1])
    await journal.mark_unknown(claim, "Its worker died.")
    with pytest.raises(StepBlocked):
        await journal.take_over(claim, holder=holders[1])
    assert (await journal.settle(mine, "completed", "mine")).output == "mine"


# ---- failing, handing back, crashing


async def test_failed_attempts_are_counted_and_a_claim_handed_back_is_not(journal: Journal, run: str) -> None:
    claim = step(run)
    for failures in (1, 2):
        assert await journal.attempt_failed(await held(journal, claim), "no route") == failures
    await journal.hand_back(await held(journal, claim))

    last = await held(journal, claim)

    assert (last.attempt, last.failures) == (3, 2)
    assert (await journal.settle(last, "completed", "")).attempts == 3


async def test_an_external_claim_handed_back_unperformed_may_be_taken_at_once(journal: Journal, run: str) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    first = await held(journal, claim)
    await journal.hand_back(first)

    second = await held(journal, claim)

    assert second.attempt == 1
    await journal.hand_back(first)
    assert (await journal.get(run, 2)).status == "claimed", "only who holds the claim can give it back"


async def test_a_step_that_takes_its_worker_down_again_and_again_is_stopped(journal: Journal, run: str) -> None:
    claim = step(run, effect=Effect.IDEMPOTENT)
    await journal.attempt_failed(await held(journal, claim), "failures are no crashes")
    for _ in range(MAX_CRASHES):
        await held(journal, claim)

    with pytest.raises(StepCrashes, match=f"begun {MAX_CRASHES} times"):
        await journal.claim(claim)

    assert (await held(journal, again(claim, 1))).attempt == 1


# ---- resumed runs


async def test_a_resumed_run_adopts_what_the_run_before_it_settled(ledger: Ledger, journal: Journal, run: str) -> None:
    claim = step(run, effect=Effect.EXTERNAL)
    before = await journal.settle(await held(journal, claim), "completed", "receipt 12")
    resumed = await open_run(ledger)

    assert await journal.earlier(before.key or "", resumed) == before
    assert await journal.earlier(before.key or "", run) is None
    adopted = await journal.adopt(step(resumed, number=5, key=before.key), before)

    assert (adopted.run_id, adopted.number, adopted.attempts) == (resumed, 5, 0)
    assert (adopted.status, adopted.output, adopted.key) == ("completed", "receipt 12", before.key)
    assert await journal.claim(step(resumed, number=5, key=before.key)) == adopted
    assert await journal.adopt(step(resumed, number=5), replace(before, output="other")) == adopted


# ---- approvals


def asked(run: str, number: int = 3, digest: str = "sha256:pay7") -> ApprovalRequest:
    call = Call(
        id="c", tool="pay", digest=digest, key=f"horarium/{run}/c", source=step_id(run, 1), effect=Effect.EXTERNAL
    )
    return ApprovalRequest(id=approval_id(step_id(run, number)), number=number - 1, guards=number, call=call)


def ballot(request: ApprovalRequest, by: str = "ann", **more: Any) -> Ballot:
    decision = Decision(approval=request.id, digest=request.call.digest, by=by, verdict="approve", comment="fine")
    return Ballot(**{"decision": decision, "at": NOON, "via": "update", **more})


def released(request: ApprovalRequest, *ballots: Ballot, **more: Any) -> ApprovalRecorded:
    given = {"digest": request.call.digest, "ballots": ballots or (ballot(request),), **more}
    return ApprovalRecorded(id=request.id, step=request.number, **given)


async def test_a_decision_is_recorded_with_the_claim_that_it_releases(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    request = asked(run)
    await ask(ledger, run, request, '{"amount":7}')

    await held(journal, step(run, 3, Effect.EXTERNAL), approval=released(request))

    record = await Approvals(ledger).get(request.id)
    assert (record.status, record.decided_by, record.decided_via, record.decided_at) == (
        "approved",
        "ann",
        "update",
        NOON,
    )
    assert (record.comment, record.arguments) == ("fine", '{"amount":7}')
    question = await journal.get(run, 2)
    assert (question.kind, question.status, question.by) == ("approval", "completed", "ann")


async def test_a_repeated_claim_leaves_the_first_decider_in_the_evidence(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    request = asked(run)
    await ask(ledger, run, request, "{}")
    claim = step(run, 3, Effect.IDEMPOTENT)
    await held(journal, claim, approval=released(request))

    await held(journal, claim, approval=released(request, ballot(request, "bob", via="signal")))

    assert (await Approvals(ledger).get(request.id)).decided_by == "ann"


async def test_an_approval_that_released_one_call_releases_no_other_with_the_same_arguments(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    request, other = asked(run), await open_run(ledger)
    await ask(ledger, run, request, "{}")
    made = step(run, 3, Effect.EXTERNAL, key="horarium/first/c")
    await held(journal, made, approval=released(request))

    for elsewhere in (step(other, 3, Effect.EXTERNAL, key="horarium/second/c"), step(run, 5, Effect.EXTERNAL)):
        with pytest.raises(NotApproved):
            await journal.claim(elsewhere, approval=released(request, stands=True))

    await held(journal, step(other, 3, Effect.EXTERNAL, key=made.key), approval=released(request, stands=True))


@pytest.mark.parametrize("missing", ["one of two", "the same person twice", "not an approver"])
async def test_the_plan_is_checked_again_where_the_effect_is(
    ledger: Ledger, journal: Journal, run: str, missing: str
) -> None:
    request = asked(run)
    gate = Gate(rule="approvals.0", required=2)
    request = request.model_copy(update={"call": request.call.model_copy(update={"gate": gate})})
    asking = Asking(request=request, arguments="{}", people=("ann", "bob"))
    await Approvals(ledger).ask(run, "default", "clerk", [asking], NOON)
    second = {"one of two": [], "the same person twice": [" Ann "], "not an approver": ["eve"]}[missing]
    ballots = [ballot(request, by) for by in ("ann", *second)]

    with pytest.raises(NotApproved):
        await journal.claim(step(run, 3, Effect.EXTERNAL), approval=released(request, *ballots))

    assert (await Approvals(ledger).get(request.id)).status == "pending"
    await held(
        journal, step(run, 3, Effect.EXTERNAL), approval=released(request, ballot(request), ballot(request, "Bob"))
    )
    assert (await Approvals(ledger).get(request.id)).decided_by == "ann, Bob"
    assert [vote.by for vote in await Approvals(ledger).votes(request.id)] == ["ann", "Bob"]


@pytest.mark.parametrize("wrong", ["digest", "step", "run", "unasked", "rejected", "withdrawn", "stands"])
async def test_a_decision_on_anything_else_releases_nothing(
    ledger: Ledger, journal: Journal, run: str, wrong: str
) -> None:
    request, other = asked(run), await open_run(ledger)
    if wrong != "unasked":
        await ask(ledger, run, request, "{}")
    if wrong in ("rejected", "withdrawn"):
        outcome: Any = {"id": request.id, "number": 2, "guards": 3, "call": request.call, "status": wrong}
        await Approvals(ledger).settle(run, ApprovalOutcome(at=NOON, **outcome))
    before = [await Approvals(ledger).of_run(run), await journal.of_run(run)]
    claim = step(other if wrong == "run" else run, 4 if wrong == "step" else 3, Effect.EXTERNAL)
    decision = released(request, digest="sha256:pay9" if wrong == "digest" else "sha256:pay7", stands=wrong == "stands")

    with pytest.raises(NotApproved):
        await journal.claim(claim, approval=decision)

    assert [await Approvals(ledger).of_run(run), await journal.of_run(run)] == before, "nothing was claimed"
    assert await journal.of_run(other) == []


async def test_an_approval_of_the_run_before_stands_in_the_run_that_resumes_it(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    request, resumed = asked(run), await open_run(ledger)
    await ask(ledger, run, request, "{}")
    made = step(run, 3, Effect.EXTERNAL)
    await held(journal, made, approval=released(request))

    await held(journal, step(resumed, 1, Effect.EXTERNAL, key=made.key), approval=released(request, stands=True))

    with pytest.raises(NotApproved):
        await journal.claim(
            step(resumed, 2, Effect.EXTERNAL, key=made.key),
            approval=released(request, stands=True, digest="sha256:x"),
        )


# ---- messages


async def test_messages_are_appended_once_however_often_the_step_is_claimed_and_settled(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    thread = await thread_of(ledger, run)
    claim = step(run)
    for _ in range(3):
        attempt = await held(journal, claim, thread=thread, append=[Answered("system", text="note")])
    for _ in range(2):
        await journal.settle(
            attempt, "completed", "sunny", thread=thread, append=[Answered("tool", step=step_id(run, 2))]
        )

    messages = await Threads(ledger).read(thread)

    assert [(m.seq, m.role, m.text, m.output) for m in messages] == [
        (0, "user", "Go.", None),
        (1, "system", "note", None),
        (2, "tool", None, "sunny"),
    ]


async def test_a_late_settlement_that_does_not_count_says_nothing_in_the_thread(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    thread = await thread_of(ledger, run)
    dead = await held(journal, step(run))
    alive = await held(journal, step(run))
    await journal.settle(alive, "completed", "", thread=thread, append=[Answered("assistant", text="alive")])

    await journal.settle(dead, "completed", "", thread=thread, append=[Answered("assistant", text="dead")])

    assert [m.text for m in await Threads(ledger).read(thread)] == ["Go.", "alive"]


# ---- at once


async def test_of_eight_who_claim_one_step_at_once_exactly_one_performs_it(
    fresh: Callable[[], Awaitable[Ledger]],
) -> None:
    ledgers = [await fresh() for _ in range(8)]
    run = await open_run(ledgers[0])
    for number in range(1, 11):
        claim = step(run, number, Effect.EXTERNAL)
        claims = [Journal(ledger).claim(claim) for ledger in ledgers]

        answers = await asyncio.gather(*claims, return_exceptions=True)

        assert sum(isinstance(answer, Held) for answer in answers) == 1
        assert sum(isinstance(answer, OutcomeUnknown) for answer in answers) == 7


async def test_of_eight_who_settle_one_step_at_once_the_first_stands(fresh: Callable[[], Awaitable[Ledger]]) -> None:
    ledgers = [await fresh() for _ in range(8)]
    run = await open_run(ledgers[0])
    attempt = await held(Journal(ledgers[0]), step(run))
    settling = [Journal(ledger).settle(attempt, "completed", str(n)) for n, ledger in enumerate(ledgers)]

    records = await asyncio.gather(*settling)

    assert len({record.output for record in records}) == 1


WRITER = """
import asyncio, sys
from pathlib import Path
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Held, Journal, StepClaim
from horarium.settings import Settings
from horarium.tools import Effect

async def main(root, run, count):
    ledger = await Ledger.open(Settings(root=Path(root)))
    print("ready", flush=True)
    sys.stdin.readline()
    done = 0
    for number in range(1, count + 1):
        journal = Journal(ledger)
        claim = StepClaim(run, number, "tool_call", "look", Effect.READ)
        held = await journal.claim(claim)
        if isinstance(held, Held):
            record = await journal.settle(held, "completed", sys.argv[4])
            done += record.output == sys.argv[4]
    print(done, flush=True)
    await ledger.close()

asyncio.run(main(sys.argv[1], sys.argv[2], int(sys.argv[3])))
"""


async def test_two_processes_write_one_sqlite_file(
    tmp_path: Path, new_settings: Callable[[Kind, Path], Awaitable[Any]]
) -> None:
    ledger = await Ledger.open(await new_settings("sqlite", tmp_path))
    run = await open_run(ledger)
    command = [sys.executable, "-c", WRITER, str(tmp_path), run, "200"]
    pipes: Any = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
    writers = [subprocess.Popen([*command, name], **pipes) for name in ("left", "right")]
    for writer in writers:
        assert writer.stdout is not None
        assert await asyncio.to_thread(writer.stdout.readline) == "ready\n"

    said = await asyncio.gather(*(asyncio.to_thread(writer.communicate, "go\n", timeout=60) for writer in writers))

    records = await Journal(ledger).of_run(run)
    await ledger.close()
    assert [writer.returncode for writer in writers] == [0, 0]
    assert [record.status for record in records] == ["completed"] * 200
    assert sum(int(out) for out, _ in said) == 200


# ---- outputs


def nested(depth: int) -> Any:
    value: Any = "deep"
    for _ in range(depth):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("output", "stored", "changes"),
    [
        ("plain", "plain", None),
        ({"b": 1, "a": [True, None]}, '{"b": 1, "a": [true, null]}', None),
        ([math.nan, math.inf, -math.inf], '["NaN", "Infinity", "-Infinity"]', "not_a_number"),
        ("half \ud83d pair", "half \ufffd pair", "unstorable_characters"),
        ({"a\x00": "b\x00"}, '{"a\ufffd": "b\ufffd"}', "unstorable_characters"),
        (2**80, f'"{2**80}"', "number_too_large"),
        (b"text after all", "text after all", None),
        (None, "null", None),
    ],
)
async def test_whatever_a_tool_returns_is_stored_and_says_what_was_changed(
    journal: Journal, run: str, output: Any, stored: str, changes: str | None
) -> None:
    record = await journal.settle(await held(journal, step(run)), "completed", output)

    assert (record.status, record.output, record.output_blob) == ("completed", stored, None)
    assert changes is None or changes in (record.changes or "")
    assert record.output_bytes == len(stored.encode())
    assert await journal.get(run, 2) == record


@pytest.mark.parametrize(
    "output",
    [10**5_000, nested(100_000), {"self": nested(500)}, object(), {1: {2, 3}}],
    ids=["a huge number", "deep nesting", "deep nesting in a mapping", "an object", "a set"],
)
async def test_even_what_has_no_end_in_json_is_settled(journal: Journal, run: str, output: Any) -> None:
    record = await journal.settle(await held(journal, step(run)), "completed", output)

    assert record.status == "completed"
    assert record.output
    json.loads(record.output)


async def test_a_large_text_is_kept_whole_and_the_model_gets_a_cut_that_says_so(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    whole = "line äöü\n" * 1_800_000
    record = await journal.settle(await held(journal, step(run)), "completed", whole)

    size = len(whole.encode())
    assert size > 20_000_000
    assert record.output_bytes == size
    assert f"the whole output is {size:,} bytes" in (record.output or "")
    assert len(record.output or "") < 10_000
    assert (await ledger.blobs.get(record.output_blob or "")).decode() == whole


async def test_bytes_are_kept_as_they_are(ledger: Ledger, journal: Journal, run: str) -> None:
    data = bytes(range(256)) * 10
    record = await journal.settle(await held(journal, step(run)), "completed", data)

    assert (record.output_bytes, record.changes) == (2_560, "binary")
    assert "2,560 bytes of binary data" in (record.output or "")
    assert await ledger.blobs.get(record.output_blob or "") == data


async def test_a_model_turn_is_kept_whole_whatever_its_size(journal: Journal, run: str) -> None:
    turn = "x" * 100_000

    record = await journal.settle(await held(journal, step(run)), "completed", turn, keep=True)

    assert (record.output, record.output_blob) == (turn, None)


# ---- a database that is away


async def test_what_was_done_is_written_down_once_a_locked_database_lets_us(
    kind: Kind, fresh: Callable[[], Awaitable[Ledger]]
) -> None:
    mine, other = await fresh(), await fresh()
    run = await open_run(mine)
    attempt = await held(Journal(mine), step(run, effect=Effect.EXTERNAL))
    lock = "SELECT 1" if kind == "sqlite" else "LOCK TABLE steps IN ACCESS EXCLUSIVE MODE"

    async with other.write() as connection:
        await connection.execute(text(lock))
        settling = asyncio.create_task(Journal(mine).settle(attempt, "completed", "done"))
        await asyncio.wait({settling}, timeout=1)
        assert not settling.done()

    record = await asyncio.wait_for(settling, 20)
    assert (record.status, record.output) == ("completed", "done")


async def test_what_was_done_is_written_down_once_a_full_disk_has_room(
    tmp_path: Path, new_settings: Callable[[Kind, Path], Awaitable[Any]]
) -> None:
    ledger = await Ledger.open(await new_settings("sqlite", tmp_path))
    run = await open_run(ledger)
    journal = Journal(ledger)
    attempt = await held(journal, step(run))
    async with ledger.write() as connection:
        pages = await connection.scalar(text("PRAGMA page_count"))
        await connection.execute(text(f"PRAGMA max_page_count={pages}"))

    settling = asyncio.create_task(journal.settle(attempt, "completed", "x" * 200_000, keep=True))
    await asyncio.wait({settling}, timeout=0.5)
    assert not settling.done(), "the disk is full"
    async with ledger.write() as connection:
        await connection.execute(text("PRAGMA max_page_count=100000"))

    record = await asyncio.wait_for(settling, 20)
    await ledger.close()
    assert (record.status, len(record.output or "")) == ("completed", 200_000)


async def test_what_was_done_is_written_down_once_the_blob_store_can_be_written(
    fresh: Callable[[], Awaitable[Ledger]], tmp_path: Path
) -> None:
    ledger = await fresh()
    journal = Journal(ledger)
    attempt = await held(journal, step(await open_run(ledger)))
    (tmp_path / ".horarium").mkdir(exist_ok=True)
    blocked = tmp_path / ".horarium" / "blobs"
    blocked.write_text("a file where the folder should be")

    settling = asyncio.create_task(journal.settle(attempt, "completed", b"\xff" * 100))
    await asyncio.wait({settling}, timeout=0.5)
    assert not settling.done()
    blocked.unlink()

    assert (await asyncio.wait_for(settling, 20)).output_bytes == 100


async def test_settling_survives_a_server_that_drops_its_connections(
    postgres: str, tmp_path: Path, new_settings: Callable[[Kind, Path], Awaitable[Any]]
) -> None:
    settings = await new_settings("postgres", tmp_path)
    mine, other = await Ledger.open(settings), await Ledger.open(settings)
    attempt = await held(Journal(mine), step(await open_run(mine), effect=Effect.EXTERNAL))
    others = "datname = current_database() AND pid <> pg_backend_pid()"
    kill = f"SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE {others}"
    async with other.write() as connection:
        await connection.execute(text(kill))

    record = await asyncio.wait_for(Journal(mine).settle(attempt, "completed", "done"), 20)

    await mine.close()
    await other.close()
    assert record.status == "completed"


# ---- the end of a run


async def test_at_the_end_of_a_run_what_was_begun_is_unknown_or_cancelled(
    ledger: Ledger, journal: Journal, run: str
) -> None:
    for number, effect in enumerate(Effect, 1):
        await held(journal, step(run, number, effect))
    await journal.hand_back(await held(journal, step(run, 4, Effect.EXTERNAL)))

    await Runs(ledger).close(run, "cancelled", reason=None, message=None, turns=0, steps=4, usage=Usage())

    statuses = {record.effect: record.status for record in (await journal.of_run(run))[:3]}
    assert statuses == {"read": "cancelled", "idempotent": "unknown", "external": "unknown"}
    assert (await journal.get(run, 4)).status == "cancelled"


async def test_a_step_of_a_run_that_was_never_opened_cannot_be_claimed(journal: Journal) -> None:
    run = new_run_id()

    with pytest.raises(RunNotFound, match=run):
        await journal.claim(step(run))
