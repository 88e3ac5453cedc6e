"""Which tools fit some words: both rankings, and what the measured set says of them."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from activities import tool_ranking
from activities.tool_ranking import Embedding, Lexical, Ranking, Rankings, words_of
from bench import search
from horarium import embeddings
from horarium.errors import ConfigError
from horarium.tools import Effect, ToolSpec

Maker = Callable[[Sequence[ToolSpec]], Ranking]
both = pytest.mark.parametrize("maker", [Lexical, Embedding], ids=["lexical", "embedding"])


def spec(name: str, description: str = "", *parameters: str) -> ToolSpec:
    schema: dict[str, Any] = {"type": "object", "properties": {name: {"type": "string"} for name in parameters}}
    return ToolSpec(name=name, description=description, parameters=schema, effect=Effect.READ)


TOOLS = [
    spec("close_ticket", "Mark a support case as solved.", "ticket"),
    spec("payInvoice", "Transfer money for a bill.", "iban", "amount"),
    spec("weather__getForecast", "Tell the weather at a place.", "city"),
    spec("lookup", "Return a row.", "postal_code"),
]


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("close_ticket", "close ticket"),
        ("payInvoice", "pay Invoice"),
        ("crm__getHTTPStatus-v2", "crm get HTTP Status v2"),
        ("x", "x"),
    ],
)
def test_a_name_is_taken_apart_into_its_words(name: str, words: str) -> None:
    assert words_of(name) == words


@both
@pytest.mark.parametrize(
    ("query", "best"),
    [
        ("close the ticket", "close_ticket"),
        ("paying invoices", "payInvoice"),
        ("what will the weather be like", "weather__getForecast"),
        ("get forecast", "weather__getForecast"),
    ],
)
def test_the_tool_that_fits_best_comes_first(maker: Maker, query: str, best: str) -> None:
    assert maker(TOOLS).best(query, 5)[0] == best


def test_a_parameter_finds_its_tool_and_a_name_counts_for_more() -> None:
    assert Lexical(TOOLS).best("postal code", 5) == ["lookup"]
    tools = [spec("one", "", "invoice"), spec("two", "An invoice."), spec("invoice")]
    assert Lexical(tools).best("invoice", 3) == ["invoice", "two", "one"]


def test_words_that_every_request_has_find_nothing() -> None:
    assert Lexical(TOOLS).best("please do this for me with the", 5) == []


@both
@pytest.mark.parametrize("query", ["", "   ", '"', "' OR name:*", 'NEAR("a" b) AND NOT *', "\x00\ud800", "?!", "見て"])
def test_no_query_breaks_it(maker: Maker, query: str) -> None:
    found = maker(TOOLS).best(query, 5)

    assert set(found) <= {tool.name for tool in TOOLS}


@both
def test_no_tools_fit_where_there_are_none(maker: Maker) -> None:
    assert maker([]).best("anything", 5) == []


@both
def test_the_same_query_gives_the_same_answer_from_an_index_that_was_made_anew(maker: Maker) -> None:
    specs, sorts = search.load()
    one, other = maker(specs), maker(list(specs))

    for asked in sorts["person"][:60]:
        assert one.best(asked.query, 5) == other.best(asked.query, 5)


async def test_an_index_is_kept_for_its_tools_and_no_others() -> None:
    rankings = Rankings()
    first = await rankings.of("lexical", TOOLS)

    assert await rankings.of("lexical", list(TOOLS)) is first
    assert await rankings.of("lexical", [*TOOLS[:3], spec("lookup", "Return another row.")]) is not first
    assert await rankings.of("embedding", TOOLS) is not first


async def test_only_the_latest_indexes_are_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tool_ranking, "KEPT_SETS", 2)
    rankings = Rankings()
    first = await rankings.of("lexical", TOOLS[:1])
    second = await rankings.of("lexical", TOOLS[:2])
    assert await rankings.of("lexical", TOOLS[:1]) is first

    await rankings.of("lexical", TOOLS[:3])

    assert await rankings.of("lexical", TOOLS[:1]) is first
    assert await rankings.of("lexical", TOOLS[:2]) is not second


async def test_without_the_extra_the_embedding_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "wordllama", None)
    embeddings._model.cache_clear()

    with pytest.raises(ConfigError) as refused:
        await Rankings().of("embedding", TOOLS)

    assert refused.value.hint == "Install it: pip install 'horarium[search]', or set `ranking: lexical`."


def test_the_model_comes_from_its_wheel_and_not_over_the_network(tmp_path: Path) -> None:
    offline = (
        "import socket\n"
        "def refuse(*_args, **_more): raise OSError('no network here')\n"
        "socket.socket.connect = socket.create_connection = socket.getaddrinfo = refuse\n"
        "from tests.core.test_tool_ranking import TOOLS\n"
        "from activities.tool_ranking import Embedding\n"
        "print(Embedding(TOOLS).best('settle what we owe', 1))\n"
    )
    command = [sys.executable, "-c", offline]
    environment = {"HOME": str(tmp_path), "PYTHONPATH": str(Path(__file__).parents[2]), "PATH": ""}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=60)

    assert (done.stdout, done.returncode) == ("['payInvoice']\n", 0), done.stderr


# ---- the measured set


def test_the_measured_set_has_two_hundred_tools_and_each_request_one_of_them() -> None:
    specs, sorts = search.load()
    names = [spec.name for spec in specs]

    assert len(names) >= 200
    assert len(set(names)) == len(names)
    for asked in sorts.values():
        assert [ask.tool for ask in asked] == names
        assert len({ask.query for ask in asked}) == len(asked)


@both
def test_what_a_model_looks_for_is_among_the_first_five(maker: Maker) -> None:
    specs, sorts = search.load()

    measured = search.measure(maker.__name__, maker, specs, sorts["model"])

    assert measured.recall(5) > 0.85
    assert measured.recall(1) > 0.6
    assert measured.recall(10) >= measured.recall(5) >= measured.recall(1)


def test_the_embedding_knows_better_than_shared_words_what_a_person_wants() -> None:
    specs, sorts = search.load()
    asked = sorts["person"]

    by_words = search.measure("lexical", Lexical, specs, asked).recall(5)
    by_meaning = search.measure("embedding", Embedding, specs, asked).recall(5)

    assert by_meaning > by_words > 0.1


def test_the_measurement_prints_its_table(capsys: pytest.CaptureFixture[str]) -> None:
    assert search.main([]) == 0

    said = capsys.readouterr().out
    assert "229 tools, 229 requests of each sort" in said
    assert "lexical" in said
    assert "embedding" in said
