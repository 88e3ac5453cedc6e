"""The input template of a routine: what it may say, what it knows, and what is said when it does not work.

It knows `previous` (the last tick that succeeded), `last` (the last of any kind), `state`, `tick`, `event` and
`routine`. Before the first success there is a `previous` as well: it is false, `previous.first` is true, its times are
when the routine was created and its texts are empty. So a template that asks for what came "since
{{ previous.started_at }}" is right from the first tick on. What is not there is an error, never an empty place.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, fields
from datetime import datetime
from functools import lru_cache
from typing import TYPE_CHECKING, Any, NamedTuple
from zoneinfo import ZoneInfo

from jinja2 import StrictUndefined, TemplateSyntaxError, UndefinedError, meta, nodes
from jinja2.exceptions import SecurityError

from horarium.content import clean_text
from horarium.errors import HorariumError
from horarium.problems import near_miss
from horarium.routines import CronTrigger, Routine
from horarium.sandbox import FILE_NAME, Sandbox, compiled, render_in, unusable
from horarium.template_sizes import LARGEST, Refused, TooMuch
from horarium.template_values import Facts, Moment

if TYPE_CHECKING:
    from horarium.ledger.ticks import TickRecord

MAX_TEMPLATE_CHARS = 64_000
MAX_PARTS = 3_000  # a page of prose with loops has about a hundred
_AGAIN = "Correct it, then: horarium apply"


class TemplateFailed(HorariumError):
    """A routine's input template does not fit what there is at this tick; nothing was started."""

    code = "template_failed"


class TemplateProblem(NamedTuple):
    """What is wrong with a template; `line` from 1."""

    line: int
    sentence: str


@dataclass(frozen=True, slots=True, repr=False)
class Past(Facts):
    """`previous` and `last`: a tick that is over. One that never began has the time at which it was due."""

    tick: str
    run: str
    status: str
    result: str
    output: str
    reason: str
    message: str
    attempts: int
    scheduled_at: Moment
    started_at: Moment
    ended_at: Moment
    state: Mapping[str, Any]
    first: bool = False

    def __bool__(self) -> bool:
        return not self.first

    @classmethod
    def of(cls, tick: TickRecord) -> Past:
        """What a template is told of a tick of the ledger."""
        due = Moment.of(tick.scheduled_at)
        return cls(
            tick=tick.id,
            run=tick.run_id or "",
            status=tick.status,
            result=tick.output or "",
            output=tick.output or "",
            reason=tick.reason or "",
            message=tick.message or "",
            attempts=tick.attempts,
            scheduled_at=due,
            started_at=Moment.of(tick.started_at) if tick.started_at else due,
            ended_at=Moment.of(tick.closed_at) if tick.closed_at else due,
            state=dict(tick.state or {}),
        )

    @classmethod
    def none_yet(cls, created_at: datetime) -> Past:
        """In the place of a tick that there was not yet: everything before is as if it was done at the creation."""
        at = Moment.of(created_at)
        return cls("", "", "none", "", "", "", "", 0, at, at, at, {}, first=True)


@dataclass(frozen=True, slots=True, repr=False)
class Tick(Facts):
    """`tick`: the one that is asked for. The same at every attempt. Without a trigger, a person set it off."""

    id: str
    routine: str
    trigger: str
    source: str
    scheduled_at: Moment
    time_zone: str
    local: Moment

    @classmethod
    def of(cls, tick: TickRecord) -> Tick:
        """What a template is told of the tick that it is rendered for."""
        trigger = tick.routine_then.triggers.get(tick.trigger or "")
        zone = trigger.time_zone if isinstance(trigger, CronTrigger) else "UTC"
        return cls(
            id=tick.id,
            routine=tick.routine,
            trigger=tick.trigger or "",
            source=tick.source,
            scheduled_at=Moment.of(tick.scheduled_at),
            time_zone=zone,
            local=Moment.of(tick.scheduled_at, ZoneInfo(zone)),
        )


@dataclass(frozen=True, slots=True, repr=False)
class About(Facts):
    """`routine`: what its file says of it."""

    name: str
    agent: str
    description: str
    labels: Mapping[str, str]


