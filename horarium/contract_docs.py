"""Writes docs/contract.md from horarium/contract.py, and docs/settings.md from horarium/settings.py.

    python -m horarium.contract_docs contract > docs/contract.md

Documentation that is printed by the program cannot drift from it; a test compares the files. Works in a checkout
only, as the example that it quotes is a file there, which a test runs.
"""

from __future__ import annotations

import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import AwareDatetime, BaseModel
from pydantic.fields import FieldInfo
from pydantic_core import PydanticUndefined

from horarium import contract
from horarium.contract import (
    Approval,
    ApprovalState,
    CallerFunction,
    Decision,
    DirectCall,
    Message,
    Proof,
    Reassignment,
    Remember,
    Resolution,
    ResolutionState,
    RoutineOrder,
    RoutineOrdered,
    RunRequest,
    RunResult,
    RunStatus,
    StepSummary,
    SubRun,
    TickRequest,
    TickResult,
    ToolOutputs,
    Usage,
    Vote,
    Waiting,
    Wire,
)
from horarium.definitions import Limits
from horarium.proof import statement
from horarium.settings import Settings

EXAMPLE = Path("examples/temporal-cli/approve.sh")
_RUN = "run_01JD8M5Q0V7X3T2N9B6C4H1KZE"
_THREAD = "thr_01JD8M5Q0V7X3T2N9B6C4H1KZF"
_DIGEST = "sha256:9f2c…"
_ASKED = datetime(2026, 11, 21, 9, 30, tzinfo=UTC)
_USED = Usage(input_tokens=344, output_tokens=132)
_WAITING = Waiting(
    kind="approval", id="apr_7Q2X…", question="apr_7Q2X…", tool="open_ticket", text="Approve or reject open_ticket."
)
_VOTE = Vote(by="maria@ops", verdict="approve", digest=_DIGEST, at=_ASKED + timedelta(minutes=4), via="update")
_PROOF = Proof(key="key_5f3c…", expires_at=_ASKED + timedelta(hours=1), nonce="dHJpcGxldC1ub25jZQ", signature="3q2-7w…")
_APPROVAL = Approval(
    id="apr_7Q2X…",
    run=_RUN,
    step=f"{_RUN}/0005",
    tool="open_ticket",
    effect="external",
    digest=_DIGEST,
    preview='{"severity":"high","title":"cairo/cairo.h: No such file or directory"}',
    status="pending",
    requested_at=_ASKED,
)

_HANDED = Reassignment(
    approval="apr_7Q2X…", digest=_DIGEST, to=("bruno@ops", "role:heads"), by="maria@ops", comment="I am on leave."
)

# One example for each payload, made with the models themselves, so that it is valid.
EXAMPLES: tuple[Wire, ...] = (
    RunRequest(agent="log-triage", input="Read build.log and open a ticket.", requested_by="build-bot"),
    RunResult(
        run=_RUN,
        thread=_THREAD,
        agent="log-triage",
        version=1,
        status="completed",
        output="The ticket is open.",
        turns=3,
        steps=6,
        usage=_USED,
    ),
    RunStatus(
        run=_RUN,
        thread=_THREAD,
        agent="log-triage",
        version=1,
        status="requires_action",
        waiting_for=(_WAITING,),
        turns=2,
        steps=4,
        usage=_USED,
    ),
    _WAITING,
    _APPROVAL,
    Decision(approval="apr_7Q2X…", digest=_DIGEST, by="maria@ops", comment="Yes."),
    ApprovalState(
        approval=_APPROVAL.model_copy(
            update={
                "status": "approved",
                "votes": (_VOTE,),
                "decided_by": "maria@ops",
                "decided_at": _ASKED + timedelta(minutes=4),
            }
        )
    ),
    _VOTE,
    _HANDED,
    Remember(scope="thread", lasts=timedelta(hours=2), bounds={"severity": {"enum": ["low", "medium"]}}),
    _PROOF,
    Message(text="The header belongs to libcairo2-dev.", by="maria@ops"),
    CallerFunction(
        name="get_weather",
        description="The weather of a city.",
        parameters={"type": "object", "properties": {"city": {"type": "string"}}, "required": ["city"]},
    ),
    ToolOutputs(outputs={"call_01JD8M5Q0V7X3T2N9B6C4H1KZE_5": '{"celsius": -4}'}, by="build-bot"),
    Resolution(step=f"{_RUN}/0005", question="apr_2M8F…", verdict="supply", by="maria@ops", output='{"ticket": 17}'),
    ResolutionState(step=f"{_RUN}/0005", verdict="supply", by="maria@ops"),
    StepSummary(id=f"{_RUN}/0003", kind="tool_call", name="read_log", status="completed"),
    _USED,
    DirectCall(tool="open_ticket", arguments={"title": "cairo/cairo.h: No such file or directory", "severity": "high"}),
    SubRun(run="run_5T1K…", step=f"{_RUN}/0003", waiting_for=(_WAITING,)),
    TickRequest(routine="nightly-triage", trigger="mornings"),
    TickResult(
        tick="routine.nightly-triage-2026-11-23T06:00:00Z",
        routine="nightly-triage",
        status="failed",
        reason="tool_failed",
        message="read_log: no answer within 0:05:00",
        attempts=3,
        run=_RUN,
    ),
    RoutineOrder(
        action="put",
        routine="nightly-triage",
        by="maria@ops",
        definition={
            "agent": "triage",
            "input": "Triage what failed since {{ previous.started_at }}.",
            "triggers": {"mornings": {"cron": "0 6 * * 1-5", "time_zone": "Europe/London"}},
            "on_failure": "retry",
        },
    ),
    RoutineOrdered(action="put", routine="nightly-triage", changed=True, message="Created, with 1 trigger."),
)

