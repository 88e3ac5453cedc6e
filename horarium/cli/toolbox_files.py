"""`horarium toolbox check` and `publish`: the project's toolbox files, on their way to versions."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Annotated

import typer
from rich.text import Text

from horarium.cli import talk, words
from horarium.cli.reach import opened_ledger
from horarium.cli.start import JsonOption
from horarium.definitions import Agent
from horarium.errors import ConfigError, HorariumError, Unreachable
from horarium.ledger.agents import ToolCatalog
from horarium.ledger.toolboxes import Toolboxes
from horarium.problems import line_of, near_miss
from horarium.project import load_agents, load_tools
from horarium.settings import Settings
from horarium.toolboxfiles import ToolboxFile, check_parts, load_toolboxes
from horarium.toolboxpublishing import Publisher, whole
from horarium.tools import ToolSpec
from horarium.yamlfiles import shown


def check(
    fetch: Annotated[bool, typer.Option(help="Also fetch the documents that stand elsewhere.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Check the project's toolbox files and their documents, without a server: file, line, field, and the near miss.

    \b
    Exit codes: 0 all is well, 2 something is wrong.

    \b
    Example:
      horarium toolbox check
    """
    talk.perform(_check(fetch=fetch, as_json=as_json))


async def _check(*, fetch: bool, as_json: bool) -> int:
    settings = Settings.load()
    problems: list[str] = []
    notes: list[str] = []
    files: dict[str, ToolboxFile] = {}
    try:
        files = load_toolboxes(settings)
        agents = load_agents(settings)
        served = {name: tool.spec for name, tool in load_tools(settings).items()} | await _served_elsewhere(settings)
        problems += check_parts(settings, files, served, agents) + list(_unknown(settings, files, agents))
    except ConfigError as error:
        problems += error.message.splitlines()
    for name, file in files.items():
        try:
            documents = await whole(file) if fetch else file.documents
            notes += [
                f"{name}: openapi.{label}: left out: {why}"
                for label, read in documents.items()
                for why in read.left_out
            ]
        except HorariumError as error:
            problems.append(f"toolboxes/{name}.yaml: {error}")
    if as_json:
        said = {"valid": not problems, "toolboxes": sorted(files), "problems": problems, "notes": notes}
        talk.emit(said)
    else:
        for problem in problems:
            talk.out().print(Text(words.one_line(problem)), soft_wrap=True)
        for note in notes:
            talk.say(words.one_line(note))
        well = "1 toolbox is well." if len(files) == 1 else f"{len(files)} toolboxes are well."
        talk.say(f"{words.plural(len(problems), 'problem')} found." if problems else well)
    return talk.TYPED_WRONG if problems else talk.DONE


def publish(
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object a line.")] = False,
) -> None:
    """Make versions of the project's files now, without a worker; documents that stand elsewhere are fetched.

    What has a version already is left as it is. The first version of a toolbox counts at once; a later one when it is
    promoted.

    \b
    Exit codes: 0 done, 1 a document's server does not answer, 2 a file or a document is wrong,
    3 cannot reach the ledger.

    \b
    Example:
      horarium toolbox publish
    """
    talk.perform(_publish(as_json=as_json))


async def _publish(*, as_json: bool) -> int:
    settings = Settings.load()
    files = load_toolboxes(settings)
    async with opened_ledger(settings) as ledger:
        publisher = Publisher(ledger, settings)
        for name, file in sorted(files.items()):
            version = await publisher.publish(file)
            default = await Toolboxes(ledger).default_version(name)
            if as_json:
                talk.emit({"toolbox": name, "version": version, "default": default})
                continue
            talk.out().print(Text(f"{name}@{version}" + (" counts." if version == default else " waits.")))
            if version != default:
                talk.say(f"Let it count: horarium toolbox promote {name} {version}")
    if not files:
        talk.say("No toolboxes. Write one: toolboxes/NAME.yaml")
    return talk.DONE


def _unknown(settings: Settings, files: Mapping[str, ToolboxFile], agents: Mapping[str, Agent]) -> Iterator[str]:
    """Toolboxes that agents name and the project does not have, a line each."""
    for agent in agents.values():
        file = settings.root / "agents" / f"{agent.name}.yaml"
        text = file.read_text("utf-8", "replace") if file.is_file() else ""
        for index, reference in enumerate(agent.toolboxes):
            name = reference.partition("@")[0]
            if name not in files:
                where = f"{shown(settings, file)}:{line_of(text, ['toolboxes', index])}: toolboxes.{index}"
                yield f"{where}: there is no toolbox {name!r}{near_miss(name, sorted(files))}"


async def _served_elsewhere(settings: Settings) -> dict[str, ToolSpec]:
    """Tools of workers that are no part of this project, as far as a ledger that is there already knows them."""
    if settings.ledger.url is None and not (settings.state / "ledger.db").exists():
        return {}
    try:
        async with opened_ledger(settings) as ledger:
            return {name: tool.spec for name, tool in (await ToolCatalog(ledger).all()).items()}
    except (ConfigError, Unreachable):
        return {}