_FIELDS: dict[str, tuple[str, ...]] = {
    name: tuple(field.name for field in fields(kind))
    for name, kind in (("previous", Past), ("last", Past), ("tick", Tick), ("routine", About))
}
KNOWN = ("previous", "last", "state", "tick", "event", "routine")


def values_of(
    *,
    routine: Routine,
    created_at: datetime,
    tick: Tick,
    previous: Past | None,
    last: Past | None,
    state: Mapping[str, Any],
    event: Mapping[str, Any] | None,
) -> dict[str, Any]:
    """What a template knows at a tick.

    Args:
        created_at: When the routine came to be: the time of a `previous` that there is not yet.
    """
    return {
        "previous": previous or Past.none_yet(created_at),
        "last": last or Past.none_yet(created_at),
        "state": dict(state),
        "tick": tick,
        "event": dict(event) if event is not None else None,
        "routine": About(routine.name, routine.agent, routine.description, dict(routine.labels)),
    }


def check_template(text: str) -> list[TemplateProblem]:
    """Everything that can be said of a template without rendering it; empty when it is well."""
    return list(_checked(text))


@lru_cache(maxsize=256)
def _checked(text: str) -> tuple[TemplateProblem, ...]:
    try:
        tree = _tree(text)
        problems = [
            TemplateProblem(line, f"there is no {kind} {name!r} in these templates{near_miss(name, known)}")
            for line, kind, name, known in unusable(tree)
        ]
        if not problems:
            problems = [*_unknown_names(tree), *_unknown_fields(tree)]
        if not problems:
            compiled(text)
    except TemplateSyntaxError as error:
        said = (error.message or "is no template").rstrip(".")
        problems = [TemplateProblem(error.lineno, said[:1].lower() + said[1:])]
    except (SyntaxError, RecursionError, MemoryError, ValueError):
        problems = [TemplateProblem(1, "is nested too deeply, or has a number that cannot be")]
    return tuple(sorted(set(problems)))


def render(text: str, values: Mapping[str, Any]) -> str:
    """Fill a template in. What it may do is bounded (horarium/sandbox.py), so it may be rendered in an event loop.

    Raises:
        TemplateFailed: It cannot be; names the line, what is not there, and how to guard it.
    """
    problems = check_template(text)
    if problems:
        said = "; ".join(f"line {line}: {sentence}" for line, sentence in problems)
        raise TemplateFailed(_sentence(f"The input template is wrong: {said}"), hint=_AGAIN)
    sandbox = Sandbox(_Missing)
    try:
        rendered = render_in(sandbox, compiled(text), values)
    except Exception as error:
        line = _line(error)
        said, hint = _said(error, text, line, values)
        raise TemplateFailed(_sentence(f"The input template fails at line {line}: {said}"), hint=hint) from error
    if len(rendered) > LARGEST:
        raise TemplateFailed(
            f"The input template came to {len(rendered):,} characters; at most {LARGEST:,} can be an input.",
            hint="Let it take less in: cut a text with | truncate(1000), a list with [:20].",
        )
    if not rendered.strip():
        raise TemplateFailed(
            "The input template came to an empty text.", hint="Let it say something in every case: {% else %} …"
        )
    return clean_text(rendered)[0]


def _sentence(said: str) -> str:
    return said if said.endswith("?") else f"{said}."


# ---- before rendering


def _tree(text: str) -> nodes.Template:
    """The parsed template.

    Raises:
        TemplateSyntaxError: It is none, or too large to be compiled in a short time.
    """
    if len(text) > MAX_TEMPLATE_CHARS:
        raise TemplateSyntaxError(f"is longer than {MAX_TEMPLATE_CHARS:,} characters", 1)
    tree = Sandbox(_Missing).parse(text) if text.count("{{") + text.count("{%") <= MAX_PARTS else None
    if tree is None or sum(1 for _ in tree.find_all(nodes.Node)) > MAX_PARTS:
        raise TemplateSyntaxError(f"has more than {MAX_PARTS:,} parts", 1)
    return tree


