"""The step `model_call`: ask the model for its next turn, check it, keep it.

The conversation is read from the ledger and the turn is written to it; the workflow is told only
which calls to make. What the model got wrong it is told here, in words that let it do better.
"""

from __future__ import annotations

import asyncio
import json
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.catalog import Catalog
from activities.conversation import Conversations, View
from activities.engine_tools import FIND_TOOLS
from activities.finding_tools import ToolFinding
from activities.fitting import fitted, offered_at_once, summarised, window_for
from activities.gating import Gatekeeper
from activities.models.attempts import FIRST_RETRY, unavailable
from activities.models.base import ModelRequest, OnText, Provider, Turn
from activities.models.router import Models
from activities.recalling import with_notes
from activities.window import Window, overhead_of
from horarium.content import call_digest, canonical, clean_json, clean_text, shorten
from horarium.contract import MAX_OUTPUT_CHARS, Usage
from horarium.definitions import Agent
from horarium.errors import (
    ConfigError,
    ContextLengthExceeded,
    ModelError,
    ModelUnavailable,
    StepCrashes,
    ToolUnavailable,
)
from horarium.ids import idempotency_key, step_id
from horarium.ledger.agents import ServedTool
from horarium.ledger.answer_schemas import AnswerSchemas
from horarium.ledger.database import Ledger
from horarium.ledger.journal import Answered, Held, Journal, StepClaim, StepRecord, settled
from horarium.ledger.runs import Runs
from horarium.protocol import CALL_MODEL, NOTE_CHARS, Call, ModelReply, ModelStep
from horarium.schemas import schema_problem
from horarium.structured import judged, told
from horarium.toolhost import heartbeating
from horarium.tools import Effect, ToolSpec
from horarium.turns import StoredCall, StoredTurn, stored_turn

log = structlog.get_logger()

KEPT_RUNS = 1_000
SHOW_EVERY = 0.3  # seconds between two looks that a watcher gets at a turn that streams


