"""A small Jinja in which a template cannot hang, fill or look around in the process that renders it.

Whoever writes a template is trusted with an agent, not with the engine. So there is a list of what a template may use
(statements, filters, tests, methods), and everything it does is counted: each operation costs the size of what it
takes and of what it makes, each turn of a loop the size of the loop's body. The count is the same on every machine
and at every attempt, where a clock would not be.
"""

from __future__ import annotations

from collections.abc import Callable, ItemsView, Iterable, Iterator, KeysView, Mapping, ValuesView
from dataclasses import is_dataclass
from datetime import date, time, timedelta
from functools import lru_cache, wraps
from types import CodeType
from typing import Any, cast

from jinja2 import Template, nodes, pass_eval_context
from jinja2.filters import FILTERS, make_attrgetter
from jinja2.runtime import Context, LoopContext, Undefined
from jinja2.sandbox import ImmutableSandboxedEnvironment
from jinja2.tests import TESTS
from jinja2.utils import Namespace
from jinja2.visitor import NodeTransformer

from horarium.template_sizes import (
    CHECKS,
    LARGEST,
    TOO_LARGE,
    WORK,
    Refused,
    TooMuch,
    check_power,
    check_times,
    together,
    weight,
)
from horarium.template_values import json_of, text_of, whole

FILE_NAME = "<template>"


def _names(text: str) -> tuple[str, ...]:
    return tuple(text.split())


FILTERS_USED = _names(
    "abs batch capitalize count d default dictsort first float groupby indent int items join last length list lower "
    "map max min reject rejectattr replace reverse round select selectattr slice sort string sum title tojson trim "
    "truncate unique upper wordcount"
)
TESTS_USED = _names(
    "boolean defined divisibleby eq equalto even false float ge gt in integer iterable le lower lt mapping ne none "
    "number odd sequence string true undefined upper == != > >= < <="
)
_METHODS: tuple[tuple[type, tuple[str, ...]], ...] = (
    (
        str,
        _names(
            "capitalize count endswith find isdigit lower lstrip removeprefix removesuffix rstrip split splitlines "
            "startswith strip title upper"
        ),
    ),
    (dict, _names("get items keys values")),
    (tuple, _names("grouper list")),
    (
        date,
        _names(
            "date day hour isoformat isoweekday microsecond minute month second strftime time timestamp weekday year"
        ),
    ),
    (time, _names("hour isoformat minute second")),
    (timedelta, _names("days seconds total_seconds")),
    (
        LoopContext,
        _names("changed cycle depth depth0 first index index0 last length nextitem previtem revindex revindex0"),
    ),
)
_STATEMENTS: tuple[type[nodes.Node], ...] = (
    *(nodes.Template, nodes.Output, nodes.TemplateData, nodes.For, nodes.If, nodes.Assign, nodes.AssignBlock),
    *(nodes.With, nodes.FilterBlock, nodes.Name, nodes.NSRef, nodes.Const, nodes.Tuple, nodes.List, nodes.Dict),
    *(nodes.Pair, nodes.Keyword, nodes.CondExpr, nodes.Filter, nodes.Test, nodes.Call, nodes.Getitem, nodes.Getattr),
    *(nodes.Slice, nodes.Concat, nodes.Compare, nodes.Operand, nodes.BinExpr, nodes.UnaryExpr),
)


class _Namespace(Namespace):
    """Not to be written either: it may hold others, and those others, without end."""

    def __repr__(self) -> str:
        raise whole(self)


