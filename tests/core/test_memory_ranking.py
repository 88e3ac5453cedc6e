"""Memories ranked by meaning: what is near to a question, and what is too far from it to be told."""

from __future__ import annotations

import sys

import pytest
from pydantic import ValidationError

from activities import memory_ranking
from activities.memory_ranking import FLOOR, nearest
from horarium import embeddings
from horarium.definitions import Memory
from horarium.embeddings import Meanings
from horarium.errors import ConfigError
from horarium.memories import Known, MemoryKind


def known(text: str, subject: str = "", kind: MemoryKind = "user") -> Known:
    return Known(id=text, version=1, kind=kind, subject=subject, text=text)


DIET = known("Eats no meat or fish.", "diet")
TRAIN = known("Takes the train at noon.", "commute")
UNITS = known("Prefers metric units.", "units")
ALL = [TRAIN, UNITS, DIET]


def test_the_memory_that_means_it_comes_first_without_a_word_in_common() -> None:
    assert nearest("Suggest a recipe for dinner", ALL, 1) == [DIET]


def test_what_has_nothing_to_do_with_the_question_is_left_out() -> None:
    assert nearest("Suggest a recipe for dinner", ALL, 10) == [DIET]


def test_where_all_is_far_off_the_nearest_are_told_all_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(memory_ranking, "FLOOR", 0.99)

    assert nearest("Suggest a recipe for dinner", ALL, 10)[0] == DIET
    assert len(nearest("Suggest a recipe for dinner", ALL, 10)) == 3
    assert len(nearest("Suggest a recipe for dinner", ALL, 2)) == 2


@pytest.mark.parametrize("query", ["", "  ", "?!", '"', "\x00"])
def test_a_question_without_words_leaves_the_order_as_it_is(query: str) -> None:
    assert nearest(query, ALL, 2) == [TRAIN, UNITS]


def test_a_memory_without_words_is_near_to_nothing_and_harms_no_other() -> None:
    strange = [known(""), known("…"), known("\x00")]

    assert nearest("Suggest a recipe for dinner", [*strange, DIET], 10) == [DIET]
    assert nearest("Suggest a recipe for dinner", strange, 10) == strange
    assert nearest("Suggest a recipe for dinner", [], 10) == []


def test_what_is_as_near_as_another_stays_in_its_order() -> None:
    one, other = known("Eats no meat or fish.", "diet"), known("Eats no meat or fish.", "diet", "procedural")

    assert nearest("dinner", [one, other], 2) == [one, other]
    assert nearest("dinner", [other, one], 2) == [other, one]


def test_the_subject_counts_except_for_a_summary_where_it_is_the_id_of_a_run() -> None:
    vague, summary = known("None at all.", "meat"), known("None at all.", "meat", "summary")

    assert nearest("Cook beef for me", [summary, vague], 1) == [vague]


def test_how_near_texts_are_depends_on_nothing_but_them() -> None:
    texts = [f"{each.subject}. {each.text}" for each in ALL]
    alone = [Meanings([text], "Memories").near("Suggest a recipe for dinner")[0] for text in texts]
    together = Meanings([*texts, "word " * 3_000] * 40, "Memories").near("Suggest a recipe for dinner")

    assert together[:3] == alone
    assert together[:4] * 40 == together
    assert alone[2] > FLOOR > max(alone[:2])


def test_without_the_extra_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    embeddings._model.cache_clear()

    for attempt in (lambda: nearest("dinner", ALL, 1), lambda: embeddings.require("Memories")):
        with pytest.raises(ConfigError, match="Memories are to be ranked by `embedding`") as refused:
            attempt()
        assert refused.value.hint == "Install it: pip install 'horarium[search]', or set `ranking: lexical`."


def test_a_store_elsewhere_ranks_by_itself() -> None:
    assert Memory(scope="desk", store="foundry").ranking == "lexical"
    with pytest.raises(ValidationError, match="that store ranks by itself"):
        Memory(scope="desk", store="foundry", ranking="embedding")