_NAMES = (
    ("workflow", contract.RUN_WORKFLOW, "RunRequest → RunResult"),
    ("update", contract.UPDATE_DECIDE, "Decision → ApprovalState"),
    ("update", contract.UPDATE_REASSIGN, "Reassignment → ApprovalState"),
    ("signal", contract.SIGNAL_APPROVE, "Decision"),
    ("signal", contract.SIGNAL_REJECT, "Decision"),
    ("signal", contract.SIGNAL_MESSAGE, "Message"),
    ("signal", contract.SIGNAL_TOOL_OUTPUTS, "ToolOutputs"),
    ("update", contract.UPDATE_RESOLVE, "Resolution → ResolutionState"),
    ("signal", contract.SIGNAL_RESOLVE, "Resolution"),
    ("signal", contract.SIGNAL_SUB_RUN, "SubRun; the engine's own"),
    ("query", contract.QUERY_STATUS, "→ RunStatus"),
    ("query", contract.QUERY_APPROVALS, "→ list of Approval"),
    ("query", contract.QUERY_STEPS, "→ list of StepSummary"),
    ("workflow", contract.TICK_WORKFLOW, "TickRequest → TickResult"),
    ("workflow", contract.ROUTINE_ORDER_WORKFLOW, "RoutineOrder → RoutineOrdered"),
    ("task queue", contract.ENGINE_QUEUE, "the engine"),
    ("task queue", f"{contract.TOOL_QUEUE_PREFIX}<name>", "a tool worker"),
    *(("search attribute", name, "Keyword") for name in contract.SEARCH_ATTRIBUTES),
)


def contract_page(root: Path) -> str:
    """The whole of docs/contract.md."""
    return "\n".join(_contract((root / EXAMPLE).read_text("utf-8"))) + "\n"


def settings_page() -> str:
    """The whole of docs/settings.md."""
    return "\n".join(_settings()) + "\n"