class Sandbox(ImmutableSandboxedEnvironment):
    """Renders one template once: the work is counted here."""

    intercepted_binops = frozenset({"+", "-", "*", "/", "//", "**", "%"})

    def __init__(self, undefined: type[Undefined]) -> None:
        # Unoptimized: the optimizer would compute constants at compile time, where nothing is counted.
        super().__init__(undefined=undefined, autoescape=False, optimized=False, keep_trailing_newline=True)
        self.left = WORK
        self.globals = {"range": self.globals["range"], "namespace": _Namespace}
        own: dict[str, Any] = {
            **{name: FILTERS[name] for name in FILTERS_USED},
            "join": self._join,
            "replace": self._replace,
            "string": text_of,
            "tojson": json_of,
        }
        self.filters = {name: self._counted(name, filter_) for name, filter_ in own.items()}
        self.filters |= {"_made": self.made, "_joined": self._joined, "_seen": self._seen, "_each": self._each}
        self.tests = {name: self._counted(name, cast("Callable[..., Any]", TESTS[name])) for name in TESTS_USED}
        self.finalize = self._written

    # ---- counting

    def spend(self, cost: int) -> None:
        """Count work.

        Raises:
            TooMuch: It is more than a template may do.
        """
        self.left -= cost
        if self.left < 0:
            raise TooMuch("it does more work than a template may: it repeats too much, or makes too long texts")

    def seen(self, *values: Any) -> None:
        """Count what is looked at."""
        for value in values:
            self.spend(weight(value))

    def made(self, value: Any) -> Any:
        """Count what was made; what comes one by one becomes a list, and no longer one than a list may be."""
        if isinstance(value, Iterator | KeysView | ValuesView | ItemsView):
            kept: list[Any] = []
            size = 0
            for item in value:
                size += 1 + weight(item)
                self.spend(1)
                if size > LARGEST:
                    raise TooMuch(TOO_LARGE)
                kept.append(item)
            value = kept
        self.spend(1 + weight(value))
        return value

    def _counted(self, name: str, function: Callable[..., Any]) -> Callable[..., Any]:
        @wraps(function)
        def counted(*args: Any, **kwargs: Any) -> Any:
            self.seen(*args, *kwargs.values())
            if (check := CHECKS.get(name)) is not None:
                check(*args, **kwargs)
            return self.made(function(*args, **kwargs))

        return counted

    def _seen(self, value: Any) -> Any:
        self.seen(value)
        return value

    def _each(self, values: Any, body: int) -> Any:
        """What a loop goes over; each turn costs the size of its body."""
        if isinstance(values, Undefined):
            return values
        values = values if hasattr(values, "__len__") else list(values)
        self.spend((1 + len(values)) * body)
        return values

    # ---- operations

    def call(__self, __context: Context, __obj: Any, *args: Any, **kwargs: Any) -> Any:
        """Call a method, `range` or `namespace`; nothing else is in reach."""
        __self.seen(getattr(__obj, "__self__", None), *args, *(kwargs[name] for name in kwargs if name[0] != "_"))
        return __self.made(super().call(__context, __obj, *args, **kwargs))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """Compute, when the result is sure to be of a sane size."""
        self.seen(left, right)
        match operator:
            case "*":
                check_times(left, right)
            case "**":
                check_power(left, right)
            case "%" if isinstance(left, str):
                raise Refused("`%` is for numbers here; put texts together with ~")
        return self.made(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> None:
        """Let `str.format` be a method like others, which is not on the list: its widths would be filled up."""

    def is_safe_attribute(self, obj: Any, attr: str, value: Any) -> bool:
        """Fields of what we hand in, and methods that only look."""
        if attr.startswith("_"):
            return False
        if isinstance(obj, Namespace):
            return True
        if is_dataclass(obj):
            return attr in obj.__dataclass_fields__
        return any(isinstance(obj, kind) and attr in names for kind, names in _METHODS)

    def getattr(self, obj: Any, attribute: str) -> Any:
        """An entry of a mapping goes before its method: an event may well have `items`."""
        if isinstance(obj, dict) and attribute in obj:
            return obj[attribute]
        return super().getattr(obj, attribute)

    @pass_eval_context
    def _written(self, _: nodes.EvalContext, value: Any) -> str:
        # With a context to pass, the compiler cannot write constants by itself.
        self.seen(value)
        return str(self.made(text_of(value)))

    def _joined(self, values: list[Any]) -> str:
        self.seen(values)
        return str(self.made(together([text_of(value) for value in values], "")))

    def _join(self, values: Iterable[Any], d: str = "", attribute: str | int | None = None) -> str:
        if attribute is not None:
            values = map(make_attrgetter(self, attribute), values)
        return together([text_of(value) for value in values], text_of(d))

    def _replace(self, text: Any, old: str, new: str, count: int = -1) -> str:
        text, old, new = text_of(text), text_of(old), text_of(new)
        if text.count(old) * len(new) > LARGEST:
            raise TooMuch(TOO_LARGE)
        return str(text.replace(old, new, count))


@lru_cache(maxsize=256)
def compiled(text: str) -> CodeType:
    """A template as code, in which everything is counted. Check it with `unusable` first: here nothing is refused.

    Raises:
        TemplateSyntaxError: It is no template.
    """
    sandbox = Sandbox(Undefined)
    tree = _Counting().visit(sandbox.parse(text))
    return sandbox.compile(tree, filename=FILE_NAME)


def render_in(sandbox: Sandbox, code: CodeType, values: Mapping[str, Any]) -> str:
    """Render what `compiled` gave.

    Raises:
        Exception: Whatever a template can come upon.
    """
    return Template.from_code(sandbox, code, sandbox.make_globals(None)).render(**values)


def unusable(tree: nodes.Template) -> Iterator[tuple[int, str, str, tuple[str, ...]]]:
    """What a template uses that there is not: line, what kind of thing, its name, and those there are."""
    for node in tree.find_all(nodes.Node):
        name = type(node).__name__.lower()
        if not isinstance(node, _STATEMENTS):
            yield node.lineno, "statement", name, ()
        elif isinstance(node, nodes.For) and node.recursive:
            yield node.lineno, "statement", "for … recursive", ()
        elif isinstance(node, nodes.Filter) and node.name not in FILTERS_USED:
            yield node.lineno, "filter", node.name, FILTERS_USED
        elif isinstance(node, nodes.Test) and node.name not in TESTS_USED:
            yield node.lineno, "test", node.name, TESTS_USED


class _Counting(NodeTransformer):
    """Puts the counting filters around what the environment is not asked about."""

    def visit_For(self, node: nodes.For) -> nodes.Node:
        body = sum(1 for _ in node.find_all(nodes.Node))
        self.generic_visit(node)
        node.iter = _filter("_each", node.iter, nodes.Const(body, lineno=node.lineno))
        return node

    def visit_Output(self, node: nodes.Output) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [
            nodes.Const(child.data, lineno=child.lineno) if isinstance(child, nodes.TemplateData) else child
            for child in node.nodes
        ]
        return node

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_joined", nodes.List(node.nodes, lineno=node.lineno))

    def visit_Compare(self, node: nodes.Compare) -> nodes.Node:
        self.generic_visit(node)
        node.expr = _filter("_seen", node.expr)
        for operand in node.ops:
            operand.expr = _filter("_seen", operand.expr)
        return node

    def visit_Getitem(self, node: nodes.Getitem) -> nodes.Node:
        self.generic_visit(node)
        return _filter("_made", node) if isinstance(node.arg, nodes.Slice) else node

    def _visit_made(self, node: Any) -> nodes.Node:
        self.generic_visit(node)
        return node if getattr(node, "ctx", "load") == "store" else _filter("_made", node)

    visit_List = visit_Dict = visit_Tuple = _visit_made


def _filter(name: str, value: Any, *args: nodes.Expr) -> nodes.Filter:
    return nodes.Filter(value, name, list(args), [], None, None, lineno=value.lineno)
