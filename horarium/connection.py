"""How every process of ours reaches Temporal: address, credentials and converter in one place."""

from __future__ import annotations

import asyncio

from temporalio.client import Client as TemporalClient
from temporalio.envconfig import ClientConfig
from temporalio.service import RPCError, TLSConfig

from horarium.conversion import data_converter
from horarium.errors import Unreachable
from horarium.settings import Settings, TemporalSettings, reveal
from horarium.stack import resolve_address

CONNECT_SECONDS = 10.0


async def connect(settings: Settings, *, address: str | None = None) -> TemporalClient:
    """Connect to the server that the settings name, or to this project's embedded one.

    Raises:
        Unreachable: No server answers there, or it refuses the credential.
        ConfigError: A secret that is referred to is not set.
    """
    temporal = settings.temporal
    if temporal.profile is not None and address is None:
        config = ClientConfig.load_client_connect_config(profile=temporal.profile)
        target = str(config.get("target_host"))
        connecting = TemporalClient.connect(**config, data_converter=data_converter)
    else:
        target = address or resolve_address(settings)
        connecting = TemporalClient.connect(
            target,
            namespace=temporal.namespace,
            tls=_tls(temporal),
            api_key=reveal(temporal.api_key) if temporal.api_key else None,
            data_converter=data_converter,
        )
    try:
        return await asyncio.wait_for(connecting, CONNECT_SECONDS)
    except (RPCError, RuntimeError, TimeoutError, OSError) as error:
        raise Unreachable(
            f"Temporal does not answer at {target}.", hint="Start the embedded one with: horarium up"
        ) from error


def _tls(temporal: TemporalSettings) -> TLSConfig | bool:
    if temporal.ca_file is None and temporal.client_cert is None:
        return temporal.tls or temporal.api_key is not None
    return TLSConfig(
        server_root_ca_cert=temporal.ca_file.read_bytes() if temporal.ca_file else None,
        client_cert=temporal.client_cert.read_bytes() if temporal.client_cert else None,
        client_private_key=temporal.client_key.read_bytes() if temporal.client_key else None,
    )
