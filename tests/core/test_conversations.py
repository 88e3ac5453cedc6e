"""What a worker keeps of a conversation follows what other workers add to it and summarise; on both databases."""

from __future__ import annotations

from activities.conversation import Conversations
from horarium.contract import Usage
from horarium.ids import step_id
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Answered, Journal, StepClaim
from horarium.ledger.summaries import Summaries
from horarium.ledger.threads import Threads
from horarium.tools import Effect
from horarium.turns import StoredTurn
from tests.core.ledgers import held, open_run, thread_of


async def turn(ledger: Ledger, run: str, number: int, text: str, tokens: int) -> None:
    attempt = await held(Journal(ledger), StepClaim(run, number, "model_call", "model", Effect.IDEMPOTENT))
    append = [Answered("assistant", step=step_id(run, number)), Answered("user", text="[From the system: go on.]")]
    await Journal(ledger).settle(
        attempt,
        "completed",
        StoredTurn(text=text).model_dump_json(),
        usage=Usage(input_tokens=tokens, output_tokens=1),
        thread=await thread_of(ledger, run),
        append=append,
    )


async def test_a_summary_of_another_worker_takes_the_place_of_what_it_stands_for(ledger: Ledger) -> None:
    run = await open_run(ledger, input="Find the heron.")
    thread = await thread_of(ledger, run)
    await turn(ledger, run, 1, "One.", 100)
    await turn(ledger, run, 2, "Two.", 200)
    here, elsewhere = Conversations(ledger), Conversations(ledger)
    whole = await here.view(thread)

    await Summaries(ledger).keep(thread, 2, "It was begun.", run, 3)
    views = [await worker.view(thread) for worker in (here, elsewhere)]

    assert whole.messages[0].text == "Find the heron."
    assert (whole.places, whole.counted, whole.turns_before) == ([0, 1, 2, 3, 4], (4, 201), 0)
    for view in views:
        assert view == views[0], "a worker that has read before, and one that has not, see the same"
        assert view.places == [2, 3, 4]
        assert "It was begun." in view.messages[0].text
        assert "Find the heron." in view.messages[0].text, "not the engine's own note after it"
        assert [message.text for message in view.messages[1:]] == ["Two.", "[From the system: go on.]"]
        assert (view.turns_before, view.counted) == (1, None), "what was counted before it was another conversation"

    await turn(ledger, run, 4, "Three.", 90)
    after = await here.view(thread)
    assert (after.places, after.counted) == ([2, 3, 4, 5, 6], (4, 91))


async def test_the_latest_of_several_summaries_counts(ledger: Ledger) -> None:
    run = await open_run(ledger)
    thread = await thread_of(ledger, run)
    for number in (1, 2, 3):
        await turn(ledger, run, number, f"Turn {number}.", 10)
    for upto, text in ((4, "later"), (2, "earlier"), (4, "another")):
        await Summaries(ledger).keep(thread, upto, text, run, 9)

    view = await Conversations(ledger).view(thread)

    assert "later" in view.messages[0].text
    assert view.places == [4, 5, 6]
    assert len(await Threads(ledger).read(thread)) == 7
