"""Which provider answers for `foundry:gpt-5.3`, and what its tokens cost."""

from __future__ import annotations

import asyncio
import sys
from decimal import ROUND_HALF_UP, Decimal
from importlib import import_module

from activities.models.base import Provider
from activities.models.local import LocalProvider
from activities.models.scripted import ScriptedProvider
from horarium.definitions import NO_MODEL
from horarium.errors import ConfigError
from horarium.settings import Settings

_WITH_SDK = {"openai": "activities.models.openai", "foundry": "activities.models.foundry"}


class Models:
    """All providers of this process, each made when it is first asked for."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._providers: dict[str, Provider] = {}

    def provider_for(self, model: str) -> tuple[Provider, str]:
        """The provider, and the model's name as that provider knows it.

        Raises:
            ConfigError: There is no such provider, or its packages are not installed.
        """
        kind, _, name = model.partition(":")
        if model == NO_MODEL:
            raise ConfigError(
                "This agent has no model: it stands for a toolbox that is served, and is only called.",
                hint="Make a call, or start an agent that has the toolbox among its `toolboxes`.",
            )
        if kind not in self._providers:
            self._providers[kind] = self._made(kind)
        return self._providers[kind], name

    async def ready(self, model: str) -> None:
        """Import the SDK that answers for a model, where nothing did yet.

        It takes longer than what else goes on in this process can wait for: heartbeats, above all.

        Raises:
            ConfigError: Its packages are not installed.
        """
        kind = model.partition(":")[0]
        if kind not in self._providers and (module := _WITH_SDK.get(kind)) and module not in sys.modules:
            await asyncio.to_thread(import_module, module)

    def register(self, kind: str, provider: Provider) -> None:
        """Have this provider answer for models of this kind."""
        self._providers[kind] = provider

    def price(self, model: str, answered: str, input_tokens: int, output_tokens: int) -> int | None:
        """What these tokens cost, in millionths of a dollar; None when neither name has a price.

        Args:
            model: As the agent names it, `foundry:gpt-5.3`; with or without the provider in `[models.prices]`.
            answered: The name that the provider gave.
            input_tokens: Of the request.
            output_tokens: Of the turn.
        """
        prices = self._settings.models.prices
        for name in (model, model.partition(":")[2], answered):
            if name and name in prices:
                cost = prices[name].input * input_tokens + prices[name].output * output_tokens
                return int(cost.quantize(Decimal(1), ROUND_HALF_UP))  # dollars per million are micro-dollars per token
        return None

    async def close(self) -> None:
        """Close all providers; one that cannot be closed keeps no other from it."""
        providers, self._providers = list(self._providers.values()), {}
        results = await asyncio.gather(*(provider.close() for provider in providers), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result

    def _made(self, kind: str) -> Provider:
        models = self._settings.models
        match kind:
            case "openai":
                from activities.models.openai import OpenAIProvider  # its SDK takes half a second to import

                return OpenAIProvider(models.openai)
            case "foundry":
                from activities.models.foundry import FoundryProvider  # its packages are an extra

                return FoundryProvider(models.foundry)
            case "local":
                return LocalProvider(models.local)
            case "scripted":
                return ScriptedProvider(self._settings.root)
        raise ConfigError(f"There is no provider {kind!r}.", hint="Use foundry, openai, local or scripted.")