class ModelCaller:
    """The activity `call_model` and what it needs."""

    def __init__(self, ledger: Ledger, models: Models, catalog: Catalog, finding: ToolFinding) -> None:
        self._journal = Journal(ledger)
        self._conversations = Conversations(ledger)
        self._gatekeeper = Gatekeeper(ledger)
        self._schemas = AnswerSchemas(ledger)
        self._runs = Runs(ledger)
        self._checked: OrderedDict[tuple[str, str, int, str], None] = OrderedDict()
        self._models = models
        self._catalog = catalog
        self._finding = finding

    @activity.defn(name=CALL_MODEL)
    async def call_model(self, step: ModelStep) -> ModelReply:
        """Ask the model for its next move, once.

        Safe to repeat: a settled turn is read from the ledger, not paid for again. Heartbeats while it waits.

        Raises:
            ApplicationError: The model is unavailable for now; carries the time to wait. Throttling is not
                counted as a failure.
        """
        async with heartbeating():
            with structlog.contextvars.bound_contextvars(run=step.run, step=step.number):
                return await self._call(step)

    async def _call(self, step: ModelStep) -> ModelReply:
        await self._is_of_its_run(step)
        agent = (await self._catalog.agent(step.agent, step.version)).agent
        claim = StepClaim(
            run_id=step.run,
            number=step.number,
            kind="model_call",
            name=agent.model,
            effect=Effect.IDEMPOTENT,
            key=idempotency_key(step.run, f"turn-{step.number}"),
            permit=step.permit,
        )
        append = [Answered("tool", step=answered) for answered in step.answered]
        append += [Answered("user", ref=ref) for ref in step.messages]
        if step.note:
            append.append(Answered("user", text=f"[From the system, not from the user: {step.note}]"))
        try:
            held = await self._journal.claim(claim, thread=step.thread, append=append)
        except StepCrashes as error:
            record = await self._journal.settle_unclaimed(claim, "failed", "", code=error.code, message=str(error))
            return _failed(record)
        offered = await self._offered(step, agent)
        if isinstance(held, StepRecord):
            return _failed(held) if held.status == "failed" else await self._reply(step, agent, held, offered)
        return await self._ask(step, agent, held, offered)

    async def _is_of_its_run(self, step: ModelStep) -> None:
        """Let a model be told nothing but what its run may know: the payload is the word of whoever asks.

        Raises:
            Conflict: The run was opened otherwise.
            RunNotFound: What was answered is another tenant's.
        """
        said = (step.run, step.agent, step.version, step.thread)
        if said not in self._checked:
            await self._runs.opened_as(step.run, step.agent, step.version, thread=step.thread)
            self._checked[said] = None
            if len(self._checked) > KEPT_RUNS:
                self._checked.popitem(last=False)
        for answered in step.answered:
            if not answered.startswith(f"{step.run}/"):
                await self._journal.near(step.run, answered)

    async def _offered(self, step: ModelStep, agent: Agent) -> dict[str, ServedTool]:
        if step.closing:
            return {}
        try:
            tools = await self._catalog.of_run(step.run, agent)
            return {step.offer: tools[step.offer]} if step.offer else tools
        except ToolUnavailable as error:
            raise ApplicationError(str(error), type=error.code, next_retry_delay=FIRST_RETRY * 5) from error

    async def _ask(self, step: ModelStep, agent: Agent, held: Held, offered: dict[str, ServedTool]) -> ModelReply:
        try:
            await self._models.ready(agent.model)
            provider, model = self._models.provider_for(agent.model)
            view = await self._conversations.view(step.thread)
            shown = await self._finding.shown(agent, offered, view.messages)
            tools = tuple(served.spec for served in shown.values())
            schema = await self._schemas.of_run(step.run) if step.structured else None
            instructions = await self._instructions(step, agent)
            instructions = instructions if schema is None else told(instructions, schema)
            must_call = bool(step.offer) or step.required
            view = await self._fitted(step, agent, view, instructions, tools)
            request = ModelRequest(
                model=model,
                instructions=instructions,
                messages=view.messages,
                tools=tools,
                settings=agent.settings,
                key=held.claim.key or "",
                tool_choice="required" if must_call else ("auto" if offered else "none"),
                metadata={"horarium_run": step.run},
                turns_before=view.turns_before,
                answer_schema=None if must_call else schema,
            )
            turn = await self._generate(provider, request, held, agent)
        except ModelUnavailable as error:
            return await self._unavailable(agent, held, error)
        except (ModelError, ConfigError) as error:
            words = shorten(clean_text(str(error))[0], NOTE_CHARS)
            log.warning("model.failed", code=error.code, error=words)
            record = await self._journal.settle(held, "failed", "", code=error.code, message=words)
            return _failed(record)
        except asyncio.CancelledError:
            await asyncio.shield(self._journal.hand_back(held))
            raise
        except Exception as error:
            log.exception("model.broke")
            return await self._unavailable(agent, held, ModelUnavailable(f"{type(error).__name__}: {error}"))
        return await self._keep(step, agent, held, turn, offered, schema)

    async def _generate(self, provider: Provider, request: ModelRequest, held: Held, agent: Agent) -> Turn:
        try:
            async with asyncio.timeout(agent.settings.timeout.total_seconds()):
                return await provider.generate(request, self._show(held))
        except TimeoutError as error:
            raise ModelUnavailable(f"{agent.model} gave no whole turn within {agent.settings.timeout}.") from error

    def _show(self, held: Held) -> OnText:
        loop = asyncio.get_running_loop()
        shown = loop.time()

        async def show(text: str) -> None:
            nonlocal shown
            if loop.time() - shown >= SHOW_EVERY:
                shown = loop.time()
                await self._journal.progress(held, clean_text(text)[0])

        return show

    async def _unavailable(self, agent: Agent, held: Held, error: ModelUnavailable) -> ModelReply:
        return _failed(await unavailable(self._journal, held, agent.settings, error))

    async def _window(self, agent: Agent, instructions: str, tools: Sequence[ToolSpec]) -> Window | None:
        provider, model = self._models.provider_for(agent.model)
        return await window_for(provider, model, agent.settings, instructions, tools)

    async def _fitted(
        self, step: ModelStep, agent: Agent, view: View, instructions: str, tools: Sequence[ToolSpec]
    ) -> View:
        """The conversation as this model is given it.

        Raises:
            ContextLengthExceeded: It would not fit, and its older part can be summarised first.
        """
        window = await self._window(agent, instructions, tools)
        view = fitted(view, window, tight=step.compacted)
        too_long = window is not None and view.size(window.overhead) > window.full
        if window is not None and too_long and not step.compacted and summarised(view, window):
            raise ContextLengthExceeded("The conversation is too long for the model: its older part is summarised.")
        return view

    async def _nears_its_end(
        self, step: ModelStep, agent: Agent, record: StepRecord, tools: Mapping[str, ServedTool]
    ) -> bool:
        """Whether the older part of the conversation is to be summarised before the next turn."""
        if not record.input_tokens:
            return False
        window = await self._window(agent, agent.instructions, ())
        if window is None or record.input_tokens + record.output_tokens < window.near:
            return False
        window = replace(window, overhead=overhead_of(agent.instructions, offered_at_once(agent, tools.values())))
        return summarised(fitted(await self._conversations.view(step.thread), window), window) > 0

    async def _instructions(self, step: ModelStep, agent: Agent) -> str:
        if agent.memory is None or step.recalled is None:
            return agent.instructions
        recalled = await self._journal.get(step.run, step.recalled)
        return with_notes(agent.instructions, recalled.output or "{}")

    async def _keep(
        self,
        step: ModelStep,
        agent: Agent,
        held: Held,
        turn: Turn,
        offered: Mapping[str, ServedTool],
        schema: Mapping[str, Any] | None,
    ) -> ModelReply:
        calls = checked_calls(turn, offered, step)
        stored = StoredTurn(text=clean_text(turn.text)[0], calls=calls, items=turn.items)
        wrong = _malformed(step, stored, turn.finish)
        if schema is not None and wrong is None and not calls and turn.finish == "stop":
            answer = judged(schema, stored.text)
            stored, wrong = stored.model_copy(update={"text": answer.text}), answer.problem
        usage = Usage(
            input_tokens=turn.input_tokens,
            output_tokens=turn.output_tokens,
            cost_micro_usd=self._models.price(agent.model, turn.model, turn.input_tokens, turn.output_tokens) or 0,
        )
        append = [Answered("assistant", step=step_id(step.run, step.number))]
        append += [Answered("tool", text=call.problem, call_id=call.id) for call in calls if call.problem]
        empty = not stored.text and not calls
        record = await self._journal.settle(
            held,
            "completed",
            stored.model_dump_json(exclude_defaults=True),
            code=turn.finish if turn.finish != "stop" else None,
            message=shorten(wrong, NOTE_CHARS) if wrong is not None else None,
            usage=usage,
            model=turn.model,
            thread=step.thread,
            append=[] if empty else append,
            keep=True,
        )
        return await self._reply(step, agent, settled(record), offered)

    async def _reply(
        self, step: ModelStep, agent: Agent, record: StepRecord, offered: Mapping[str, ServedTool]
    ) -> ModelReply:
        """What the workflow is told of a settled turn: read from the record alone, so that a repeat says the same."""
        turn = stored_turn(record.output or "{}")
        served = offered or await self._catalog.of_run(step.run, agent)
        calls = tuple(
            [await self._call_of(step, agent, call, served[call.name]) for call in turn.calls if call.problem is None]
        )
        usage = Usage(
            input_tokens=record.input_tokens,
            output_tokens=record.output_tokens,
            cost_micro_usd=record.cost_micro_usd,
        )
        nears = await self._nears_its_end(step, agent, record, served)
        common: dict[str, Any] = {"usage": usage, "malformed": record.message, "compact": nears}
        if calls:
            return ModelReply(finish="calls", calls=calls, **common)
        output, cut = shorten(turn.text, MAX_OUTPUT_CHARS), len(turn.text) > MAX_OUTPUT_CHARS
        match record.code:
            case "length":
                return ModelReply(finish="length", output=output, output_truncated=cut, **common)
            case "filtered":
                return ModelReply(finish="filtered", **common)
            case _ if record.message:
                # Wrong calls were answered one by one; what has no call to answer needs a note.
                note = None if turn.calls else record.message
                return ModelReply(finish="malformed", note=note, **common)
            case _:
                return ModelReply(finish="final", output=output, output_truncated=cut, **common)

    async def _call_of(self, step: ModelStep, agent: Agent, call: StoredCall, served: ServedTool) -> Call:
        arguments = json.loads(call.arguments)
        made = Call(
            id=call.id,
            tool=call.name,
            digest=call_digest(call.name, served.spec.schema_digest, arguments),
            key=idempotency_key(step.run, f"{call.id}.{step.number}"),
            source=step_id(step.run, step.number),
            effect=served.spec.effect,
            queue=self._catalog.queue_of(served),
            timeout=served.spec.timeout,
            agent=served.agent,
            function=served.function,
        )
        if served.spec is FIND_TOOLS or served.function:
            return made  # a plan is for what tools do: this one only names them, or its caller is who decides
        return await self._gatekeeper.gated(
            made, agent, served.spec, arguments, run=step.run, thread=step.thread, tenant=step.tenant
        )


