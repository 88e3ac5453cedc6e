"""Which provider answers, and what it costs."""

from __future__ import annotations

import subprocess
import sys
from decimal import Decimal
from pathlib import Path

import pytest

from activities.models.router import Models
from activities.models.scripted import ScriptedProvider
from horarium.errors import ConfigError
from horarium.settings import ModelsSettings, Price, Settings


@pytest.fixture
def models(tmp_path: Path) -> Models:
    prices = {"gpt-5.3": Price(input=Decimal("1.25"), output=Decimal(10)), "openai:mini": Price(input=1, output=1)}
    return Models(Settings(root=tmp_path, models=ModelsSettings(prices=prices)))


def test_a_provider_is_made_once_and_given_the_rest_of_the_name(models: Models) -> None:
    first, name = models.provider_for("scripted:demo/turns.yaml")
    second, _ = models.provider_for("scripted:other.yaml")

    assert name == "demo/turns.yaml"
    assert first is second
    assert models.provider_for("local")[1] == ""


def test_a_registered_provider_answers_for_its_kind(models: Models, tmp_path: Path) -> None:
    mine = ScriptedProvider(tmp_path)

    models.register("foundry", mine)

    assert models.provider_for("foundry:gpt-5.3") == (mine, "gpt-5.3")


def test_an_unknown_provider_is_refused(models: Models) -> None:
    with pytest.raises(ConfigError, match="foundry, openai, local or scripted"):
        models.provider_for("oracle:x")


@pytest.mark.parametrize(
    ("model", "answered", "micro_usd"),
    [
        ("foundry:gpt-5.3", "gpt-5.3-2026-10", 1250 + 5000),
        ("foundry:my-deployment", "gpt-5.3", 1250 + 5000),
        ("openai:mini", "mini", 1500),
        ("foundry:mini", "mini", None),
        ("local", "SmolLM2", None),
    ],
)
def test_a_price_is_found_by_the_agents_name_or_by_the_models_own(
    models: Models, model: str, answered: str, micro_usd: int | None
) -> None:
    assert models.price(model, answered, 1000, 500) == micro_usd


async def test_closing_closes_what_was_made(models: Models) -> None:
    models.provider_for("local")
    models.provider_for("openai:gpt-4.1")

    await models.close()

    assert models.provider_for("local")[0] is not None


@pytest.mark.parametrize("missing", ["aiohttp", "azure.ai.projects", "azure.identity"])
def test_without_the_extra_foundry_says_what_to_install(missing: str) -> None:
    script = (
        f"import sys; sys.modules[{missing!r}] = None\n"
        f"if {missing!r} != 'aiohttp': sys.modules[{missing + '.aio'!r}] = None\n"
        "from activities.models.router import Models\n"
        "from horarium.errors import ConfigError\n"
        "from horarium.settings import Settings\n"
        "try: Models(Settings(root='.')).provider_for('foundry:x')\n"
        "except ConfigError as error: print(error)"
    )

    said = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)

    assert "pip install 'horarium[foundry]'" in said.stdout
