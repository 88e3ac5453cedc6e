"""`horarium routine import` and `export`: routines in the shape of Microsoft Foundry."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic import ValidationError

from horarium.cli import talk
from horarium.cli.reach import opened_ledger
from horarium.cli.start import JsonOption
from horarium.errors import ConfigError
from horarium.foundry_routines import export_foundry, import_foundry
from horarium.ledger.routines import Routines
from horarium.problems import sentences
from horarium.project import load_routines
from horarium.routinefiles import FOLDER
from horarium.routines import Routine
from horarium.settings import Settings
from horarium.yamlfiles import yaml_of as yaml_of

STDIN = Path("-")


def import_(
    file: Annotated[Path, typer.Argument(metavar="FILE", help="JSON: one routine, or a list of them. `-`: stdin.")],
    write: Annotated[bool, typer.Option("--write", help="Write routines/NAME.yaml; else only show it.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Make routine files of Foundry's routines, and say what could not be kept. Deploys nothing.

    \b
    Exit codes: 0 done, 2 the file cannot be read, or a routine of this name is there already.

    \b
    Examples:
      horarium routine import foundry.json
      horarium routine import foundry.json --write && horarium plan
    """
    talk.perform(_import(file, write=write, as_json=as_json))


async def _import(file: Path, *, write: bool, as_json: bool) -> int:
    settings = Settings.load()
    made = [_imported(item) for item in _routines_in(_read(file), str(file))]
    if write:
        _write(settings, made)
    if as_json:
        for values, notes in made:
            talk.emit({"routine": values, "notes": notes})
        return talk.DONE
    for values, notes in made:
        name = f"{FOLDER}/{values['name']}.yaml"
        if write:
            talk.out().print(f"Wrote {name}")
        else:
            talk.out().print(f"# {name}\n{yaml_of(values)}", end="", soft_wrap=True)
        for note in notes:
            talk.say(f"Note: {values['name']}: {note}")
    if write:
        talk.say("See what it would do: horarium plan")
    return talk.DONE


def export(
    name: Annotated[str, typer.Argument(metavar="NAME", help="The routine's name.")],
    as_json: JsonOption = False,
) -> None:
    """Print a routine as Foundry takes it, from its file, or from the ledger when it has none.

    What Foundry has no word for is told on stderr; with --json it stands beside the routine.

    \b
    Exit codes: 0 done, 2 there is none or its file is wrong, 3 cannot reach the ledger.

    \b
    Example:
      horarium routine export nightly-triage > foundry.json
    """
    talk.perform(_export(name, as_json=as_json))


async def _export(name: str, *, as_json: bool) -> int:
    settings = Settings.load()
    routine = load_routines(settings).get(name)
    if routine is None:
        async with opened_ledger(settings) as ledger:
            routine = (await Routines(ledger).get(name)).routine
    made, notes = export_foundry(routine)
    if as_json:
        talk.emit({"routine": made, "notes": notes})
        return talk.DONE
    print(json.dumps(made, ensure_ascii=True, indent=2))
    for note in notes:
        talk.say(f"Note: {note}")
    return talk.DONE


def _read(file: Path) -> Any:
    try:
        return json.loads(sys.stdin.read() if file == STDIN else file.read_text("utf-8"))
    except OSError as error:
        raise ConfigError(f"{file} cannot be read: {error.strerror}.") from error
    except (ValueError, RecursionError) as error:
        raise ConfigError(
            f"{file} is no JSON: {error}.", hint="Save what `routines.get(name).as_dict()` gives."
        ) from error


def _routines_in(read: Any, where: str) -> list[Mapping[str, Any]]:
    """One routine, a list, or a page of them as the REST API gives it."""
    if isinstance(read, Mapping):
        read = next((read[key] for key in ("data", "value") if isinstance(read.get(key), list)), [read])
    if not isinstance(read, list) or not all(isinstance(item, Mapping) for item in read):
        raise ConfigError(f"{where} holds no routines.", hint="It must be a JSON object, or a list of them.")
    return read


def _imported(item: Mapping[str, Any]) -> tuple[dict[str, Any], list[str]]:
    values, notes = import_foundry(item)
    try:
        Routine.model_validate(values)
    except ValidationError as error:
        said = "; ".join(sentences(error, Routine))
        raise ConfigError(f"The routine {values['name']!r} cannot be one here: {said}.") from error
    return values, notes


def _write(settings: Settings, made: list[tuple[dict[str, Any], list[str]]]) -> None:
    """All of them, or none.

    Raises:
        ConfigError: One is there already, or two have one name.
    """
    files = [settings.root / FOLDER / f"{values['name']}.yaml" for values, _ in made]
    taken = [file for position, file in enumerate(files) if file.exists() or file in files[:position]]
    if taken:
        raise ConfigError(f"{FOLDER}/{taken[0].name} is there already.", hint="Move it away, or rename the routine.")
    try:
        (settings.root / FOLDER).mkdir(exist_ok=True)
        for file, (values, notes) in zip(files, made, strict=True):
            head = "".join(f"# {note}\n" for note in ("Imported from Foundry.", *notes))
            file.write_text(head + yaml_of(values), "utf-8")
    except OSError as error:
        raise ConfigError(f"{FOLDER} cannot be written: {error.strerror}.") from error