def _contract(example: str) -> Iterator[str]:
    yield "# The wire contract"
    yield ""
    yield "<!-- Written by `make docs` from horarium/contract.py; do not edit. -->"
    yield ""
    yield "What a service in any language needs in order to start runs, follow them, talk to them and decide for them,"
    yield "with any Temporal client and no library of ours. Fields may be added; a name never changes, and no field is"
    yield "removed or given another meaning. Unknown fields are ignored, so old and new can talk."
    yield ""
    yield "Payloads are JSON (`encoding: json/plain`): one object in, one object out. Times are RFC 3339 in UTC,"
    yield "durations ISO 8601. The id of the workflow is the id of the run: choose it (`run_` and a ULID, or at most"
    yield "200 letters, digits, `-`, `_`, `.`, `:`), and starting it twice is one run. Start it with a workflow task"
    yield "timeout of 2 s, so that a dead worker is noticed soon."
    yield ""
    yield "## Names"
    yield ""
    yield from _table(("kind", "name", "payload"), ((kind, f"`{name}`", payload) for kind, name, payload in _NAMES))
    yield ""
    yield "A run that ends `failed` fails its workflow: the type of the failure is the reason, its first detail a"
    yield "RunResult. One that ends `cancelled` cancels its workflow. `completed` and `incomplete` are results."
    yield ""
    yield "A run with `functions` waits when its model calls one: `status` names the call, of kind `function_call`, and"
    yield "`submit_tool_outputs` brings what came of it. As with `message`, no proof is asked: whoever reaches the port"
    yield "of Temporal can send it. The first output of a call stands, and what does not count is noted in"
    yield "`refused_signals`. Nobody is asked to approve it: who carries a call out decides. After"
    yield "`function_expires_after` of `[tools]` the model is told that no output came."
    yield ""
    yield "A `RoutineOrder` changes a routine or sets it off; give its workflow any id that says what it is for you:"
    yield "the same id twice is one order. It fails with an error's code as its type when it cannot be obeyed. The"
    yield "fields of a `definition` are those of a routine's file (guides/routines.md). Where workers require proof,"
    yield "every action but `fire` needs one. Ticks are started by Temporal's schedules; a tick completes its workflow"
    yield "whatever its runs came to. The id of a tick that an order starts is `routine.<name>.<key>`, or has the time"
    yield "of the order instead of a key; one of a backfill has the id of the fire that it makes up for."
    yield ""
    yield "## Sizes"
    yield ""
    rows = (
        ("RunRequest.input", f"{contract.MAX_INLINE_INPUT_CHARS:,} characters; longer ones through the Python client"),
        ("RunResult.output", f"{contract.MAX_OUTPUT_CHARS:,} characters, then cut, and `output_truncated` is true"),
        ("Message.text, Resolution.output, Decision.answer", f"{contract.MAX_MESSAGE_CHARS:,} characters"),
        ("ToolOutputs.outputs", f"{contract.MAX_MESSAGE_CHARS:,} characters together; longer ones through the client"),
        ("RunRequest.functions", f"{contract.MAX_INLINE_FUNCTION_CHARS:,} characters of JSON; likewise"),
        ("Decision.arguments", f"{contract.MAX_ARGUMENT_CHARS:,} characters of JSON"),
    )
    yield from _table(("field", "at most"), rows)
    yield ""
    yield "## Payloads"
    for model in EXAMPLES:
        yield from _payload(model)
    yield from _fields_of(Limits)
    yield ""
    yield from _proof()
    yield ""
    yield "## With the `temporal` CLI alone"
    yield ""
    yield f"This is `{EXAMPLE}`; a test runs it."
    yield ""
    yield from _code("bash", example.rstrip())


def _proof() -> Iterator[str]:
    decision = Decision(
        approval="apr_7Q2X…", digest=_DIGEST, verdict="approve", by="maria@ops", comment="Yes.", proof=_PROOF
    )
    said = statement(_RUN, decision, key=_PROOF.key, expires_at=_PROOF.expires_at, nonce=_PROOF.nonce)
    resolution = Resolution(step=f"{_RUN}/0005", question="apr_2M8F…", verdict="retry", by="maria@ops")
    handed = statement(_RUN, _HANDED, key=_PROOF.key, expires_at=_PROOF.expires_at, nonce=_PROOF.nonce)
    order = RoutineOrder(action="run", routine="nightly-triage", by="maria@ops", input="Only issue 7.")
    ordered = statement(
        "order_01JD8M5Q0V7X3T2N9B6C4H1KZG", order, key=_PROOF.key, expires_at=_PROOF.expires_at, nonce=_PROOF.nonce
    )
    settled = statement(_RUN, resolution, key=_PROOF.key, expires_at=_PROOF.expires_at, nonce=_PROOF.nonce)
    yield "## What a proof signs"
    yield ""
    yield "`signature` is Ed25519 over this statement (JSON in UTF-8, keys sorted, no spaces), as base64url without"
    yield "padding."
    yield "`arguments`, `answer`, `output` and `comment` are `sha256:` and the hex digest of what was said (of"
    yield "`arguments` as JSON in that same form), or null; `expires_at` is in UTC with six decimals. Of a decision:"
    yield ""
    yield from _code("json", said.decode())
    yield ""
    yield "And of a resolution, which then has to name its `question`:"
    yield ""
    yield from _code("json", settled.decode())
    yield ""
    yield "Of a reassignment:"
    yield ""
    yield from _code("json", handed.decode())
    yield ""
    yield "Of an order about a routine, `order` is the id of its own workflow, and the proof is good for one workflow"
    yield "of that id. `definition` and `payload` are digests of their JSON in that same form, `input` and `note` of"
    yield "their text; `until`, `start` and `end` are times as `expires_at`; `order_key` is its `key`:"
    yield ""
    yield from _code("json", ordered.decode())


def _payload(model: Wire) -> Iterator[str]:
    yield from _fields_of(type(model))
    yield ""
    yield from _code("json", model.model_dump_json(indent=2, exclude_defaults=True))


def _fields_of(model: type[BaseModel]) -> Iterator[str]:
    yield ""
    yield f"### {model.__name__}"
    yield ""
    yield " ".join((model.__doc__ or "").split())
    yield ""
    rows = ((f"`{name}`", *_described(field)) for name, field in model.model_fields.items())
    yield from _table(("field", "type", "default", ""), rows)