def _unknown_names(tree: nodes.Template) -> Iterator[TemplateProblem]:
    # `self` is Jinja's own, for blocks, which there are none of here.
    undeclared = (meta.find_undeclared_variables(tree) | {"self"}) - set(KNOWN)
    for node in tree.find_all(nodes.Name):
        if node.name in undeclared and node.ctx == "load":
            known = f"; it knows {', '.join(KNOWN)}"
            yield TemplateProblem(
                node.lineno, f"nothing is called {node.name!r} here{near_miss(node.name, KNOWN) or known}"
            )


def _unknown_fields(tree: nodes.Template) -> Iterator[TemplateProblem]:
    """Fields of `previous`, `last`, `tick` and `routine`, unless the template gives that name to something else."""
    stored = {node.name for node in tree.find_all(nodes.Name) if node.ctx != "load"}
    for node in tree.find_all((nodes.Getattr, nodes.Getitem)):
        owner, field = getattr(node, "node", None), _field(node)
        if isinstance(owner, nodes.Name) and owner.name in _FIELDS and owner.name not in stored:
            known = _FIELDS[owner.name]
            if field is not None and field not in known:
                miss = near_miss(field, known) or f"; it has {', '.join(known)}"
                yield TemplateProblem(node.lineno, f"`{owner.name}` has no field {field!r}{miss}")


def _field(node: nodes.Node) -> str | None:
    match node:
        case nodes.Getattr():
            return node.attr
        case nodes.Getitem(arg=nodes.Const(value=str(name))):
            return name
    return None


# ---- when rendering failed


class _Missing(StrictUndefined):
    """Anything done with it raises, with its name for a message; words are found where the template is at hand."""

    __slots__ = ()

    @property
    def _undefined_message(self) -> str:
        return str(self._undefined_name)


def _line(error: BaseException) -> int:
    """The template's line; Jinja puts frames of its own into the traceback."""
    found, trace = 1, error.__traceback__
    while trace is not None:
        if trace.tb_frame.f_code.co_filename == FILE_NAME:
            found = trace.tb_lineno
        trace = trace.tb_next
    return found


def _said(error: Exception, text: str, line: int, values: Mapping[str, Any]) -> tuple[str, str]:
    """What went wrong and what to do, in words."""
    match error:
        case UndefinedError():
            return _missing(str(error.message), text, line, values)
        case TooMuch():
            return str(error), "Take in less of it, or let the agent's tools look it up."
        case Refused():
            return str(error), _AGAIN
        case SecurityError():
            said = str(error).removesuffix(" is unsafe.").removeprefix("access to ")
            return f"{said} is not to be had here", "Use a filter instead: docs/guides/routines.md lists them."
        case RecursionError():
            return "it nests too deeply", "Make it simpler."
    reason = str(error).strip() or type(error).__name__
    return reason.splitlines()[0].rstrip("."), _AGAIN


def _missing(name: str, text: str, line: int, values: Mapping[str, Any]) -> tuple[str, str]:
    written = next((path for path, field, at in _paths(text) if field == name and at == line), name)
    if written.startswith(("event.", "event[")) and values.get("event") is None:
        said = f"`{written}`: no event set this tick off"
        return said, f"Guard it: {{% if event %}} … {{{{ {written} }}}} … {{% endif %}}"
    around = written.removesuffix(f".{name}").removesuffix(f"[{name!r}]")
    said = f"`{around}` has no {name!r}" if around != written else f"nothing is called {name!r}"
    guard = f"{{% if {written} is defined %}} … {{% endif %}}, or {{{{ {written} | default('…') }}}}"
    return said, f"Guard it: {guard}"


def _paths(text: str) -> Iterator[tuple[str, str, int]]:
    """Each `state.cursor` of a template: as it can be written, its last part, and its line."""
    for node in _tree(text).find_all((nodes.Getattr, nodes.Getitem)):
        parts: list[str] = []
        here: nodes.Node = node
        while isinstance(here, nodes.Getattr | nodes.Getitem) and (field := _field(here)) is not None:
            parts.append(field)
            here = here.node
        if isinstance(here, nodes.Name) and parts:
            written = (f".{part}" if part.isidentifier() else f"[{part!r}]" for part in reversed(parts))
            yield here.name + "".join(written), parts[0], node.lineno
