"""Routines on disk: `routines/<name>.yaml`.

All mistakes of all files are told at once, each with its file and line; nothing is half read. What only the ledger or
a cron line's meaning can tell is told by `horarium plan`, with `RoutineFile.lines` for the place.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from horarium.definition import Definition
from horarium.errors import ConfigError
from horarium.problems import explain, line_of, near_miss
from horarium.routinechecks import Problem
from horarium.routines import AtTrigger, CronTrigger, EventTrigger, EveryTrigger, Routine
from horarium.settings import Settings
from horarium.templates import check_template
from horarium.yamlfiles import line_in_text, parse, read_text, secret_entries, secrets_in, shown

FOLDER = "routines"
_KINDS: dict[str, type[Definition]] = {
    "cron": CronTrigger,
    "every": EveryTrigger,
    "at": AtTrigger,
    "event": EventTrigger,
}
_HINT = "Correct them, then: horarium plan"


@dataclass(frozen=True, slots=True)
class RoutineFile:
    """A routine with the file that it came from."""

    file: Path
    shown: Path
    text: str
    routine: Routine

    def lines(self, problems: Iterable[Problem]) -> list[str]:
        """Each problem as `routines/x.yaml:7: triggers.mornings.cron: …`."""
        return [_line(self.shown, self.text, path, sentence) for path, sentence in problems]


def routine_files(settings: Settings, paths: Sequence[Path] | None = None) -> list[Path]:
    """The routine files of a project, by name; or those of some directories and single files.

    Raises:
        ConfigError: A path is not there.
    """
    if paths is None:
        return _in(settings.root / FOLDER)
    found: list[Path] = []
    for path in (Path(path).resolve() for path in paths):
        if path.is_dir():
            found += _in(path)
        elif path.exists():
            found.append(path)
        else:
            beside = [str(shown(settings, file)) for file in _in(path.parent)]
            said = str(shown(settings, path))
            raise ConfigError(f"There is no {said!r}{near_miss(said, beside) or '.'}", hint="See: ls routines/")
    return list(dict.fromkeys(found))


def load_routines(settings: Settings, paths: Sequence[Path] | None = None) -> dict[str, Routine]:
    """Read every routine, by name.

    Raises:
        ConfigError: All mistakes of all files, a line each: file, line, field, near miss.
    """
    return {name: read.routine for name, read in load_routine_files(settings, paths).items()}


def load_routine_files(settings: Settings, paths: Sequence[Path] | None = None) -> dict[str, RoutineFile]:
    """As `load_routines`, each with its file.

    Raises:
        ConfigError: All mistakes of all files.
    """
    read: dict[str, RoutineFile] = {}
    problems: list[str] = []
    for file in routine_files(settings, paths):
        made = _read(settings, file)
        if isinstance(made, list):
            problems += made
        elif (other := read.get(made.routine.name)) is not None:
            problems.append(f"{made.shown}:1: name: {other.shown} is called so as well")
        else:
            read[made.routine.name] = made
    if problems:
        raise ConfigError("\n".join(problems), hint=_HINT)
    return read


def problem_lines(settings: Settings, file: Path, problems: Iterable[Problem]) -> list[str]:
    """Each problem of a file with its line; for whoever has the file and not what was read from it."""
    name = shown(settings, file)
    try:
        text = read_text(file, str(name))
    except ConfigError:
        text = ""  # gone since: the problem is told all the same
    return [_line(name, text, path, sentence) for path, sentence in problems]


def _in(folder: Path) -> list[Path]:
    return sorted([*folder.glob("*.yaml"), *folder.glob("*.yml")])


def _line(name: Path, text: str, path: Sequence[str | int], sentence: str) -> str:
    field = ".".join(map(str, path)) or "(the whole)"
    return f"{name}:{line_of(text, path)}: {field}: {sentence}"


def _read(settings: Settings, file: Path) -> RoutineFile | list[str]:
    """The routine of a file, or all that is wrong with it."""
    name = shown(settings, file)
    try:
        text = read_text(file, str(name))
    except ConfigError as error:
        return [error.message]
    try:
        values = parse(text, name, like="agent: triage")
    except ConfigError as error:
        return [error.message + _about_stars(text, error.message)]
    problems = [f"{name}:1: call this file {file.stem}.yaml"] if file.suffix != ".yaml" else []
    problems += secrets_in(text, name) + secret_entries(text, values, "labels", name)
    values.setdefault("name", file.stem)
    if values["name"] != file.stem:
        said = f"is {values['name']!r}, but the file is called {file.name!r}"
        problems.append(_line(name, text, ["name"], said))
    problems += _before(values, name, text)
    if isinstance(template := values.get("input"), str):
        problems += [
            f"{name}:{line_in_text(text, 'input', line)}: input: {said}" for line, said in check_template(template)
        ]
    try:
        routine = Routine.model_validate(values)
    except ValidationError as error:
        return problems + _explained(error, values, name, text)
    return problems or RoutineFile(file, name, text, routine)


def _before(values: Mapping[Any, Any], name: Path, text: str) -> Iterator[str]:
    """Mistakes of the form for which the model would say something about itself, and not about the file."""
    triggers = values.get("triggers")
    for trigger, value in triggers.items() if isinstance(triggers, Mapping) else ():
        if isinstance(trigger, str) and not isinstance(value, Mapping):
            like = (
                f'{trigger}: {{cron: "{value}"}}' if isinstance(value, str) else f'{trigger}: {{cron: "0 6 * * 1-5"}}'
            )
            yield _line(name, text, ["triggers", trigger], f"must be a mapping, like {like}")
        elif not isinstance(trigger, str):
            said = f"YAML reads the trigger's name as {trigger!r}; put it into quotes"
            yield _line(name, text, ["triggers"], said)
    alert = values.get("alert")
    if isinstance(alert, str):
        yield _line(name, text, ["alert"], 'must be a list, like ["${ALERT_URL}"]')


def _explained(error: ValidationError, values: Mapping[Any, Any], name: Path, text: str) -> list[str]:
    """The model's complaints, those about triggers and addresses in the words of this file."""
    lines = explain(error, Routine, name, text).splitlines()
    told: list[str] = []
    for problem, line in zip(error.errors(include_url=False), lines, strict=True):
        match problem["loc"], problem["type"]:
            case (("triggers", trigger, *_), _) if _is_told(values["triggers"], trigger):
                continue
            case (("triggers", str(trigger), field), "extra_forbidden"):
                told.append(line + near_miss(str(field), _fields_of(values["triggers"][trigger])))
            case (("alert", int(index)), "value_error"):
                said = f"an address has a password in it; put it into an environment variable, and name that: {_LIKE}"
                told.append(_line(name, text, ["alert", index], said))
            case (("alert",), _) if isinstance(values.get("alert"), str):
                continue
            case _:
                told.append(line)
    return told


_LIKE = "${ALERT_URL}"


def _is_told(triggers: Any, trigger: Any) -> bool:
    """Whether `_before` said it."""
    if not isinstance(triggers, Mapping):
        return False
    return not isinstance(trigger, str) or trigger not in triggers or not isinstance(triggers[trigger], Mapping)


def _fields_of(trigger: Mapping[str, Any]) -> list[str]:
    """The fields of the kind that a trigger is."""
    kind = next((kind for field, kind in _KINDS.items() if field in trigger), None)
    return list(kind.model_fields) if kind is not None else []


def _about_stars(text: str, said: str) -> str:
    """YAML takes `*` for an alias and refuses `@`: what a cron line without quotes runs into."""
    number = said.split(":")[1]
    lines = text.splitlines()
    line = lines[int(number) - 1] if number.isdigit() and int(number) <= len(lines) else ""
    return "; put a cron line into quotes" if "cron:" in line and '"' not in line and "'" not in line else ""
