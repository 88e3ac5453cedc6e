"""What is different between two ticks of a routine, or two runs, over HTTP."""

from __future__ import annotations

from typing import Annotated

from fastapi import APIRouter, Query

from horarium.gateway.context import TheClient, Viewer
from horarium.gateway.v1.answers import errors
from horarium.gateway.v1.fields import Named
from horarium.gateway.v1.runs import RunId
from horarium.ids import RUN_ID
from horarium.tickdiff import Difference

router = APIRouter(prefix="/v1", tags=["routines"])
TickNamed = Annotated[
    str | None,
    Query(min_length=1, max_length=300, description="Its id, or as much as is unique. Null: the last that began."),
]
OtherRun = Annotated[str, Query(pattern=RUN_ID.pattern, description="The run to compare it with.")]


@router.get(
    "/routines/{name}/ticks/diff", operation_id="ticks_diff", summary="Compare two ticks", responses=errors(404)
)
async def ticks_diff(
    client: TheClient, caller: Viewer, name: Named, before: TickNamed = None, after: TickNamed = None
) -> Difference:
    """What is different between two ticks; without any named, between the last two that began."""
    return await client.diff_ticks(name, before, after, tenant=caller.tenant)


@router.get("/runs/{run}/diff", operation_id="runs_diff", summary="Compare two runs", responses=errors(404))
async def runs_diff(client: TheClient, caller: Viewer, run: RunId, other: OtherRun) -> Difference:
    """What is different in `other`, a later run."""
    return await client.diff_runs(run, other, tenant=caller.tenant)
