"""The `foundry` provider: a Microsoft Foundry project, by the same code as `openai`.

One credential, one project client and one OpenAI client per process, made in its event loop at the first request:
each has its own token cache and connections. The family is that of the deployed model, which only the project knows.
"""

from __future__ import annotations

from typing import Any

from openai import AsyncOpenAI

from activities.models.base import ModelRequest, OnText, Turn
from activities.models.failures import retry_after
from activities.models.families import Api, Family, family_of, window_of
from activities.models.openai import OpenAIProvider, Patience, http_client
from horarium.definitions import ModelSettings
from horarium.errors import ConfigError, ModelAuthFailed, ModelError, ModelRejected, ModelUnavailable
from horarium.settings import FoundrySettings, OpenAISettings

try:
    import aiohttp  # noqa: F401  # azure's async transport, which its packages do not ask for
    from azure.ai.projects.aio import AIProjectClient
    from azure.core.exceptions import AzureError, ClientAuthenticationError, HttpResponseError
    from azure.identity.aio import (
        AzureCliCredential,
        DefaultAzureCredential,
        ManagedIdentityCredential,
        WorkloadIdentityCredential,
    )
except ImportError as error:
    raise ConfigError("The packages for Foundry are not installed.", hint="pip install 'horarium[foundry]'") from error


class FoundryProvider(OpenAIProvider):
    """One Foundry project."""

    def __init__(self, settings: FoundrySettings, patience: Patience | None = None) -> None:
        super().__init__(OpenAISettings(), patience)
        self._foundry = settings
        self._project: AIProjectClient | None = None
        self._credential: Any = None
        self._names: dict[str, str] = {}

    async def generate(self, request: ModelRequest, on_text: OnText | None = None) -> Turn:
        """Ask once; see `Provider`."""
        try:
            return await super().generate(request, on_text)
        except AzureError as error:
            raise _translated(error) from error

    async def window(self, model: str, settings: ModelSettings) -> int | None:
        """By the name of the model that is deployed, which only the project knows."""
        return window_of(settings.family or await self._named(model))

    async def check(self, model: str) -> str:
        """Look the deployment up in the project."""
        try:
            deployed = await self._deployed(model)
        except AzureError as error:
            raise _translated(error) from error
        return f"deployment {model} is {deployed}"

    async def close(self) -> None:
        """Close both clients and the credential: none closes another."""
        await super().close()
        if self._project is not None:
            await self._project.close()
        if self._credential is not None:
            await self._credential.close()

    @property
    def _api(self) -> Api:
        return "responses"

    async def _family(self, request: ModelRequest) -> Family:
        if request.settings.family:
            return family_of(request.settings.family)
        return family_of(await self._named(request.model))

    async def _named(self, deployment: str) -> str:
        """The name of the model that is deployed; asked for once."""
        if deployment not in self._names:
            self._names[deployment] = await self._deployed(deployment)
        return self._names[deployment]

    async def _deployed(self, deployment: str) -> str:
        found = await self._projects().deployments.get(deployment)
        return str(found.get("modelName") or deployment)

    def _openai(self) -> AsyncOpenAI:
        if self._client is None:
            self._client = self._projects().get_openai_client(
                max_retries=0, http_client=http_client(self._foundry.ca_file, self._patience)
            )
        return self._client

    def _projects(self) -> AIProjectClient:
        if self._project is None:
            if not self._foundry.endpoint:
                raise ConfigError(
                    "models.foundry.endpoint is not set.",
                    hint="Set it to https://<account>.services.ai.azure.com/api/projects/<project>",
                )
            ca: dict[str, Any] = {"connection_verify": str(self._foundry.ca_file)} if self._foundry.ca_file else {}
            self._credential = _credential(self._foundry)
            self._project = AIProjectClient(self._foundry.endpoint, self._credential, retry_total=0, **ca)
        return self._project


def _credential(settings: FoundrySettings) -> Any:
    try:
        match settings.credential:
            case "managed":
                return ManagedIdentityCredential(client_id=settings.client_id)
            case "workload":
                own = {"client_id": settings.client_id} if settings.client_id else {}
                return WorkloadIdentityCredential(**own)
            case "cli":
                return AzureCliCredential()
            case "default":
                return DefaultAzureCredential(require_envvar=True, managed_identity_client_id=settings.client_id)
    except ValueError as error:
        raise ConfigError(
            f"The credential {settings.credential!r} cannot be used here: {error}",
            hint="Choose models.foundry.credential = managed, workload or cli, or set AZURE_TOKEN_CREDENTIALS.",
        ) from error


def _translated(error: AzureError) -> ModelError:
    match error:
        case ClientAuthenticationError():
            return ModelAuthFailed(
                "No token for Foundry could be had with this credential.",
                hint="Check models.foundry.credential, and that the identity may use the project.",
            )
        case HttpResponseError(status_code=403):
            return ModelAuthFailed("Foundry did not accept the credential: 403.", hint="Check the identity's roles.")
        case HttpResponseError(status_code=int() as status) if status not in (408, 409, 429) and status < 500:
            return ModelRejected(f"Foundry refused the request: {status}.", hint="Does the deployment exist?")
        case HttpResponseError() if error.response is not None:
            return ModelUnavailable(
                f"Foundry answered {error.status_code}.",
                retry_after=retry_after(getattr(error.response, "headers", {})),
                throttled=error.status_code == 429,
            )
        case _:
            return ModelUnavailable(f"Foundry does not answer: {type(error).__name__}.")
