"""From files to versions: the toolboxes of a project, with the documents that they name, put into the ledger.

A document that stands elsewhere is fetched when a version is made of it and at no other time, so what somebody else
writes into it changes no tool of a version.
"""

from __future__ import annotations

import asyncio
import time

import httpx2
import structlog

from horarium.egress import guarded_client
from horarium.errors import ConfigError, ToolError, ToolNotReached
from horarium.ledger.database import Ledger
from horarium.ledger.toolboxes import Toolboxes
from horarium.openapi import ReadDocument, read_document
from horarium.openapi_documents import MAX_DOCUMENT_BYTES, parse_document
from horarium.settings import Settings
from horarium.toolboxes import OpenApi
from horarium.toolboxfiles import ToolboxFile, ToolboxFiles

log = structlog.get_logger()

FETCH_SECONDS = 20.0
RETRY_SECONDS = 60.0  # a document that cannot be had holds up no run more often


async def fetch_document(label: str, api: OpenApi) -> ReadDocument:
    """A document that stands elsewhere.

    Raises:
        ConfigError: It is not there, or cannot be used.
        ToolNotReached: Its server does not answer.
    """
    data = bytearray()
    try:
        async with (
            asyncio.timeout(FETCH_SECONDS),
            guarded_client(api.document, private_network=api.private_network, timeout=FETCH_SECONDS) as client,
            client.stream("GET", api.document, headers={"accept-encoding": "identity"}) as response,
        ):
            if response.status_code != 200:
                raise ConfigError(f"{api.document} was answered with HTTP {response.status_code}.")
            async for part in response.aiter_bytes():
                data += part
                if len(data) > MAX_DOCUMENT_BYTES:
                    break
    except ToolError as error:
        raise ConfigError(error.message, hint=error.hint) from error
    except (httpx2.HTTPError, TimeoutError) as error:
        raise ToolNotReached(f"{api.document} could not be fetched: {str(error) or 'no answer in time'}.") from error
    # Megabytes of YAML take a while.
    return await asyncio.to_thread(lambda: read_document(label, api, parse_document(bytes(data), api.document)))


async def whole(file: ToolboxFile) -> dict[str, ReadDocument]:
    """Every document of a toolbox, by label.

    Raises:
        ConfigError: One that stands elsewhere cannot be used.
        ToolNotReached: Its server does not answer.
    """
    found = await asyncio.gather(*(fetch_document(label, api) for label, api in file.remote.items()))
    return {**file.documents, **dict(zip(file.remote, found, strict=True))}


class Publisher:
    """Makes versions of what the files say; one object for each process."""

    def __init__(self, ledger: Ledger, settings: Settings) -> None:
        self._toolboxes = Toolboxes(ledger)
        self._files = ToolboxFiles(settings)
        self._published: dict[str, ToolboxFile] = {}
        self._failed: dict[str, tuple[ToolboxFile, float]] = {}

    def changed(self) -> dict[str, ToolboxFile]:
        """The toolboxes whose files are new or changed since they were published here, and worth another attempt."""
        current = self._files.current().items()
        return {name: file for name, file in current if self._published.get(name) is not file and self._is_due(file)}

    def _is_due(self, file: ToolboxFile) -> bool:
        failed, at = self._failed.get(file.toolbox.name, (None, 0.0))
        return failed is not file or time.monotonic() - at > RETRY_SECONDS

    async def publish(self, file: ToolboxFile) -> int:
        """Make a version of it, unless there is one that is the same. Returns its number.

        Raises:
            ConfigError: A document that stands elsewhere cannot be used.
            ToolNotReached: Its server does not answer.
        """
        name = file.toolbox.name
        documents = await whole(file)
        version = await self._toolboxes.register(
            file.toolbox, {label: read.operations for label, read in documents.items()}
        )
        self._published[name] = file
        return version

    async def refresh(self, names: set[str] | None = None) -> None:
        """Publish what changed among these toolboxes, or all; where that fails, the versions that there are stay."""
        wanted = [file for name, file in self.changed().items() if names is None or name in names]
        await asyncio.gather(*map(self._try, wanted))

    async def _try(self, file: ToolboxFile) -> None:
        name = file.toolbox.name
        try:
            version = await self.publish(file)
        except (ConfigError, ToolNotReached) as error:
            self._failed[name] = (file, time.monotonic())
            log.warning("toolbox.not_published", toolbox=name, problem=str(error))
            return
        default = await self._toolboxes.default_version(name)
        if default != version:
            promote = f"horarium toolbox promote {name} {version}"
            log.info("toolbox.waits_for_promotion", toolbox=name, version=version, default=default, promote=promote)
