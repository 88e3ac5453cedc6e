"""docker-compose.yml, as far as it can be checked without a container engine."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from horarium.contract import SEARCH_ATTRIBUTES
from horarium.settings import Settings
from tests.support.stack import free_port, until

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE_SCRIPT = ROOT / "deploy" / "temporal-namespace.sh"
# The `temporal` of the wheel is beside this interpreter, whether or not its environment is active.
PATH = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text("utf-8"))
    return loaded


def test_what_it_needs_is_in_the_example_environment(compose: dict[str, Any]):
    text = (ROOT / "docker-compose.yml").read_text("utf-8")
    wanted = set(re.findall(r"(?<!\$)\$\{(\w+)", text))
    given = dict(line.split("=", 1) for line in (ROOT / "deploy/example.env").read_text().splitlines() if "=" in line)

    assert wanted == set(given)
    assert given["TEMPORAL_VERSION"] in compose["services"]["temporal"]["image"]


def test_services_wait_for_services_that_there_are(compose: dict[str, Any]):
    services = compose["services"]
    for name, service in services.items():
        for other, how in service.get("depends_on", {}).items():
            assert other in services, name
            assert how["condition"] != "service_healthy" or "healthcheck" in services[other], f"{name} → {other}"


def test_every_file_and_volume_that_is_mounted_is_there(compose: dict[str, Any]):
    for volume in mounts(compose):
        source = volume.split(":")[0]
        if source.startswith("./"):
            assert (ROOT / source).is_file()
        elif not source.startswith("$"):
            assert source in compose["volumes"]


def test_nothing_is_published_beyond_loopback(compose: dict[str, Any]):
    ports = [port for service in compose["services"].values() for port in service.get("ports", [])]

    assert ports
    assert [port for port in ports if not port.startswith("127.0.0.1:")] == []


def test_the_workers_environment_is_what_its_settings_understand(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    environment = compose["services"]["worker"]["environment"]
    for name, value in environment.items():
        monkeypatch.setenv(name, value.replace("$$", "$"))  # as compose hands it on

    settings = Settings.load(tmp_path)

    assert {name for name in environment if name.startswith("HORARIUM_")} >= {"HORARIUM_TEMPORAL__ADDRESS"}
    assert settings.approvals.require_proof
    assert settings.approvals.verify_keys == "${APPROVER_KEYS}"
    assert "APPROVER_KEYS" in environment
    assert settings.temporal.address == "temporal:7233"
    assert settings.ledger_url == "postgresql+asyncpg://horarium@ledger-db/horarium"
    assert settings.blobs_url.startswith("file:///var/lib/horarium/")


def test_the_gateways_environment_is_the_workers_and_the_key_that_it_signs_with(
    compose: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    worker, gateway = (compose["services"][name]["environment"] for name in ("worker", "gateway"))
    monkeypatch.setenv("HORARIUM_APPROVALS__SIGNING_KEY", gateway["HORARIUM_APPROVALS__SIGNING_KEY"].replace("$$", "$"))
    monkeypatch.setenv("HORARIUM_GATEWAY__HOSTS", '["horarium.example.com"]')

    settings = Settings.load(tmp_path)

    assert worker.items() <= gateway.items()
    assert settings.approvals.signing_key == "${APPROVER_KEY}"
    assert "APPROVER_KEY" in gateway
    assert "HORARIUM_LINK_SECRET" in gateway
    assert settings.gateway.hosts == ("horarium.example.com",)


@pytest.fixture
async def server() -> AsyncIterator[str]:
    """A server that knows none of our search attributes."""
    port = free_port()
    command = [shutil.which("temporal", path=PATH) or "temporal", "server", "start-dev", "--headless", f"--port={port}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    address = f"127.0.0.1:{port}"
    try:
        await until(lambda: answers(address), "the server answers", process)
        yield address
    finally:
        process.kill()
        process.wait(10)


@pytest.mark.slow
def test_the_namespace_script_registers_every_search_attribute_and_can_be_repeated(server: str):
    environment = {**os.environ, "PATH": PATH, "TEMPORAL_ADDRESS": server}
    for _ in range(2):
        done = subprocess.run(["sh", NAMESPACE_SCRIPT], env=environment, capture_output=True, text=True, timeout=60)
        assert done.returncode == 0, done.stderr

    listed = temporal("operator", "search-attribute", "list", "--address", server).stdout
    assert [name for name in SEARCH_ATTRIBUTES if not re.search(rf"{name}\s+Keyword", listed)] == []


def mounts(compose: dict[str, Any]) -> Iterator[str]:
    for service in compose["services"].values():
        yield from service.get("volumes", [])


def answers(address: str) -> bool:
    return temporal("operator", "cluster", "health", "--address", address).returncode == 0


def temporal(*arguments: str) -> subprocess.CompletedProcess[str]:
    command = [shutil.which("temporal", path=PATH) or "temporal", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=60)
