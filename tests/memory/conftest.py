"""The store emulator, and an engine whose agents keep their memories there."""

from __future__ import annotations

import os
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from horarium.settings import FoundryMemorySettings, FoundrySettings, MemorySettings, ModelsSettings, Settings
from tests.emulator.server import IDENTITY_HEADER
from tests.engine.conftest import env
from tests.memory.store import STORE, StoreEmulator, served_store

__all__ = ["env"]


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[StoreEmulator]:
    """The emulator, and an environment in which its identity is found and no other."""
    for name in list(os.environ):
        if name.startswith("AZURE_") or name.lower() in ("http_proxy", "https_proxy", "all_proxy"):
            monkeypatch.delenv(name)
    folder = tmp_path / "store"
    folder.mkdir()
    with served_store(folder) as emulator:
        monkeypatch.setenv("IDENTITY_ENDPOINT", emulator.identity)
        monkeypatch.setenv("IDENTITY_HEADER", IDENTITY_HEADER)
        yield emulator


@pytest.fixture
def settings(tmp_path: Path, store: StoreEmulator) -> Settings:
    memory = FoundryMemorySettings(
        endpoint=store.endpoint,
        store=STORE,
        recall_timeout=timedelta(seconds=2),
        poll=timedelta(milliseconds=20),
    )
    foundry = FoundrySettings(credential="managed", ca_file=store.ca_file)
    return Settings(root=tmp_path, models=ModelsSettings(foundry=foundry), memory=MemorySettings(foundry=memory))