def checked_calls(turn: Turn, offered: Mapping[str, ServedTool], step: ModelStep) -> tuple[StoredCall, ...]:
    """The calls of a turn, each with what is wrong with it; ids made unique, arguments made valid JSON."""
    seen: set[str] = set()
    checked: list[StoredCall] = []
    for position, call in enumerate(turn.calls):
        given = clean_text(call.id)[0][:64] or f"call_{step.number}_{position}"
        unique = given if given not in seen else f"{given[:56]}.{position}"
        arguments, problem = _arguments(call.arguments)
        if given in seen:
            problem = f"Error: the call id {given!r} was used twice in one turn. Give every call its own id."
        elif position >= step.max_calls:
            problem = f"Error: at most {step.max_calls} calls are made in one turn; this one was not made."
        elif call.name not in offered:
            problem = f"Error: there is no tool {call.name!r} here. {_instead(offered)}"
        elif step.offer and any(earlier.problem is None for earlier in checked):
            problem = f"Error: only one call of {step.offer!r} is made in this turn."
        elif problem is None:
            wrong = schema_problem(offered[call.name].spec.parameters, arguments)
            problem = (
                f"Error: the arguments do not fit {call.name!r}: {wrong} Correct them and call again."
                if wrong
                else None
            )
        seen.add(given)
        checked.append(
            StoredCall(id=unique, name=clean_text(call.name)[0][:64], arguments=canonical(arguments), problem=problem)
        )
    return tuple(checked)


