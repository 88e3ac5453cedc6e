"""Tools: Python functions that an agent may call, and what each may do to the world.

The effect is the one thing that the author must say. It decides whether a person is asked first
and what happens when an attempt died in the middle: `read` and `idempotent` go on, `external` stops.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Awaitable, Callable, Mapping, MutableMapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from functools import cached_property
from typing import TYPE_CHECKING, Any, get_type_hints, overload

import docstring_parser
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, create_model

from horarium.content import digest
from horarium.errors import ConfigError, ToolError, WorkspaceError
from horarium.routine_state import RoutineState

if TYPE_CHECKING:
    from horarium.workspace import Workspace

__all__ = ["Effect", "NotPerformed", "Performed", "Tool", "ToolContext", "ToolError", "ToolSpec", "tool"]

_NAME = re.compile(r"^[a-zA-Z][a-zA-Z0-9_\-]{0,63}$")


class Effect(StrEnum):
    """What a tool may do to the world.

    `read`: nothing; runs without asking. `idempotent`: something, but the same key twice is once.
    `external`: something that must not happen twice.
    """

    READ = "read"
    IDEMPOTENT = "idempotent"
    EXTERNAL = "external"


class ToolSpec(BaseModel):
    """A tool as engine and model see it: what is announced by whoever serves it."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    name: str
    description: str = ""
    parameters: dict[str, Any] = Field(description="JSON Schema of the arguments, an object.")
    effect: Effect = Effect.EXTERNAL
    timeout: timedelta = Field(default=timedelta(minutes=5), description="For one attempt.")
    attempts: int = Field(
        default=3,
        ge=1,
        description="Failed attempts before giving up; crashes of the worker are not counted.",
    )
    has_verify: bool = Field(default=False, description="The tool can say whether a call happened.")
    untrusted: bool = Field(
        default=False, description="What it returns was written by strangers, such as web pages or mail."
    )

    @cached_property
    def schema_digest(self) -> str:
        """Digest of what an approval binds to besides the arguments."""
        return digest({"name": self.name, "parameters": self.parameters})


def no_workspace() -> Workspace:
    """Of a call that has none.

    Raises:
        WorkspaceError: Always.
    """
    raise WorkspaceError("This call has no workspace; in a test, give the context one: open_workspace=lambda: …")


@dataclass(frozen=True, slots=True)
class ToolContext:
    """What a tool may ask about the call it is in. Declare a parameter of this type to get it.

    `idempotency_key` is the same on every attempt of this call and new for every approved call: hand it to
    the service you call. `attempt` counts from 1. A sync tool that takes long asks `cancelled()` now and then, and
    raises `ToolError` when it stopped without having done anything. `state` is a small JSON object that a routine keeps
    between its ticks; what a call changes in it counts when the call succeeds, and for later ticks when this one does.
    `workspace` has the files of the thread; the first use of it in a call waits until they are here.
    """

    run_id: str
    step_id: str
    idempotency_key: str
    attempt: int
    agent: str
    tenant: str
    state: MutableMapping[str, Any] = field(default_factory=RoutineState, repr=False)
    cancelled: Callable[[], bool] = field(default=lambda: False, repr=False)
    open_workspace: Callable[[], Workspace] = field(default=no_workspace, repr=False)

    @property
    def workspace(self) -> Workspace:
        """The files of the thread; what the call changes in them is kept when it succeeds.

        Raises:
            WorkspaceError: The call is over, or has none.
            Unreachable: They cannot be had now.
        """
        return self.open_workspace()


@dataclass(frozen=True, slots=True)
class Performed:
    """A `verify` probe's answer: the call happened, and this was its result."""

    result: Any


@dataclass(frozen=True, slots=True)
class NotPerformed:
    """A `verify` probe's answer: the call did not happen; it may be made."""


Verify = Callable[
    [ToolContext, dict[str, Any]],
    "Performed | NotPerformed | Awaitable[Performed | NotPerformed | None] | None",
]


