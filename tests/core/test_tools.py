"""Tools: the schema comes from the signature, the words from the docstring, mistakes are named."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from typing import Annotated, Any, Literal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import BaseModel, Field

from horarium.errors import ConfigError, ToolError
from horarium.schemas import schema_problem
from horarium.tools import Effect, NotPerformed, Tool, ToolContext, ToolSpec, tool

CONTEXT = ToolContext(
    run_id="run_1", step_id="run_1/0002", idempotency_key="k", attempt=1, agent="clerk", tenant="default"
)


class Line(BaseModel):
    """One line of an invoice."""

    text: str
    cents: int = 0


@dataclass
class Address:
    street: str


@tool(effect=Effect.EXTERNAL, timeout=timedelta(seconds=9), attempts=5)
def pay(
    amount: Annotated[int, Field(ge=1)],
    to: Literal["ann", "bob"],
    context: ToolContext,
    lines: list[Line] | None = None,
    address: Address | None = None,
) -> str:
    """Pay somebody.

    At once, and for good.

    Args:
        amount: In cents.
        to: Who gets it.
    """
    return f"{context.attempt}: paid {amount} to {to} for {len(lines or [])}"


def test_the_schema_is_that_of_the_signature_and_the_words_are_the_docstrings() -> None:
    parameters = pay.spec.parameters

    assert pay.spec.description.startswith("Pay somebody.")
    assert "At once, and for good." in pay.spec.description
    assert "Args" not in pay.spec.description
    assert parameters["required"] == ["amount", "to"]
    assert parameters["additionalProperties"] is False
    assert parameters["properties"]["amount"] == {"description": "In cents.", "minimum": 1, "type": "integer"}
    assert parameters["properties"]["to"]["enum"] == ["ann", "bob"]
    assert set(parameters["$defs"]) == {"Line", "Address"}
    assert '"title"' not in pay.spec.model_dump_json()
    assert (pay.name, pay.spec.effect, pay.spec.timeout.seconds, pay.spec.attempts) == ("pay", "external", 9, 5)


def test_the_context_is_no_argument_of_the_model() -> None:
    assert "context" not in pay.spec.parameters["properties"]
    assert pay.bind({"amount": 7, "to": "ann"}, CONTEXT)["context"] is CONTEXT


def test_arguments_arrive_typed_as_the_function_declares_them() -> None:
    bound = pay.bind({"amount": 7, "to": "ann", "lines": [{"text": "x"}], "address": {"street": "s"}}, CONTEXT)

    assert bound["lines"] == [Line(text="x")]
    assert bound["address"] == Address("s")
    assert pay(**bound) == "1: paid 7 to ann for 1"


@pytest.mark.parametrize(
    "wrong", [{}, {"amount": 0, "to": "ann"}, {"amount": 1, "to": "cem"}, {"amount": 1, "to": "ann", "extra": 1}]
)
def test_arguments_that_do_not_fit_are_refused_in_words_for_the_model(wrong: dict[str, Any]) -> None:
    assert schema_problem(pay.spec.parameters, wrong)
    with pytest.raises(ToolError, match="do not fit 'pay'"):
        pay.bind(wrong, CONTEXT)


def test_a_problem_says_where_it_is() -> None:
    problem = schema_problem(pay.spec.parameters, {"amount": 1, "to": "ann", "address": {"street": 5}})

    assert problem is not None
    assert "address" in problem


json_values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@given(st.fixed_dictionaries({}, optional={name: json_values for name in ("amount", "to", "lines", "address")}))
def test_what_fits_the_schema_can_be_bound(arguments: dict[str, Any]) -> None:
    if schema_problem(pay.spec.parameters, arguments) is None:
        assert pay.bind(arguments, CONTEXT)["to"] in ("ann", "bob")


def test_a_tool_whose_effect_is_unsaid_is_external() -> None:
    @tool
    def act() -> None:
        """Act."""

    assert isinstance(act, Tool)
    assert (act.spec.effect, act.spec.parameters["properties"]) == (Effect.EXTERNAL, {})
    assert act.bind({}, CONTEXT) == {}


def test_name_and_description_can_be_said_and_a_probe_is_announced() -> None:
    @tool(name="book-room", description="Book it.", effect="idempotent", verify=lambda context, given: NotPerformed())
    def book(room: str) -> None:
        """Something else."""

    spec = ToolSpec.model_validate(book.spec.model_dump(mode="json"))
    assert spec == book.spec
    assert (spec.name, spec.description, spec.effect, spec.has_verify) == ("book-room", "Book it.", "idempotent", True)


def untyped(x) -> None: ...  # type: ignore[no-untyped-def]
def starred(*x: int) -> None: ...
def doubly_starred(**x: int) -> None: ...
def positional(x: int, /) -> None: ...
def indescribable(x: Callable[[int], int]) -> None: ...
def fine(x: int) -> None: ...


@pytest.mark.parametrize(
    ("function", "options", "said"),
    [
        (untyped, {}, "Parameter 'x' of tool 'untyped' has no type"),
        (starred, {}, "takes \\*x"),
        (doubly_starred, {}, "takes \\*\\*x"),
        (positional, {}, "which a schema cannot describe"),
        (indescribable, {}, "cannot be described by a schema"),
        (fine, {"name": "two words"}, "'two words' is not usable"),
        (fine, {"name": "x" * 65}, "is not usable"),
        (fine, {"effect": "writes"}, "Say one of: read, idempotent, external"),
    ],
)
def test_what_cannot_be_a_tool_is_refused_when_it_is_defined(function: Any, options: Any, said: str) -> None:
    with pytest.raises(ConfigError, match=said):
        tool(**options)(function)


def test_the_schema_digest_changes_with_the_parameters_alone() -> None:
    base = ToolSpec(name="pay", parameters={"type": "object"})

    assert ToolSpec(name="pay", parameters={"type": "object"}, description="Words.").schema_digest == base.schema_digest
    assert ToolSpec(name="pay", parameters={"type": "object", "required": ["x"]}).schema_digest != base.schema_digest
    assert ToolSpec(name="ship", parameters={"type": "object"}).schema_digest != base.schema_digest
