"""The `scripted` provider: turns from a file, for tests and demonstrations. It never pretends to be a model.

The turn to give is the number of assistant messages that there are: nothing is remembered, so a retry or a
restarted worker gets the same turn again.
"""

from __future__ import annotations

import asyncio
import json
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from activities.models.base import ModelRequest, OnText, RequestedCall, Turn
from horarium.definition import Duration
from horarium.definitions import ModelSettings
from horarium.errors import ConfigError, ContextLengthExceeded, ModelAuthFailed, ModelRejected, ModelUnavailable
from horarium.problems import explain

MODEL = "scripted"


class _Part(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ScriptedCall(_Part):
    """One call. `raw` is arguments as they stand, such as text that is not JSON."""

    name: str
    arguments: dict[str, Any] = {}
    raw: str | None = None
    id: str | None = None


class ScriptedTurn(_Part):
    """One turn, or what happens instead of it."""

    text: str = ""
    calls: tuple[ScriptedCall, ...] = ()
    finish: Literal["stop", "length", "filtered"] = "stop"
    error: Literal["unavailable", "throttled", "rejected", "auth", "too_long"] | None = None
    retry_after: Duration | None = None
    delay_ms: int = Field(default=0, ge=0)
    input_tokens: int = Field(default=0, ge=0)
    output_tokens: int = Field(default=0, ge=0)


class Generated(_Part):
    """Many turns with one call each, `{n}` in its arguments replaced by the turn's number, then a text."""

    turns: int = Field(ge=0)
    tool: str
    arguments: dict[str, Any] = {}
    said: str = Field(default="", description="The text that goes with each call.")
    text: str = "Done."


class Script(_Part):
    """A whole file."""

    turns: tuple[ScriptedTurn, ...] = ()
    generate: Generated | None = None
    summary: ScriptedTurn | None = Field(default=None, description="What to give when asked for a summary.")
    repeat: Literal["last"] | None = Field(default=None, description="What to give when the turns are used up.")

    def turn(self, index: int) -> ScriptedTurn:
        """The turn of this number, from 0.

        Raises:
            ModelRejected: There is none.
        """
        if index < len(self.turns):
            return self.turns[index]
        if self.generate is not None:
            number = index - len(self.turns) + 1
            if number > self.generate.turns:
                return ScriptedTurn(text=self.generate.text)
            arguments = _numbered(self.generate.arguments, number)
            call = ScriptedCall(name=self.generate.tool, arguments=arguments)
            return ScriptedTurn(text=self.generate.said, calls=(call,))
        if self.repeat == "last" and self.turns:
            return self.turns[-1]
        raise ModelRejected(f"The script has {_turns(len(self.turns))}, and is asked for one more.")

    def given_summary(self) -> ScriptedTurn:
        """What to give when asked for a summary.

        Raises:
            ModelRejected: Nothing.
        """
        if self.summary is None:
            raise ModelRejected("The script has no `summary`, and is asked for one.")
        return self.summary


class ScriptedProvider:
    """Scripts below a project's directory."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._scripts: dict[str, Script] = {}

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        """Give the next turn of the script; see `Provider`."""
        index = request.turns_before + [message.role for message in request.messages].count("assistant")
        script = self._script(request.model)
        turn = script.turn(index) if request.purpose == "turn" else script.given_summary()
        await asyncio.sleep(turn.delay_ms / 1000)
        _fail(turn)
        if on_text is not None and turn.text:
            await on_text(turn.text)
        calls = tuple(
            RequestedCall(
                call.id or f"call_{index + 1}_{position + 1}",
                call.name,
                call.raw if call.raw is not None else json.dumps(call.arguments, ensure_ascii=False),
            )
            for position, call in enumerate(turn.calls)
        )
        return Turn(
            text=turn.text,
            calls=calls,
            finish=turn.finish,
            input_tokens=turn.input_tokens,
            output_tokens=turn.output_tokens,
            model=MODEL,
        )

    async def window(self, model: str, settings: ModelSettings) -> int | None:
        """A script has none; an agent may say one."""
        return None

    async def check(self, model: str) -> str:
        """Read the script."""
        script = self._script(model)
        turns = len(script.turns) + (script.generate.turns + 1 if script.generate else 0)
        return f"a script of {_turns(turns)}, not a model"

    async def close(self) -> None:
        """Nothing is open."""

    def _script(self, name: str) -> Script:
        if name not in self._scripts:
            self._scripts[name] = _read(self._root / name)
        return self._scripts[name]


def _read(file: Path) -> Script:
    try:
        text = file.read_text("utf-8")
        value = yaml.safe_load(text)
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"The script {file} cannot be read: {error}") from error
    try:
        return Script.model_validate({"turns": value} if isinstance(value, list) else value)
    except ValidationError as error:
        raise ConfigError(explain(error, Script, file, text)) from error


def _turns(number: int) -> str:
    return "1 turn" if number == 1 else f"{number} turns"


def _fail(turn: ScriptedTurn) -> None:
    match turn.error:
        case "unavailable" | "throttled":
            raise ModelUnavailable(
                "The script says: unavailable.", retry_after=turn.retry_after, throttled=turn.error == "throttled"
            )
        case "rejected":
            raise ModelRejected("The script says: rejected.")
        case "too_long":
            raise ContextLengthExceeded("The script says: too long.")
        case "auth":
            raise ModelAuthFailed("The script says: not authorised.")


def _numbered(value: Any, number: int) -> Any:
    match value:
        case str():
            return value.replace("{n}", str(number))
        case dict():
            return {key: _numbered(item, number) for key, item in value.items()}
        case list():
            return [_numbered(item, number) for item in value]
        case _:
            return value
