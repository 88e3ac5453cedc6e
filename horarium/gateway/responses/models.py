"""`/v1/models`: the agents, as models that can be asked."""

from __future__ import annotations

from typing import Literal

from fastapi import APIRouter
from pydantic import BaseModel, Field

from horarium.definitions import ENDPOINT_PREFIX
from horarium.errors import AgentNotFound
from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.responses.errors import errors
from horarium.ledger.agents import AgentVersion

router = APIRouter(prefix="/v1", tags=["responses"])


class Model(BaseModel):
    """An agent."""

    id: str = Field(description="Its name.")
    object: Literal["model"] = "model"
    created: int = Field(description="Unix time of its newest version.")
    owned_by: Literal["horarium"] = "horarium"


class ModelList(BaseModel):
    """All of them."""

    object: Literal["list"] = "list"
    data: list[Model]


@router.get("/models", operation_id="models_list", responses=errors())
async def models(client: TheClient, _caller: Viewer) -> ModelList:
    """The agents that can be asked."""
    return ModelList(data=[_model(found) for found in await client.agents() if _is_one(found)])


@router.get("/models/{model}", operation_id="models_get", responses=errors(404))
async def model(model: str, client: TheClient, _caller: Viewer) -> Model:
    """One of them."""
    found = await client.agent(model)
    if not _is_one(found):
        raise AgentNotFound(f"There is no agent {model!r}.")
    return _model(found)


def _is_one(found: AgentVersion) -> bool:
    """What stands for a toolbox that is served has no model to ask."""
    return not found.agent.name.startswith(ENDPOINT_PREFIX)


def _model(found: AgentVersion) -> Model:
    return Model(id=found.agent.name, created=int(found.created_at.timestamp()))
