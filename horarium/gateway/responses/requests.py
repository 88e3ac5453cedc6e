"""The body of `POST /v1/responses`. What is not listed here is refused by its name."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StringConstraints, TypeAdapter, ValidationError

from horarium.contract import MAX_FUNCTIONS, CallerFunction
from horarium.errors import ConfigError
from horarium.functions import check_functions
from horarium.gateway.responses.errors import BadParameter
from horarium.gateway.responses.shapes import Choice, Function, InputItem
from horarium.gateway.v1.fields import Flag, Number, Whole
from horarium.ledger.functions import RunFunctions
from horarium.structured import ANY_OBJECT, schema_flaw

# One of the sixteen that a run has is ours (`record.OURS`).
MOST_METADATA = 15
_IGNORED = "Accepted; the agent's definition decides."


class Strict(BaseModel):
    """Base of what comes in."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class ConversationParam(Strict):
    """A conversation, as an object."""

    id: str


class JsonSchemaFormat(Strict):
    """The answer has to be JSON that fits a schema; one that does not goes back to the model."""

    type: Literal["json_schema"]
    name: str = Field(max_length=64)
    schema_: dict[str, Any] = Field(alias="schema")
    description: str | None = None
    strict: Flag | None = Field(default=None, description="Accepted; the answer always has to fit.")


class PlainFormat(Strict):
    """Text, or any one JSON object."""

    type: Literal["text", "json_object"]


class TextParam(Strict):
    """What the answer looks like."""

    format: Annotated[JsonSchemaFormat | PlainFormat, Field(discriminator="type")] | None = None
    verbosity: str | None = Field(default=None, description=_IGNORED)


class FunctionTool(Strict):
    """A function that the client carries out."""

    type: Literal["function"]
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: Flag | None = Field(default=None, description="Accepted; arguments always have to fit the parameters.")


class NamedFunction(Strict):
    """One function, by its name."""

    type: Literal["function"]
    name: str


class AllowedTools(Strict):
    """Only these of the functions."""

    type: Literal["allowed_tools"]
    mode: Literal["auto", "required"]
    tools: list[NamedFunction] = Field(min_length=1)


_CHOICE: TypeAdapter[NamedFunction | AllowedTools] = TypeAdapter(
    Annotated[NamedFunction | AllowedTools, Field(discriminator="type")]
)


