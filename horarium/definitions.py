"""What a user defines: agents, their limits, and how their model is asked.

Frozen, because a definition that a run was started with must not change under it: a change is
a new version. Unknown fields are errors, because a typo in a limit is a limit that is not there.
"""

from __future__ import annotations

from datetime import timedelta
from decimal import Decimal
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from horarium.content import digest
from horarium.durations import duration

OnStepFailure = Literal["tell", "fail", "hold"]
Duration = Annotated[timedelta, BeforeValidator(duration)]


class Definition(BaseModel):
    """Base of all definitions."""

    model_config = ConfigDict(frozen=True, extra="forbid", validate_default=True)


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


class Memory(Definition):
    """Notes that outlive a thread: each completed run leaves one, and later runs are given the latest."""

    scope: str = Field(min_length=1, max_length=200, description="Runs with the same scope share notes.")
    recall: int = Field(default=10, ge=0, le=100, description="How many of the latest notes a run is given.")


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
    family: str | None = Field(
        default=None, description="The model's own name, e.g. `gpt-5.3`, where the provider cannot tell it."
    )


def _a_name(name: str) -> str:
    if not name or len(name) > 63 or not all(c.isalnum() or c in "-_" for c in name) or not name[0].isalnum():
        raise ValueError("a name has 1 to 63 letters, digits, '-' or '_', and begins with a letter or digit")
    return name


def _a_model(model: str) -> str:
    provider, _, rest = model.partition(":")
    known = ("foundry", "openai", "local", "scripted")
    if provider not in known:
        raise ValueError(f"a model is 'provider:name', with one of the providers {', '.join(known)}")
    if provider != "local" and not rest:
        raise ValueError(f"say which model of {provider!r}, e.g. {provider}:gpt-5.3")
    return model


class Agent(Definition):
    """A definition of an agent; a run is one execution of one version of it."""

    name: Annotated[str, AfterValidator(_a_name)]
    model: Annotated[str, AfterValidator(_a_model)] = Field(
        description="`foundry:<deployment>`, `openai:<model>`, `local`, or `scripted:<file>`."
    )
    description: str = ""
    instructions: str = Field(default="", description="The system prompt; in YAML, `instructions_file` names its file.")
    tools: tuple[str, ...] = Field(default=(), description="Names of tools, as their workers announce them.")
    procedure: tuple[str, ...] = Field(
        default=(),
        description="The tools in the order to be called: each turn offers the model only the next.",
    )
    memory: Memory | None = Field(default=None, description="None: the agent remembers nothing between threads.")
    limits: Limits = Limits()
    settings: ModelSettings = ModelSettings()
    on_step_failure: OnStepFailure = Field(
        default="tell",
        description="When a tool broke for good: tell the model, fail the run, or hold it for a person. "
        "A model that failed for good fails the run, or holds it.",
    )
    metadata: dict[str, str] = {}

    def __init__(
        self,
        name: str,
        *,
        model: str,
        description: str = "",
        instructions: str = "",
        tools: tuple[str, ...] | list[Any] = (),
        procedure: tuple[str, ...] | list[str] = (),
        memory: Memory | None = None,
        limits: Limits | None = None,
        settings: ModelSettings | None = None,
        on_step_failure: OnStepFailure = "tell",
        metadata: dict[str, str] | None = None,
    ) -> None:
        super().__init__(
            **{
                "name": name,
                "model": model,
                "description": description,
                "instructions": instructions,
                "tools": tuple(item if isinstance(item, str) else item.name for item in tools),
                "procedure": tuple(procedure),
                "memory": memory,
                "limits": limits or Limits(),
                "settings": settings or ModelSettings(),
                "on_step_failure": on_step_failure,
                "metadata": metadata or {},
            }
        )

    # Only a nicer signature: validation of a mapping must still go field by field, not through here.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]

    @model_validator(mode="after")
    def _consistent(self) -> Agent:
        if len(set(self.tools)) != len(self.tools):
            raise ValueError("a tool is listed twice in `tools`")
        missing = [name for name in self.procedure if name not in self.tools]
        if missing:
            raise ValueError(f"`procedure` names {missing[0]!r}, which is not in `tools`")
        return self

    @property
    def digest(self) -> str:
        """Digest of the whole definition; equal definitions are one version."""
        return digest(self.model_dump(mode="json"))
