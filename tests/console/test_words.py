"""How values are said on pages."""

from __future__ import annotations

from horarium.gateway.console.words import questions
from horarium.people import in_words


def test_a_rule_of_the_plan_is_named_by_its_place_in_it_and_a_grant_as_one() -> None:
    assert in_words("plan:approvals.0") == "rule 1 of the approval plan"
    assert in_words("gra_7XK2") == "grant gra_7XK2"
    assert in_words("ana") == "ana"


def test_the_id_of_a_question_leads_to_it_and_nothing_else_in_the_text_becomes_markup() -> None:
    asked = "apr_75CZX7MRBM47ZZPCPCWEJF8MMC"

    said = questions(f"waits for {asked} (<b>pay</b>), not for apr_short")

    assert f'<a class="id" href="/inbox/{asked}">' in said
    assert "&lt;b&gt;pay&lt;/b&gt;" in said
    assert said.count("<a ") == 1