class CreateResponse(BaseModel):
    """A request for a response: a run of an agent."""

    model_config = ConfigDict(
        frozen=True,
        extra="forbid",
        json_schema_extra={"examples": [{"model": "triage", "input": "Triage the issues opened since yesterday."}]},
    )

    model: str | None = Field(default=None, description="The agent's name. Under an agent's own path it is not read.")
    input: str | list[InputItem] = Field(
        description="Text; or items: messages with text, items of earlier responses, `mcp_approval_response`, or "
        "`function_call_output`."
    )
    instructions: str | None = Field(
        default=None, description="Put before the input, with the weight of a user's words; the agent's own stay."
    )
    previous_response_id: str | None = Field(default=None, description="Go on right after that response.")
    conversation: str | ConversationParam | None = Field(default=None, description="Go on at its end.")
    store: Flag | None = Field(
        default=True, description="False: it cannot be retrieved here. The run and its evidence are kept all the same."
    )
    stream: Flag | None = Field(default=False, description="Server-sent events.")
    background: Flag | None = Field(default=False, description="Answer at once; the response is retrieved later.")
    metadata: (
        dict[
            Annotated[str, StringConstraints(min_length=1, max_length=64)],
            Annotated[str, StringConstraints(max_length=512)],
        ]
        | None
    ) = Field(default=None, max_length=MOST_METADATA, description="Yours; stored with the run.")
    max_output_tokens: Whole | None = Field(
        default=None, ge=1, description="Of all turns together: a limit of the run."
    )
    max_tool_calls: Whole | None = Field(default=None, ge=1, description="A limit of the run.")
    text: TextParam | None = None
    tools: list[Function] | None = Field(
        default=None,
        max_length=MAX_FUNCTIONS,
        description="Functions that you carry out (`type: function`), besides the agent's own tools.",
    )
    tool_choice: Choice | None = Field(
        default=None,
        description="`auto`; `none` of your functions; `required`, one function, or `allowed_tools`: for the first "
        "turn of a run.",
    )

    temperature: Number | None = Field(default=None, allow_inf_nan=False, description=_IGNORED)
    top_p: Number | None = Field(default=None, allow_inf_nan=False, description=_IGNORED)
    presence_penalty: Number | None = Field(default=None, allow_inf_nan=False, description=_IGNORED)
    frequency_penalty: Number | None = Field(default=None, allow_inf_nan=False, description=_IGNORED)
    parallel_tool_calls: Flag | None = Field(default=None, description=_IGNORED)
    reasoning: dict[str, Any] | None = Field(default=None, description=_IGNORED)
    truncation: str | None = Field(default=None, description=_IGNORED)
    include: list[str] | None = Field(default=None, description="Accepted; nothing more is shown.")
    stream_options: dict[str, Any] | None = Field(default=None, description="Accepted; nothing is padded.")
    service_tier: str | None = Field(default=None, description=_IGNORED)
    user: str | None = Field(default=None, description="Accepted; who calls is who the API key says.")
    safety_identifier: str | None = Field(default=None, description="Accepted.")
    prompt_cache_key: str | None = Field(default=None, description="Accepted.")
    prompt_cache_retention: str | None = Field(default=None, description="Accepted.")

    @property
    def conversation_id(self) -> str | None:
        """However it was written."""
        return self.conversation.id if isinstance(self.conversation, ConversationParam) else self.conversation

    @property
    def output_schema(self) -> dict[str, Any] | None:
        """What the answer has to fit; None: it may be any text."""
        match self.text.format if self.text is not None else None:
            case JsonSchemaFormat(schema_=schema):
                return schema
            case PlainFormat(type="json_object"):
                return ANY_OBJECT
            case _:
                return None

    @property
    def answer_format(self) -> dict[str, Any] | None:
        """What was said of the answer's form, without the schema."""
        wanted = self.text.format if self.text is not None else None
        if wanted is None or wanted.type == "text":
            return None
        return wanted.model_dump(exclude={"schema_"}, exclude_none=True)

    def check(self) -> None:
        """Refuse what could only be ignored to somebody's harm.

        Raises:
            BadParameter: Names the parameter.
        """
        self.functions()
        flaw = schema_flaw(self.output_schema) if self.output_schema is not None else None
        if flaw is not None:
            raise BadParameter("text.format.schema", f"The schema {flaw}.", "invalid_json_schema")
        if self.previous_response_id is not None and self.conversation is not None:
            raise BadParameter(
                "previous_response_id", "Either 'previous_response_id' or 'conversation': both say where to go on."
            )
        if self.background and self.store is False:
            raise BadParameter("background", "A response in the background has to be stored to be retrieved.")

    def functions(self) -> RunFunctions:
        """The functions that the client carries out, and which of them has to be called first.

        Raises:
            BadParameter: A tool is something else, or one that no run could use; or the choice names none of them.
        """
        functions = tuple(_function(tool, f"tools[{place}]") for place, tool in enumerate(self.tools or ()))
        chosen = _chosen(functions, self.tool_choice)
        try:
            check_functions(functions)
        except ConfigError as error:
            raise BadParameter("tools", str(error)) from error
        return chosen


def _function(tool: dict[str, Any], where: str) -> CallerFunction:
    if tool.get("type") != "function":
        raise BadParameter(
            f"{where}.type",
            f"Tools of type {tool.get('type')!r} are not supported, only functions that you carry out: what the "
            "engine carries out is in the agent's definition.",
            "unsupported_parameter",
        )
    try:
        read = FunctionTool.model_validate(tool)
        given: dict[str, Any] = {"name": read.name, "description": read.description or ""}
        if read.parameters:
            given["parameters"] = read.parameters
        return CallerFunction.model_validate(given)
    except ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        raise BadParameter(".".join((where, *map(str, problem["loc"]))), problem["msg"]) from error


def _chosen(functions: tuple[CallerFunction, ...], choice: str | dict[str, Any] | None) -> RunFunctions:
    if choice in (None, "auto"):
        return RunFunctions(functions)
    if choice == "none":
        return RunFunctions()
    if not functions:
        raise BadParameter(
            "tool_choice", "It is about your functions, and 'tools' has none: an agent chooses by its definition."
        )
    if choice == "required":
        return RunFunctions(functions, "*")
    try:
        read = _CHOICE.validate_python(choice)
    except ValidationError as error:
        raise BadParameter(
            "tool_choice", "One of 'auto', 'none', 'required', a function, or 'allowed_tools'."
        ) from error
    named = {read.name} if isinstance(read, NamedFunction) else {tool.name for tool in read.tools}
    missing = named - {function.name for function in functions}
    if missing:
        raise BadParameter("tool_choice", f"There is no function {sorted(missing)[0]!r} in 'tools'.")
    if isinstance(read, NamedFunction):
        return RunFunctions(functions, read.name)
    allowed = tuple(function for function in functions if function.name in named)
    return RunFunctions(allowed, "*" if read.mode == "required" else None)