def _settings() -> Iterator[str]:
    yield "# Settings"
    yield ""
    yield "<!-- Written by `make docs` from horarium/settings.py; do not edit. -->"
    yield ""
    yield "In `horarium.toml`, in the project's folder. Each can be overridden by the environment:"
    yield "`HORARIUM_TEMPORAL__ADDRESS` is `address` in `[temporal]`. A secret is a reference, `${NAME}`, to an"
    yield "environment variable, and is looked up where it is used. Unknown settings are errors."
    top = {name: field for name, field in Settings.model_fields.items() if _section(field) is None and name != "root"}
    yield from _settings_table("", "Above all sections.", top)
    for name, field in Settings.model_fields.items():
        section = _section(field)
        if section is not None:
            yield from _settings_of(name, section)


def _settings_of(path: str, section: type[BaseModel]) -> Iterator[str]:
    plain = {name: field for name, field in section.model_fields.items() if _section(field) is None}
    words = " ".join((section.__doc__ or "").split())
    if plain:
        # The docstrings begin with the section's name, which is the heading here.
        about = words.partition("`: ")[2]
        yield from _settings_table(path, about[:1].upper() + about[1:], plain)
    for name, field in section.model_fields.items():
        inner = _section(field)
        if inner is not None:
            kind = get_origin(field.annotation)
            yield from _settings_of(f"{path}.{name}" + (".<model>" if kind is dict else ""), inner)


def _settings_table(path: str, words: str, fields: dict[str, FieldInfo]) -> Iterator[str]:
    yield ""
    yield f"## `[{path}]`" if path else "## The file"
    yield ""
    yield words
    yield ""
    rows = ((f"`{name}`", *_described(field)) for name, field in fields.items())
    yield from _table(("setting", "type", "default", ""), rows)


def _section(field: FieldInfo) -> type[BaseModel] | None:
    kind = field.annotation
    if get_origin(kind) is dict:
        kind = get_args(kind)[1]
    if get_origin(kind) in (Union, UnionType):  # a section that may be missing
        kind = next(item for item in get_args(kind) if item is not NoneType)
    return kind if isinstance(kind, type) and issubclass(kind, BaseModel) else None


def _described(field: FieldInfo) -> tuple[str, str, str]:
    return _type(field.annotation), _default(field), field.description or ""


def _type(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return _type(get_args(kind)[0])
    if get_origin(kind) is Literal:
        return " or ".join(f"`{value}`" for value in get_args(kind))
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_type(item) for item in get_args(kind) if item is not NoneType)
    if get_origin(kind) is tuple:
        return f"list of {_type(get_args(kind)[0])}"
    if get_origin(kind) is dict:
        return f"object of {_type(get_args(kind)[1])}"
    return _PLAIN_TYPES.get(kind, kind.__name__ if isinstance(kind, type) else "any")


_PLAIN_TYPES: dict[Any, str] = {
    str: "string",
    int: "integer",
    float: "number",
    bool: "boolean",
    datetime: "time",
    AwareDatetime: "time",
    timedelta: "duration",
    Path: "path",
    Any: "any",
}


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True, validated_data={})
    if value is PydanticUndefined:
        return "required"
    if isinstance(value, timedelta):
        return f"`{_span(value)}`"
    if isinstance(value, BaseModel):
        return "its defaults"
    if value is None or value in ("", (), {}):
        return "none" if value is None else "empty"
    if isinstance(value, tuple):
        return ", ".join(f"`{item}`" for item in value)
    return f"`{str(value).lower() if isinstance(value, bool) else value}`"


def _span(value: timedelta) -> str:
    seconds = value.total_seconds()
    for unit, size in (("h", 3600), ("m", 60)):
        if seconds % size == 0:
            return f"{seconds / size:g}{unit}"
    return f"{seconds:g}s"


def _table(head: tuple[str, ...], rows: Any) -> Iterator[str]:
    yield f"| {' | '.join(head)} |"
    yield f"| {' | '.join('---' for _ in head)} |"
    for row in rows:
        yield f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in row)} |"


def _code(language: str, text: str) -> Iterator[str]:
    yield f"```{language}"
    yield text
    yield "```"


def main() -> None:
    """Print the page that is asked for."""
    root = Path(__file__).resolve().parent.parent
    pages = {"contract": lambda: contract_page(root), "settings": settings_page}
    wanted = sys.argv[1] if len(sys.argv) > 1 else "contract"
    if wanted not in pages:
        sys.exit(f"There is no page {wanted!r}. There are: {', '.join(pages)}.")
    sys.stdout.write(pages[wanted]())


if __name__ == "__main__":
    main()
