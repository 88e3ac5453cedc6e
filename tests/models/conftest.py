from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from activities.models.foundry import FoundryProvider
from activities.models.openai import OpenAIProvider, Patience
from horarium.settings import FoundrySettings, OpenAISettings
from tests.emulator.server import IDENTITY_HEADER, TOKEN, FoundryEmulator, served

PATIENCE = Patience(first_event=timedelta(seconds=2), idle=timedelta(seconds=2))


@pytest.fixture
def emulator(tmp_path: Path) -> Iterator[FoundryEmulator]:
    with served(tmp_path) as running:
        yield running


@pytest.fixture
async def foundry(emulator: FoundryEmulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[FoundryProvider]:
    monkeypatch.setenv("IDENTITY_ENDPOINT", emulator.identity)
    monkeypatch.setenv("IDENTITY_HEADER", IDENTITY_HEADER)
    settings = FoundrySettings(endpoint=emulator.endpoint, credential="managed", ca_file=emulator.ca_file)
    provider = FoundryProvider(settings, PATIENCE)
    yield provider
    await provider.close()


@pytest.fixture
async def chat(emulator: FoundryEmulator, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[OpenAIProvider]:
    """The `openai` provider, speaking chat completions."""
    monkeypatch.setenv("EMULATED_KEY", TOKEN)
    settings = OpenAISettings(
        base_url=f"{emulator.endpoint}/openai/v1", api_key="${EMULATED_KEY}", api="chat", ca_file=emulator.ca_file
    )
    provider = OpenAIProvider(settings, PATIENCE)
    yield provider
    await provider.close()
