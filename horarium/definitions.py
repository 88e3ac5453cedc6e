"""What a user defines: agents, their limits, and how their model is asked.

Frozen, because a definition that a run was started with must not change under it: a change is
a new version. Unknown fields are errors, because a typo in a limit is a limit that is not there.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from jsonschema import Draft202012Validator
from jsonschema.exceptions import SchemaError
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from horarium.content import canonical, digest
from horarium.definition import Definition, Duration, Execution, a_name
from horarium.mcpservers import Label, McpServer
from horarium.memories import MemoryKind
from horarium.people import is_among
from horarium.problems import near_miss
from horarium.structured import a_schema

OnStepFailure = Literal["tell", "fail", "hold"]
NameOrRole = Annotated[str, Field(max_length=200)]


def _is_none(value: object) -> bool:
    return value is None


def _is_true(value: object) -> bool:
    return value is True


class Limits(Definition):
    """Where a run stops by itself. Reaching one ends it `incomplete`, with the limit's name as the reason."""

    max_turns: int = Field(default=50, ge=1, description="Model calls.")
    max_tokens: int | None = Field(default=None, ge=1, description="Input and output together. None: no limit.")
    max_cost_usd: Decimal | None = Field(
        default=None, gt=0, description="Needs a price for the model, in `[models.prices]`. None: no limit."
    )
    wall_time: Duration = Field(
        default=timedelta(hours=1), gt=timedelta(0), description="Waiting for people not counted."
    )
    max_repeats: int = Field(default=8, ge=1, description="The same call with the same arguments, in a row.")
    max_calls_per_turn: int = Field(default=32, ge=1, le=128, description="More are refused, and the model told.")
    max_handoffs: int = Field(
        default=100, ge=0, description="Runs of sub-agents below this run, at any depth; more are refused."
    )
    max_depth: int = Field(default=3, ge=0, le=10, description="Levels of sub-agents below this run.")
    # Left out of the digest where they are not used: no agent gets a new version because limits were added.
    max_output_tokens: int | None = Field(
        default=None, ge=1, description="Output of all turns together. None: no limit.", exclude_if=_is_none
    )
    max_tool_calls: int | None = Field(
        default=None, ge=1, description="Tool calls of all turns together. None: no limit.", exclude_if=_is_none
    )


def _a_model(model: str) -> str:
    if model == NO_MODEL:
        return model
    provider, _, rest = model.partition(":")
    known = ("foundry", "openai", "local", "scripted")
    if provider not in known:
        raise ValueError(f"a model is 'provider:name', with one of the providers {', '.join(known)}")
    if provider != "local" and not rest:
        raise ValueError(f"say which model of {provider!r}, e.g. {provider}:gpt-5.3")
    return model


class Rubric(Definition):
    """When a run did well enough to teach how the work is done: a model says so, or a Python function."""

    model: Annotated[str, AfterValidator(_a_model)] | None = Field(
        default=None, description="That judges; it should be another than the agent's. Needs `criteria`."
    )
    criteria: str = Field(default="", max_length=8_000, description="What a good run is, in words.")
    check: str | None = Field(
        default=None,
        pattern=r"^[A-Za-z0-9_\-]+(/[A-Za-z0-9_\-]+)*\.py:[A-Za-z_][A-Za-z0-9_]*$",
        description="A function of the project, like `rubrics/triage.py:good`: it gets a `JudgedRun`, and gives a bool "
        "or a number from 0 to 1.",
    )
    at_least: float = Field(default=0.7, ge=0, le=1, description="The score, from 0 to 1, that a good run reaches.")

    @model_validator(mode="after")
    def _one_judge(self) -> Rubric:
        if (self.model is None) == (self.check is None):
            raise ValueError("a rubric has either `model` with `criteria`, or `check`")
        if self.model is not None and not self.criteria.strip():
            raise ValueError("`model` without `criteria`: say what a good run is")
        return self

    @property
    def name(self) -> str:
        """What its judgements are signed with."""
        return f"check:{self.check}" if self.check is not None else f"model:{self.model}"


def _an_extraction(value: Any) -> Any:
    return {True: None, False: "off"}[value] if isinstance(value, bool) else value  # YAML reads `off` as false


