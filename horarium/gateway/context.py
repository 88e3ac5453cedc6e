"""What every route of the gateway needs: the client, who calls, and whether that is enough."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from fastapi import Depends, Request

from horarium.client import Client
from horarium.gateway.auth import ANYBODY, CALLER, Caller
from horarium.gateway.roles import NotAllowed, Role
from horarium.settings import GatewaySettings, Settings


def _client(request: Request) -> Client:
    client: Client = request.app.state.client
    return client


def _settings(request: Request) -> Settings:
    settings: Settings = request.app.state.settings
    return settings


def _caller(request: Request) -> Caller:
    caller: Caller = request.scope.get(CALLER, ANYBODY)
    return caller


@dataclass(frozen=True, slots=True)
class Needs:
    """A dependency: the caller, who has at least this role. The OpenAPI document reads it from the route.

    Raises:
        NotAllowed: He has not.
    """

    role: Role

    def __call__(self, request: Request) -> Caller:
        """Check one request."""
        caller = _caller(request)
        if caller.role < self.role:
            name = self.role.name.lower()
            raise NotAllowed(f"This needs the role {name}.", hint=f"Use an API key with the scope role:{name}.")
        return caller


TheClient = Annotated[Client, Depends(_client)]
TheSettings = Annotated[Settings, Depends(_settings)]
Viewer = Annotated[Caller, Depends(Needs(Role.VIEWER))]
Operator = Annotated[Caller, Depends(Needs(Role.OPERATOR))]
Approver = Annotated[Caller, Depends(Needs(Role.APPROVER))]
Admin = Annotated[Caller, Depends(Needs(Role.ADMIN))]
__all__ = ["Admin", "Approver", "GatewaySettings", "Needs", "Operator", "TheClient", "TheSettings", "Viewer"]
