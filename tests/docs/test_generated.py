"""Pages that are printed by the program are what it prints today."""

from __future__ import annotations

from pathlib import Path

import pytest

from horarium import contract
from horarium.contract_docs import contract_page, settings_page
from horarium.settings import Settings

ROOT = Path(__file__).resolve().parents[2]


def test_the_contract_page_is_current():
    assert (ROOT / "docs" / "contract.md").read_text("utf-8") == contract_page(ROOT), "write it anew: make docs"


def test_the_settings_page_is_current():
    assert (ROOT / "docs" / "settings.md").read_text("utf-8") == settings_page(), "write it anew: make docs"


def test_the_contract_page_has_every_name_of_the_contract():
    page = contract_page(ROOT)
    names = {
        value
        for key, value in vars(contract).items()
        if key.startswith(("UPDATE_", "SIGNAL_", "QUERY_", "SEARCH_", "RUN_", "ENGINE_")) and isinstance(value, str)
    }

    assert len(names) >= 12
    assert {name for name in names if f"`{name}`" not in page} == set()


def test_the_contract_page_describes_every_payload():
    payloads = {
        value.__name__
        for value in vars(contract).values()
        if isinstance(value, type) and issubclass(value, contract.Wire) and value is not contract.Wire
    }

    assert {name for name in payloads if f"### {name}\n" not in contract_page(ROOT)} == set()


@pytest.mark.parametrize("section", [name for name in Settings.model_fields if name not in ("root", "log_level")])
def test_the_settings_page_has_every_section(section: str):
    assert f"`[{section}" in settings_page()
