"""What stands between a call and its effect: the plan's rule, and what releases the call without asking.

Decided where the model's turn is read, from the agent's plan and the exact arguments; never from what a model or a
tool's output says.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from horarium.content import canonical, shorten
from horarium.definitions import Agent
from horarium.ledger.database import Ledger
from horarium.ledger.grants import Grants
from horarium.plans import gate_of, rule_for
from horarium.protocol import PREVIEW_CHARS, Call
from horarium.tools import ToolSpec


class Gatekeeper:
    """Puts the gate into calls; one object for each process."""

    def __init__(self, ledger: Ledger) -> None:
        self._grants = Grants(ledger)

    async def gated(
        self, call: Call, agent: Agent, spec: ToolSpec, arguments: dict[str, Any], *, run: str, thread: str, tenant: str
    ) -> Call:
        """The call with what its plan asks for; as it is when nobody is asked."""
        name, rule = rule_for(agent, call.tool, spec.effect, arguments)
        gate = gate_of(agent, call.tool, spec.effect, arguments)
        if rule is not None and rule.required == 0:
            if call.effect.value == "read":
                return call
            return self._with(call, arguments, released_by=f"plan:{name}")
        if gate is None:
            return call
        released = None
        if gate.remember is not None:
            grant = await self._grants.standing(
                tenant=tenant,
                agent=agent.name,
                run=run,
                thread=thread,
                tool=call.tool,
                schema_digest=spec.schema_digest,
                arguments=arguments,
                at=datetime.now(UTC),
            )
            released = grant.id if grant is not None else None
        return self._with(call, arguments, gate=gate, released_by=released)

    def _with(self, call: Call, arguments: dict[str, Any], **changes: Any) -> Call:
        preview = shorten(canonical(arguments), PREVIEW_CHARS)
        return call.model_copy(update={"gated": True, "preview": preview, **changes})
