"""Asking a model for one JSON object, strictly: what does not fit is sent back with the reason, a few times."""

from __future__ import annotations

import asyncio
import json
from dataclasses import dataclass, field
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from activities.models.base import ModelRequest, Turn, TurnMessage
from activities.models.router import Models
from horarium.content import clean_json, clean_text, shorten
from horarium.contract import Usage
from horarium.definitions import ModelSettings
from horarium.errors import ConfigError, HorariumError, ModelError, ModelUnavailable
from horarium.ids import idempotency_key

MOST_TRIES = 3
MOST_WAIT = 10.0  # seconds, for a model that is unavailable
PROBLEM_CHARS = 500
Wanted = TypeVar("Wanted", bound=BaseModel)


class NoAnswer(HorariumError):
    """The model gave nothing that can be used, in as many tries as it has."""

    code = "no_answer"


@dataclass
class Asker:
    """Asks for one run's memory step, and counts what that uses."""

    models: Models
    run: str
    usage: Usage = field(default_factory=Usage)
    asked: int = 0

    async def ask(
        self, model: str, settings: ModelSettings, instructions: str, text: str, wanted: type[Wanted]
    ) -> Wanted:
        """One object of this kind.

        Raises:
            NoAnswer: Not in `MOST_TRIES` tries; says why.
        """
        messages = [TurnMessage("user", text)]
        problem = ""
        for attempt in range(MOST_TRIES):
            try:
                turn = await self._turn(model, settings, instructions, messages)
            except ModelUnavailable as error:
                problem = str(error)
                if attempt + 1 < MOST_TRIES:
                    delay = error.retry_after.total_seconds() if error.retry_after else 0.5 * 2**attempt
                    await asyncio.sleep(min(delay, MOST_WAIT))
                continue
            except (ModelError, ConfigError) as error:
                raise NoAnswer(_words(str(error))) from error
            try:
                return wanted.model_validate(_parsed(turn), strict=True)
            except ValidationError as error:
                first = error.errors(include_url=False, include_input=False)[0]
                problem = f"{'.'.join(map(str, first['loc'])) or 'It'}: {first['msg']}"
            except ValueError as error:
                problem = f"It is not one JSON object: {error}"
            said = TurnMessage("assistant", turn.text)
            again = TurnMessage("user", f"That cannot be used. {_words(problem)} Answer with the JSON object alone.")
            messages = [*messages, said, again]
        raise NoAnswer(f"{model} gave nothing usable in {MOST_TRIES} tries. {_words(problem)}")

    async def _turn(self, model: str, settings: ModelSettings, instructions: str, messages: list[TurnMessage]) -> Turn:
        await self.models.ready(model)
        provider, name = self.models.provider_for(model)
        self.asked += 1
        request = ModelRequest(
            model=name,
            instructions=instructions,
            messages=messages,
            tools=(),
            settings=settings,
            key=idempotency_key(self.run, f"memory-{self.asked}"),
            tool_choice="none",
            metadata={"horarium_run": self.run},
        )
        try:
            async with asyncio.timeout(settings.timeout.total_seconds()):
                turn = await provider.generate(request)
        except TimeoutError as error:
            raise ModelUnavailable(f"{model} gave no whole turn within {settings.timeout}.") from error
        except HorariumError:
            raise
        except Exception as error:
            raise ModelUnavailable(f"{type(error).__name__}: {error}") from error
        cost = self.models.price(model, turn.model, turn.input_tokens, turn.output_tokens) or 0
        used = Usage(input_tokens=turn.input_tokens, output_tokens=turn.output_tokens, cost_micro_usd=cost)
        self.usage = self.usage + used
        return turn


def _parsed(turn: Turn) -> Any:
    if turn.finish != "stop":
        raise ValueError("the answer was cut" if turn.finish == "length" else "the answer was withheld")
    text = turn.text.strip()
    if text.startswith("```"):
        text = text.removeprefix("```json").removeprefix("```").removesuffix("```").strip()
    try:
        value = json.loads(text, parse_constant=_refuse)
    except RecursionError as error:
        raise ValueError("it is nested too deep") from error
    if not isinstance(value, dict):
        raise ValueError("it has to begin with {")
    return clean_json(value)


def _refuse(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _words(text: str) -> str:
    return shorten(clean_text(text)[0], PROBLEM_CHARS)