@dataclass(frozen=True, slots=True)
class Tool:
    """A function with its spec; made by `@tool`. Calling it calls the function."""

    function: Callable[..., Any]
    spec: ToolSpec
    context_parameter: str | None
    arguments: type[BaseModel]
    verify: Verify | None = None
    _validator: Any = field(default=None, repr=False, compare=False)

    @property
    def name(self) -> str:
        """The name the model uses."""
        return self.spec.name

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the plain function, as if undecorated."""
        return self.function(*args, **kwargs)

    def bind(self, arguments: Mapping[str, Any], context: ToolContext) -> dict[str, Any]:
        """Turn JSON arguments into the keyword arguments of the function, typed as it declares.

        Raises:
            ToolError: The arguments do not fit the function's types.
        """
        try:
            typed = self.arguments.model_validate(arguments)
        except ValueError as error:
            raise ToolError(f"The arguments do not fit {self.name!r}: {error}") from error
        values = {name: getattr(typed, name) for name in type(typed).model_fields}
        if self.context_parameter:
            values[self.context_parameter] = context
        return values


@overload
def tool(function: Callable[..., Any], /) -> Tool: ...


@overload
def tool(
    *,
    effect: Effect | str = ...,
    name: str | None = ...,
    description: str | None = ...,
    timeout: timedelta = ...,
    attempts: int = ...,
    verify: Verify | None = ...,
    untrusted: bool = ...,
) -> Callable[[Callable[..., Any]], Tool]: ...


def tool(
    function: Callable[..., Any] | None = None,
    /,
    *,
    effect: Effect | str = Effect.EXTERNAL,
    name: str | None = None,
    description: str | None = None,
    timeout: timedelta = timedelta(minutes=5),
    attempts: int = 3,
    verify: Verify | None = None,
    untrusted: bool = False,
) -> Tool | Callable[[Callable[..., Any]], Tool]:
    """Make a function a tool. Its schema comes from its signature, its words from its docstring.

    Args:
        function: Sync functions run in a thread, async ones on the tools' own event loop.
        effect: Unsaid means `external`: the careful reading.
        name: Defaults to the function's name.
        description: Defaults to the docstring's text above its sections.
        timeout: Of one attempt.
        attempts: Failed attempts before the model (or a person) is told.
        verify: `verify(context, arguments)`, asked when an attempt died and nobody knows whether the
            call happened: return `Performed(result)`, `NotPerformed()`, or None for "cannot tell".
        untrusted: It returns what strangers wrote. What a run learns after that is kept apart until reviewed.

    Raises:
        ConfigError: The signature cannot be described by a schema.
    """

    def decorate(function: Callable[..., Any]) -> Tool:
        return _make(function, effect, name, description, timeout, attempts, verify, untrusted)

    return decorate if function is None else decorate(function)


def _make(
    function: Callable[..., Any],
    effect: Effect | str,
    name: str | None,
    description: str | None,
    timeout: timedelta,
    attempts: int,
    verify: Verify | None,
    untrusted: bool,
) -> Tool:
    label = name or function.__name__
    if not _NAME.match(label):
        raise ConfigError(
            f"Tool name {label!r} is not usable.",
            hint="Use 1 to 64 letters, digits, '_' or '-', beginning with a letter.",
        )
    try:
        kind = Effect(effect)
    except ValueError as error:
        raise ConfigError(
            f"Tool {label!r} has effect {effect!r}.", hint="Say one of: read, idempotent, external."
        ) from error
    words = docstring_parser.parse(inspect.getdoc(function) or "")
    said = {param.arg_name: param.description for param in words.params}
    hints = get_type_hints(function, include_extras=True)
    fields: dict[str, Any] = {}
    context_parameter: str | None = None
    for parameter in inspect.signature(function).parameters.values():
        if hints.get(parameter.name) is ToolContext:
            context_parameter = parameter.name
            continue
        if parameter.kind in (parameter.VAR_POSITIONAL, parameter.VAR_KEYWORD, parameter.POSITIONAL_ONLY):
            raise ConfigError(
                f"Tool {label!r} takes {parameter}, which a schema cannot describe.",
                hint="Give every parameter a name, and no * or /.",
            )
        if parameter.name not in hints:
            raise ConfigError(
                f"Parameter {parameter.name!r} of tool {label!r} has no type.",
                hint="Annotate it, e.g. `: str`.",
            )
        default = ... if parameter.default is parameter.empty else parameter.default
        fields[parameter.name] = (hints[parameter.name], Field(default, description=said.get(parameter.name)))
    try:
        arguments = create_model(
            f"{label}_arguments",
            __config__=ConfigDict(extra="forbid", arbitrary_types_allowed=False),
            **fields,
        )
        parameters = _tidy(TypeAdapter(arguments).json_schema())
    except Exception as error:
        raise ConfigError(
            f"The parameters of tool {label!r} cannot be described by a schema: {error}",
            hint="Use plain types, pydantic models or dataclasses.",
        ) from error
    spec = ToolSpec(
        name=label,
        description=description or words.description or "",
        parameters=parameters,
        effect=kind,
        timeout=timeout,
        attempts=attempts,
        has_verify=verify is not None,
        untrusted=untrusted,
    )
    return Tool(function, spec, context_parameter, arguments, verify)


def _tidy(schema: dict[str, Any]) -> dict[str, Any]:
    """Drop pydantic's titles: they cost tokens and tell the model nothing."""

    def walk(node: Any, *, names: bool = False) -> Any:
        if isinstance(node, dict):
            return {
                key: walk(value, names=key in ("properties", "$defs"))
                for key, value in node.items()
                if names or key != "title"
            }
        return [walk(item) for item in node] if isinstance(node, list) else node

    tidied: dict[str, Any] = walk(schema)
    tidied.setdefault("properties", {})
    return tidied
