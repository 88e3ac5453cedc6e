"""The `openai` provider: OpenAI itself, or any server that speaks its protocol.

`foundry` shares everything here but the making of the client. Always streams: so that text is seen while it comes,
and silence is told from slowness. The SDK's own retries are off: the engine retries, and knows what was tried.
"""

from __future__ import annotations

import asyncio
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import httpx2
from openai import AsyncOpenAI, BadRequestError, DefaultAsyncHttpxClient, OpenAIError
from openai import AsyncStream as Stream

from activities.models import chat, responses
from activities.models.base import ModelRequest, OnText, Turn
from activities.models.failures import translated
from activities.models.families import Api, Family, family_of, window_of, without
from horarium.definitions import ModelSettings
from horarium.durations import words
from horarium.errors import ModelUnavailable
from horarium.settings import OpenAISettings, reveal

_Event = TypeVar("_Event")
_REFUSED = ("unsupported_parameter", "unsupported_value")
_FORMATS = ("text.format", "response_format")  # of structured output


@dataclass(frozen=True, slots=True)
class Patience:
    """How long silence is borne, by phase. The whole turn's time is the agent's `timeout`."""

    connect: timedelta = timedelta(seconds=10)
    first_event: timedelta = timedelta(minutes=2)
    idle: timedelta = timedelta(minutes=2)


def http_client(ca_file: Path | None, patience: Patience) -> httpx2.AsyncClient:
    """An HTTP client of our own: proxies from the environment, a whole pool, this CA only when one is given."""
    silence = max(patience.first_event, patience.idle).total_seconds()
    return DefaultAsyncHttpxClient(
        verify=ssl.create_default_context(cafile=str(ca_file)) if ca_file else True,
        timeout=httpx2.Timeout(silence, connect=patience.connect.total_seconds()),
    )


class OpenAIProvider:
    """One server that speaks OpenAI's protocol."""

    def __init__(self, settings: OpenAISettings, patience: Patience | None = None) -> None:
        self._settings = settings
        self._patience = patience or Patience()
        self._client: AsyncOpenAI | None = None
        self._refused: dict[str, set[str]] = {}

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        """Ask once; see `Provider`. Asks again only without a parameter that the model refused by name."""
        limit = request.settings.timeout
        try:
            async with asyncio.timeout(limit.total_seconds()):
                family = await self._family(request)
                client = self._openai()
                body = (responses if self._api == "responses" else chat).body_of(request, family)
                for parameter in self._refused.get(request.model, ()):
                    body = without(body, parameter) or body
                return await self._ask(client, request, body, on_text)
        except TimeoutError as error:
            raise ModelUnavailable(f"The model gave no whole turn within {words(limit)}.") from error
        except BadRequestError as error:
            if error.code == "content_filter":
                return Turn(finish="filtered", model=request.model)
            raise translated(error) from error
        except OpenAIError as error:
            raise translated(error) from error

    async def window(self, model: str, settings: ModelSettings) -> int | None:
        """By the model's own name."""
        return window_of(settings.family or model)

    async def check(self, model: str) -> str:
        """Ask the server for its models."""
        try:
            await self._openai().models.retrieve(model)
        except OpenAIError as error:
            raise translated(error) from error
        return f"{self._openai().base_url} knows {model}"

    async def close(self) -> None:
        """Close the connections."""
        if self._client is not None:
            await self._client.close()

    # ---- what `foundry` does in its own way

    @property
    def _api(self) -> Api:
        return self._settings.api

    async def _family(self, request: ModelRequest) -> Family:
        return family_of(request.settings.family or request.model)

    def _openai(self) -> AsyncOpenAI:
        if self._client is None:
            self._client = AsyncOpenAI(
                api_key=reveal(self._settings.api_key),
                base_url=self._settings.base_url,
                max_retries=0,
                http_client=http_client(self._settings.ca_file, self._patience),
            )
        return self._client

    # ---- asking

    async def _ask(
        self, client: AsyncOpenAI, request: ModelRequest, body: dict[str, Any], on_text: OnText | None
    ) -> Turn:
        try:
            return await self._stream(client, request, body, on_text)
        except BadRequestError as error:
            parameter = error.param
            formats = parameter is not None and parameter.startswith(_FORMATS)
            less = without(body, parameter) if parameter and (formats or error.code in _REFUSED) else None
            if less is None or parameter is None:
                raise
            turn = await self._stream(client, request, less, on_text)
            if error.code in _REFUSED:  # else it was this one schema
                self._refused.setdefault(request.model, set()).add(parameter)
            return turn

    async def _stream(
        self, client: AsyncOpenAI, request: ModelRequest, body: dict[str, Any], on_text: OnText | None
    ) -> Turn:
        headers = {"Idempotency-Key": request.key}
        endpoint: Any = client.responses if self._api == "responses" else client.chat.completions
        async with self._silence(self._patience.first_event):
            stream: Stream[Any] = await endpoint.create(**body, stream=True, extra_headers=headers)
        try:
            events = self._patiently(stream)
            if self._api == "responses":
                return await responses.read(events, on_text)
            return await chat.read(events, on_text)
        finally:
            await stream.close()

    async def _patiently(self, stream: Stream[_Event]) -> AsyncIterator[_Event]:
        patience = self._patience.first_event
        iterator = aiter(stream)
        while True:
            try:
                async with self._silence(patience):
                    event = await anext(iterator)
            except StopAsyncIteration:
                return
            except httpx2.HTTPError as error:
                raise ModelUnavailable("The model's answer broke off before its end.") from error
            yield event
            patience = self._patience.idle

    def _silence(self, limit: timedelta) -> _Silence:
        return _Silence(limit)


class _Silence:
    """A limit on silence, told apart from the limit of the whole turn."""

    def __init__(self, limit: timedelta) -> None:
        self._limit = limit
        self._timeout = asyncio.timeout(limit.total_seconds())

    async def __aenter__(self) -> None:
        await self._timeout.__aenter__()

    async def __aexit__(self, *exc: Any) -> None:
        try:
            await self._timeout.__aexit__(*exc)
        except TimeoutError as error:
            raise ModelUnavailable(f"The model was silent for {words(self._limit)}.") from error
