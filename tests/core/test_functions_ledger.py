"""Outputs of calls that whoever started a run carries out, as the ledger takes them; on both databases."""

from __future__ import annotations

import asyncio

import pytest

from horarium.content import INLINE_BYTES
from horarium.contract import CallerFunction, Usage
from horarium.errors import FunctionCallNotFound, OutputRefused
from horarium.ledger.database import Ledger
from horarium.ledger.functions import FunctionCall, Functions, RunFunctions
from horarium.ledger.runs import Runs
from tests.core.ledgers import NOON, open_run


async def given(ledger: Ledger, *steps: int) -> tuple[Functions, str]:
    """A run whose caller was given the calls of these steps."""
    functions, run = Functions(ledger), await open_run(ledger)
    for step in steps:
        await functions.ask(run, step, "beep", at=NOON, expires_at=None)
    return functions, run


def how(call: FunctionCall) -> tuple[str | None, str | None, str | None]:
    """How a call stands."""
    return call.output, call.by, call.ended


async def test_of_outputs_that_come_at_once_one_stands(ledger: Ledger) -> None:
    functions, run = await given(ledger, 2)

    async def submit(text: str) -> str | None:
        try:
            await functions.submit(run, {2: text}, by=text)
        except OutputRefused:
            return None
        return text

    [stood] = [text for text in await asyncio.gather(*map(submit, ("a", "b", "c", "d"))) if text is not None]

    assert how(await functions.call(run, 2)) == (stood, stood, None)


async def test_a_submission_is_taken_whole_or_not_at_all(ledger: Ledger) -> None:
    functions, run = await given(ledger, 2, 3)
    await functions.submit(run, {3: "three"}, by="ann")

    for wrong, error in (({2: "two", 3: "other"}, OutputRefused), ({2: "two", 9: "nine"}, FunctionCallNotFound)):
        with pytest.raises(error):
            await functions.submit(run, wrong, by="bob")
    assert how(await functions.call(run, 2)) == (None, None, None)

    assert await functions.submit(run, {2: "two\x00", 3: "three"}, by="bob") == (3,)
    assert [how(call) for call in await functions.calls(run)] == [("two\ufffd", "bob", None), ("three", "ann", None)]


async def test_an_output_and_the_end_of_the_wait_exclude_each_other(ledger: Ledger) -> None:
    functions, run = await given(ledger, 2, 3, 4)
    await functions.submit(run, {2: "two"}, by="ann")

    assert how(await functions.end(run, 2, "expired")) == ("two", "ann", None)
    assert (await functions.end(run, 3, "expired")).ended == "expired"
    with pytest.raises(OutputRefused, match="in time"):
        await functions.submit(run, {3: "three"}, by="ann")
    await Runs(ledger).close(run, "completed", reason=None, message=None, turns=1, steps=1, usage=Usage())
    with pytest.raises(OutputRefused, match="its run has ended"):
        await functions.submit(run, {4: "four"}, by="ann")


async def test_a_large_output_is_in_the_blob_store_until_its_step_has_it(ledger: Ledger) -> None:
    functions, run = await given(ledger, 2)
    text = "x" * (INLINE_BYTES + 1)

    await functions.submit(run, {2: text}, by=None)
    kept = await functions.call(run, 2)
    await functions.settled(run, 2)

    assert kept.output is None
    assert await functions.output(kept) == text
    assert await functions.output(await functions.call(run, 2)) is None
    assert await functions.submit(run, {2: text}, by=None) == (2,)


async def test_the_functions_of_a_run_are_said_once(ledger: Ledger) -> None:
    run = await open_run(ledger)
    first = RunFunctions((CallerFunction(name="beep"),), "beep")

    kept = await Functions(ledger).keep(run, first)
    later = await Functions(ledger).keep(run, RunFunctions((CallerFunction(name="other"),)))

    assert kept == later == first
    assert await Functions(ledger).of_run("run_none") == RunFunctions()
