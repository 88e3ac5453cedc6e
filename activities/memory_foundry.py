"""A memory store of a Foundry project, through the real SDK: told by start and poll, asked by search.

The SDK's own poller cannot be resumed by another process, so an update is started and looked at by two requests of
ours; in between the ledger keeps its id. The SDK's retries are off: Temporal's come after a look at the ledger.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from activities.models.foundry import _credential
from horarium.errors import ConfigError, HorariumError
from horarium.foundry_memory import KINDS
from horarium.memories import Known
from horarium.settings import FoundrySettings, Settings

try:
    from azure.ai.projects.aio import AIProjectClient
    from azure.ai.projects.models import MemorySearchOptions
    from azure.core.exceptions import AzureError, HttpResponseError
    from azure.core.rest import HttpRequest
except ImportError as error:
    raise ConfigError("The packages for Foundry are not installed.", hint="pip install 'horarium[foundry]'") from error

_VERSION = {"api-version": "v1"}
_PREVIEW = {"Foundry-Features": "MemoryStores=V1Preview"}
_REFUSED = (400, 413, 422)  # asking again will not help


class StoreAway(HorariumError):
    """The store does not answer, or not yet; worth another try."""

    code = "memory_store_away"


class StoreRefused(HorariumError):
    """The store will not take it, however often it is told."""

    code = "memory_store_refused"


class UpdateLost(HorariumError):
    """The store no longer knows of the update, or a newer one took its place."""

    code = "memory_update_lost"


@dataclass(frozen=True, slots=True)
class Update:
    """How far the store is with what it was told. `message` says what came of it."""

    done: bool
    message: str = ""


class FoundryMemory:
    """One project's memory stores; one object for each event loop. Close it."""

    def __init__(self, settings: Settings) -> None:
        own = settings.memory.foundry
        models = settings.models.foundry
        self._settings: FoundrySettings = models.model_copy(update={"endpoint": own.endpoint or models.endpoint})
        self._client: AIProjectClient | None = None
        self._identity: Any = None

    async def start(self, store: str, scope: str, items: list[dict[str, Any]]) -> str:
        """Tell a store what was said; the id under which it works on that.

        Raises:
            StoreAway, StoreRefused: It did not take it.
        """
        body = {"scope": scope, "items": items, "update_delay": 0}
        url = f"/memory_stores/{store}:update_memories"
        answer = await self._send(HttpRequest("POST", url, params=_VERSION, headers=_PREVIEW, json=body))
        return str(answer["update_id"])

    async def look(self, store: str, update_id: str) -> Update:
        """How far it is.

        Raises:
            UpdateLost: It has to be told again.
            StoreAway, StoreRefused: It does not say; it could not do it.
        """
        url = f"/memory_stores/{store}/updates/{update_id}"
        answer = await self._send(HttpRequest("GET", url, params=_VERSION, headers=_PREVIEW), update=True)
        match answer.get("status"):
            case "completed":
                operations = (answer.get("result") or {}).get("memory_operations") or []
                return Update(True, f"The store changed {len(operations)} memories.")
            case "superseded":
                raise UpdateLost(f"A newer update took the place of {update_id}.")
            case "failed":
                code = (answer.get("error") or {}).get("code")
                raise StoreRefused(f"The store could not do it: {code or 'it does not say why'}.")
            case _:
                return Update(False)

    async def search(self, store: str, scope: str, query: str, limit: int) -> list[Known]:
        """What the store finds to fit a text, best first.

        Raises:
            StoreAway, StoreRefused: It does not say.
        """
        try:
            found = await self._projects().beta.memory_stores.search_memories(
                store, scope=scope, items=query or "What is known?", options=MemorySearchOptions(max_memories=limit)
            )
        except AzureError as error:
            raise _translated(error) from error
        known = []
        for each in found.get("memories") or []:
            item = each["memory_item"]
            if item.get("scope", scope) == scope and item.get("kind") in KINDS:
                version = int(item.get("updated_at") or 0) % 2**31
                known.append(Known(str(item["memory_id"]), version, KINDS[item["kind"]], "", str(item["content"])))
        return known

    async def close(self) -> None:
        """Close the client and the identity; neither closes the other."""
        if self._client is not None:
            await self._client.close()
        if self._identity is not None:
            await self._identity.close()

    async def _send(self, request: HttpRequest, *, update: bool = False) -> dict[str, Any]:
        try:
            response = await self._projects().send_request(request)
            response.raise_for_status()
            answer: dict[str, Any] = response.json()
        except HttpResponseError as error:
            if update and error.status_code == 404:
                raise UpdateLost("The store no longer knows of the update.") from error
            raise _translated(error) from error
        except AzureError as error:
            raise _translated(error) from error
        return answer

    def _projects(self) -> AIProjectClient:
        if self._client is None:
            if not self._settings.endpoint:
                raise ConfigError(
                    "Neither memory.foundry.endpoint nor models.foundry.endpoint is set.",
                    hint="Set one to https://<account>.services.ai.azure.com/api/projects/<project>",
                )
            ca: dict[str, Any] = {"connection_verify": str(self._settings.ca_file)} if self._settings.ca_file else {}
            self._identity = _credential(self._settings)
            self._client = AIProjectClient(
                self._settings.endpoint,
                self._identity,
                retry_total=0,
                connection_timeout=10,
                read_timeout=30,
                **ca,
            )
        return self._client


def _translated(error: AzureError) -> StoreAway | StoreRefused:
    status = error.status_code if isinstance(error, HttpResponseError) else None
    if status in _REFUSED:
        return StoreRefused(f"The memory store refused it: {status}.")
    said = f"answered {status}" if status is not None else f"does not answer: {type(error).__name__}"
    return StoreAway(f"The memory store {said}.", hint="Check [memory.foundry], and the identity's roles.")