class Memory(Definition):
    """What outlives a thread: what completed runs leave, and later runs are told at their beginning."""

    scope: str = Field(min_length=1, max_length=200, description="Runs with the same scope share what is not a user's.")
    kinds: tuple[MemoryKind, ...] = Field(
        default=("summary",),
        min_length=1,
        description="user: facts and preferences of whoever the run is for. procedural: how the work is done. "
        "summary: what was asked and answered.",
    )
    recall: int = Field(default=10, ge=0, le=100, description="How many of each kind a run is told; 0: none.")
    recall_tokens: int = Field(default=2_000, ge=50, description="About how long what it is told may be, in all.")
    extraction: Annotated[str | None, BeforeValidator(_an_extraction)] = Field(
        default=None,
        description="The model that finds what is worth remembering, like an agent's `model`; `off`: nothing is found, "
        "and a summary is the question and the answer, cut. None: the agent's own, where `kinds` need one.",
    )
    rubric: Rubric | None = Field(
        default=None, description="Of procedures. None: each waits for positive feedback or a review."
    )
    expires_after: Duration | None = Field(
        default=None, gt=timedelta(0), description="Since it was learned last. None: never."
    )
    store: Literal["ledger", "foundry"] = Field(
        default="ledger", description="foundry: the memory store of `[memory.foundry]`, which does its own finding."
    )
    ranking: Literal["lexical", "embedding"] = Field(
        default="lexical",
        description="What fits a run's input best. lexical: full text. embedding: meaning, by a small local model of "
        "English, from the extra `search`.",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Memory:
        if len(set(self.kinds)) != len(self.kinds):
            raise ValueError("a kind is listed twice in `kinds`")
        if self.extraction not in (None, "off"):
            _a_model(self.extraction or "")
        if self.rubric is not None and "procedural" not in self.kinds:
            raise ValueError("`rubric` judges what is `procedural`, and `kinds` does not have that")
        if self.store == "foundry" and self.extraction not in (None, "off"):
            raise ValueError("`extraction` and `store: foundry`: that store has a model of its own; leave one out")
        if self.store == "foundry" and self.ranking != "lexical":
            raise ValueError("`ranking` and `store: foundry`: that store ranks by itself; leave one out")
        return self

    def extracts_with(self, model: str) -> str | None:
        """The model that finds what is worth remembering, for an agent of this model; None: none does."""
        if self.extraction == "off" or self.store == "foundry":
            return None
        return self.extraction or (model if set(self.kinds) != {"summary"} else None)


class ToolSearch(Definition):
    """Show the model the few tools that fit the conversation, and `find_tools` to look for others."""

    show: int = Field(default=5, ge=1, le=50, description="Tools shown at each turn.")
    ranking: Literal["lexical", "embedding"] = Field(
        default="lexical", description="lexical: BM25. embedding: a small local model, from the extra `search`."
    )


def _a_search(value: Any) -> Any:
    return {True: {}, False: None}[value] if isinstance(value, bool) else value


class RememberRule(Definition):
    """What a person may release for longer than one call."""

    scopes: tuple[Literal["run", "thread", "agent"], ...] = Field(default=("run",), min_length=1)
    longest: Duration = Field(default=timedelta(hours=8), gt=timedelta(0))


# Keywords that can be checked against one argument by itself.
BOUND_KEYWORDS: dict[str, str | None] = {
    **dict.fromkeys(("minimum", "maximum", "exclusiveMinimum", "exclusiveMaximum", "multipleOf"), "number"),
    **dict.fromkeys(("pattern", "minLength", "maxLength"), "string"),
    **dict.fromkeys(("items", "minItems", "maxItems", "uniqueItems", "contains"), "array"),
    **dict.fromkeys(("properties", "required", "additionalProperties", "minProperties", "maxProperties"), "object"),
    **dict.fromkeys(("type", "enum", "const", "anyOf", "allOf", "oneOf", "not"), None),
}


# What says a type by its keywords alone cannot be turned round: "not (a number up to 5)" would let every text through.
_NOT_INSIDE_NOT = ("anyOf", "allOf", "oneOf", "not", "items", "properties", "additionalProperties")
_MOST_BOUNDS_DEEP = 10


def bounds_inside(bound: Mapping[str, Any]) -> Iterator[tuple[str, dict[str, Any]]]:
    """The bounds that stand directly inside of a bound, each with the keyword that holds it."""
    for keyword, value in bound.items():
        match keyword, value:
            case "anyOf" | "allOf" | "oneOf", list():
                yield from ((keyword, inner) for inner in value if isinstance(inner, dict))
            case "properties", dict():
                yield from ((keyword, inner) for inner in value.values() if isinstance(inner, dict))
            case "items" | "contains" | "additionalProperties" | "not", dict():
                yield keyword, value


def bound_problem(bound: dict[str, Any]) -> str | None:
    """Why a bound on an argument cannot be one; None when it can."""
    if not bound:
        return "says nothing; give a keyword like maximum, enum or const"
    problem = _keyword_problem(bound)
    if problem is not None:
        return problem
    try:
        canonical(bound)
        Draft202012Validator.check_schema(bound)
    except SchemaError as error:
        return f"is no JSON Schema: {error.message}"
    except (ValueError, TypeError, RecursionError) as error:
        return f"is no JSON: {error}"
    return None


def _keyword_problem(bound: Mapping[str, Any], depth: int = 0, *, negated: bool = False) -> str | None:
    if depth > _MOST_BOUNDS_DEEP:
        return f"has bounds inside of bounds, more than {_MOST_BOUNDS_DEEP} deep"
    for keyword in bound:
        if keyword not in BOUND_KEYWORDS:
            return f"there is no keyword {keyword!r}{near_miss(str(keyword), list(BOUND_KEYWORDS))}"
        if negated and keyword in _NOT_INSIDE_NOT:
            return f"{keyword!r} cannot stand inside of 'not'; say it the other way round"
    inside = (
        _keyword_problem(inner, depth + 1, negated=negated or held == "not") for held, inner in bounds_inside(bound)
    )
    return next((problem for problem in inside if problem is not None), None)


def _name_problem(name: str) -> str | None:
    """Why a name among the approvers comes to nobody; whether a role is there, only the settings know."""
    head, colon, role = name.partition(":")
    if not name.strip() or name.strip() == "role:":
        return "is empty"
    if colon and head.strip().casefold() in ("role", "roles") and name != f"role:{role.strip()}":
        return f"{name!r} is not how a role is written: 'role:{role.strip()}'"
    return None


class ApprovalRule(Definition):
    """One rule of an agent's approval plan: which calls it is about, who decides, and until when.

    The first rule that fits a call holds. Where none fits, the tool's effect decides: `read` runs, anything else
    waits for one person, whoever that is.
    """

    tools: tuple[str, ...] = Field(min_length=1, description="Names or patterns, like `pay_*`.")
    when: dict[str, dict[str, Any]] = Field(
        default={},
        description="JSON Schema keywords for arguments, like `{amount: {exclusiveMinimum: 1000}}`. All have to fit.",
    )
    required: int = Field(default=1, ge=0, le=10, description="How many approve. 0: the call needs nobody.")
    approvers: tuple[NameOrRole, ...] = Field(
        default=(), max_length=50, description="People, and roles as `role:<name>`. Empty: anybody."
    )
    four_eyes: bool = Field(default=False, description="Whoever started the run may not decide.")
    expires_after: Duration | None = Field(default=None, gt=timedelta(0), description="None: it waits for ever.")
    on_expiry: Literal["reject", "fail", "escalate"] | None = Field(
        default=None, description="reject: the model is told; fail: the run ends; escalate: others are asked."
    )
    escalate_to: tuple[NameOrRole, ...] = Field(default=(), max_length=50, description="As `approvers`.")
    on_escalation_expiry: Literal["reject", "fail"] = "reject"
    remind_every: Duration | None = Field(default=None, ge=timedelta(minutes=1))
    remember: RememberRule | None = Field(default=None, description="None: each call is asked about.")
    reassign: bool = Field(
        default=True,
        description="Whoever may decide may hand it to others, who decide instead.",
        exclude_if=_is_true,  # of the digest too: no agent gets a new version because it was added
    )

    @model_validator(mode="after")
    def _can_be_kept(self) -> ApprovalRule:
        problems = list(self._problems())
        if problems:
            raise ValueError("; ".join(problems))
        return self

    def _problems(self) -> Iterator[str]:
        if self.required == 0:
            asks = {
                "approvers": self.approvers,
                "four_eyes": self.four_eyes,
                "expires_after": self.expires_after,
                "on_expiry": self.on_expiry,
                "escalate_to": self.escalate_to,
                "remind_every": self.remind_every,
                "remember": self.remember,
            }
            yield from (f"`{name}` asks people, but `required: 0` asks nobody" for name, value in asks.items() if value)
        if self.expires_after is not None and self.on_expiry is None:
            yield "`expires_after` without `on_expiry`: say what then, reject, fail or escalate"
        if self.on_expiry is not None and self.expires_after is None:
            yield "`on_expiry` without `expires_after`: it would never expire"
        if self.on_expiry == "escalate" and not self.escalate_to:
            yield "`on_expiry: escalate` without `escalate_to`: say to whom"
        if self.escalate_to and self.on_expiry != "escalate":
            yield "`escalate_to` without `on_expiry: escalate`: nobody there would ever be asked"
        if self.remind_every is not None and self.expires_after is not None and self.remind_every >= self.expires_after:
            yield "`remind_every` is not shorter than `expires_after`: nobody would be reminded"
        if self.four_eyes and self.remember is not None:
            yield "`remember` and `four_eyes`: a grant would release what whoever gave it starts later; leave one out"
        if self.required > 1 and self.remember is not None:
            yield "`remember` lets one person release later calls, but this rule wants more than one: leave it out"
        for field, names in (("approvers", self.approvers), ("escalate_to", self.escalate_to)):
            for position, name in enumerate(names):
                if (problem := _name_problem(name)) is not None:
                    yield f"`{field}.{position}` {problem}"
                if is_among(name, names[:position]):
                    yield f"`{field}.{position}`: {name!r} is there twice"
        for argument, bound in self.when.items():
            if (problem := bound_problem(bound)) is not None:
                yield f"`when.{argument}`: {problem}"


class ModelSettings(Definition):
    """How the model is asked. What a model family does not know is left out (activities/models/families.py)."""

    temperature: float | None = Field(default=None, ge=0, le=2)
    top_p: float | None = Field(default=None, gt=0, le=1)
    max_output_tokens: int | None = Field(default=None, ge=1)
    reasoning_effort: Literal["none", "minimal", "low", "medium", "high", "xhigh", "max"] | None = None
    verbosity: Literal["low", "medium", "high"] | None = None
    parallel_tool_calls: bool | None = None
    timeout: Duration = Field(default=timedelta(minutes=10), gt=timedelta(0), description="For one whole turn.")
    attempts: int = Field(default=5, ge=1, description="Failures before giving up; being throttled is not counted.")
    context_tokens: int | None = Field(
        default=None,
        ge=512,
        description="The model's window; near its end older messages are summarised. None: what is known of the model.",
    )
    family: str | None = Field(
        default=None, description="The model's own name, e.g. `gpt-5.3`, where the provider cannot tell it."
    )


NO_MODEL = "none"
ENDPOINT_PREFIX = "toolbox-"  # of the agents that stand for served toolboxes


class Agent(Definition):
    """A definition of an agent; a run is one execution of one version of it."""

    name: Annotated[str, AfterValidator(a_name)]
    model: Annotated[str, AfterValidator(_a_model)] = Field(
        description="`foundry:<deployment>`, `openai:<model>`, `local`, or `scripted:<file>`."
    )
    description: str = ""
    instructions: str = Field(default="", description="The system prompt; in YAML, `instructions_file` names its file.")
    tools: tuple[str, ...] = Field(default=(), description="Names of tools, as their workers announce them.")
    mcp: dict[Label, McpServer] = Field(
        default={}, description="MCP servers by label; their tools are named `<label>__<tool>`."
    )
    toolboxes: tuple[str, ...] = Field(default=(), description="`name` for its default version, or `name@2`.")
    agents: tuple[Annotated[str, AfterValidator(a_name)], ...] = Field(
        default=(), description="Sub-agents: each is offered as a tool of its name."
    )
    tool_search: Annotated[ToolSearch | None, BeforeValidator(_a_search)] = Field(
        default=None, description="`true`, or its settings. None: all tools are shown at every turn."
    )
    procedure: tuple[str, ...] = Field(
        default=(),
        description="The tools in the order to be called: each turn offers the model only the next.",
    )
    memory: Memory | None = Field(default=None, description="None: the agent remembers nothing between threads.")
    limits: Limits = Limits()
    approvals: tuple[ApprovalRule, ...] = Field(default=(), max_length=100, description="The approval plan.")
    settings: ModelSettings = ModelSettings()
    on_step_failure: OnStepFailure = Field(
        default="tell",
        description="When a tool broke for good: tell the model, fail the run, or hold it for a person. "
        "A model that failed for good fails the run, or holds it.",
    )
    execution: Execution | None = Field(
        default=None,
        exclude_if=_is_none,
        description="steps: each call is an activity in Temporal; segments: many of them in one, which is faster. "
        "None: as `[worker] execution` says.",
    )
    metadata: dict[str, str] = Field(default={}, description="Yours.")
    # Left out of the digest where there is none, as new limits are.
    input_schema: Annotated[dict[str, Any], AfterValidator(a_schema)] | None = Field(
        default=None, description="JSON Schema that the body of an invocation has to fit.", exclude_if=_is_none
    )
    output_schema: Annotated[dict[str, Any], AfterValidator(a_schema)] | None = Field(
        default=None,
        description="JSON Schema that the final answer has to fit; one that does not goes back to the model.",
        exclude_if=_is_none,
    )

    def __init__(
        self,
        name: str,
        *,
        model: str,
        description: str = "",
        instructions: str = "",
        tools: tuple[str, ...] | list[Any] = (),
        mcp: dict[str, McpServer] | None = None,
        toolboxes: tuple[str, ...] | list[str] = (),
        agents: tuple[str, ...] | list[str | Agent] = (),
        tool_search: ToolSearch | bool | None = None,
        procedure: tuple[str, ...] | list[str] = (),
        memory: Memory | None = None,
        limits: Limits | None = None,
        approvals: tuple[ApprovalRule, ...] | list[ApprovalRule] = (),
        settings: ModelSettings | None = None,
        on_step_failure: OnStepFailure = "tell",
        execution: Execution | None = None,
        metadata: dict[str, str] | None = None,
        input_schema: dict[str, Any] | None = None,
        output_schema: dict[str, Any] | None = None,
    ) -> None:
        super().__init__(
            **{
                "name": name,
                "model": model,
                "description": description,
                "instructions": instructions,
                "tools": tuple(item if isinstance(item, str) else item.name for item in tools),
                "mcp": mcp or {},
                "toolboxes": tuple(toolboxes),
                "agents": tuple(item if isinstance(item, str) else item.name for item in agents),
                "tool_search": tool_search,
                "procedure": tuple(procedure),
                "memory": memory,
                "limits": limits or Limits(),
                "approvals": tuple(approvals),
                "settings": settings or ModelSettings(),
                "on_step_failure": on_step_failure,
                "execution": execution,
                "metadata": metadata or {},
                "input_schema": input_schema,
                "output_schema": output_schema,
            }
        )

    # Only a nicer signature: validation of a mapping must still go field by field, not through here.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _consistent(self) -> Agent:
        if len(set(self.tools)) != len(self.tools):
            raise ValueError("a tool is listed twice in `tools`")
        both = [name for name in self.agents if name in self.tools]
        if both or len(set(self.agents)) != len(self.agents):
            raise ValueError("a name is listed twice in `tools` and `agents`")
        if (self.model == NO_MODEL) != self.name.startswith(ENDPOINT_PREFIX):
            raise ValueError(
                f"a name that begins with {ENDPOINT_PREFIX!r}, and the model {NO_MODEL!r}, are for toolboxes that are "
                "served; take another name and a model"
            )
        if self.name in self.agents:
            raise ValueError("an agent cannot be its own sub-agent")
        if self.tool_search is not None and self.procedure:
            raise ValueError(
                "`tool_search` and `procedure`: a procedure shows its next tool and no other; leave one out"
            )
        missing = [name for name in self.procedure if name not in self.tools and not self.finds_tools]
        if missing:
            raise ValueError(f"`procedure` names {missing[0]!r}, which is not in `tools`")
        return self

    @property
    def finds_tools(self) -> bool:
        """Whether some of its tools are found when a run begins, and pinned for it."""
        return bool(self.mcp or self.toolboxes or self.agents)

    @property
    def by_meaning(self) -> tuple[str, ...]:
        """The fields that rank by `embedding`, which needs the extra `search`."""
        parts = (("tool_search", self.tool_search), ("memory", self.memory))
        return tuple(name for name, part in parts if part is not None and part.ranking == "embedding")

    @property
    def digest(self) -> str:
        """Digest of the whole definition; equal definitions are one version."""
        return digest(self.model_dump(mode="json"))