def _instead(offered: Mapping[str, ServedTool]) -> str:
    if FIND_TOOLS.name in offered:
        return f"Look for the one that you need with {FIND_TOOLS.name}."
    return f"Tools that can be called now: {', '.join(offered) or 'none'}."


def _arguments(text: str) -> tuple[dict[str, Any], str | None]:
    cleaned = clean_text(text or "{}")[0]
    try:
        arguments = json.loads(cleaned, parse_constant=_refuse_constant)
    except (ValueError, RecursionError) as error:
        given = shorten(cleaned, 200)
        return {}, f"Error: the arguments are not valid JSON ({error}). Write them as one JSON object: {given}"
    if not isinstance(arguments, dict):
        return {}, "Error: the arguments must be one JSON object."
    cleaned_arguments: dict[str, Any] = clean_json(arguments)
    return cleaned_arguments, None


def _refuse_constant(name: str) -> Any:
    raise ValueError(f"{name} is not JSON")


def _malformed(step: ModelStep, turn: StoredTurn, finish: str) -> str | None:
    wrong = [call.problem for call in turn.calls if call.problem]
    if wrong:
        return wrong[0]
    if turn.calls or finish != "stop":
        return None
    if step.offer:
        return f"Your last turn did not count: call the tool {step.offer!r} now."
    if step.required:
        return "Your last turn did not count: call one of the tools now."
    if not turn.text.strip():
        return "Your last turn was empty. Answer, or call a tool."
    return None


def _failed(record: StepRecord) -> ModelReply:
    code = settled(record).code or "model_error"
    return ModelReply(status="failed", code=code, message=record.message, compact=code == ContextLengthExceeded.code)
