"""Input templates: what they say, what they know, and that none of them can hang or look around."""

from __future__ import annotations

import time
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest

from horarium.ledger.ticks import TickRecord
from horarium.routines import Routine
from horarium.template_values import Moment
from horarium.templates import MAX_PARTS, Past, TemplateFailed, Tick, check_template, render, values_of

CREATED = datetime(2026, 11, 1, 6, tzinfo=UTC)
DUE = datetime(2026, 7, 21, 5, tzinfo=UTC)
ROUTINE = Routine.model_validate(
    {
        "name": "triage",
        "agent": "clerk",
        "input": "x",
        "triggers": {"mornings": {"cron": "0 6 * * *", "time_zone": "Europe/London"}},
        "labels": {"team": "ops"},
    }
)
EVENT = {"issues": [{"n": 1, "title": "leak"}, {"n": 2, "title": "crash"}], "items": "own"}


def tick_record(**changes: Any) -> TickRecord:
    values = {
        **dict.fromkeys(TickRecord.__dataclass_fields__, None),
        "id": "routine.triage-2026-07-21T05:00:00Z",
        "routine": "triage",
        "trigger": "mornings",
        "source": "schedule",
        "scheduled_at": DUE,
        "definition": ROUTINE.model_dump(mode="json"),
        "status": "completed",
        "attempts": 1,
        "run_id": "run_1",
        "output": "All quiet.",
        "started_at": DUE + timedelta(seconds=2),
        "closed_at": DUE + timedelta(minutes=3),
    }
    return TickRecord(**(values | changes))


def values(
    *, previous: Past | None = None, event: Mapping[str, Any] | None = None, state: Mapping[str, Any] | None = None
) -> dict[str, Any]:
    return values_of(
        routine=ROUTINE,
        created_at=CREATED,
        tick=Tick.of(tick_record()),
        previous=previous,
        last=previous,
        state=state or {},
        event=event,
    )


def failure(text: str, **known: Any) -> TemplateFailed:
    with pytest.raises(TemplateFailed) as failed:
        render(text, values(**known))
    return failed.value


# ---- what they say


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("Since {{ previous.started_at }}: {{ previous.result }}", "Since 2026-07-21T05:00:02Z: All quiet."),
        ("{% if previous %}again{% else %}first{% endif %}", "again"),
        ("{{ tick.local }} is {{ tick.local.strftime('%A, %d %B') }}", "2026-07-21T06:00:00+01:00 is Tuesday, 21 July"),
        ("{{ tick.scheduled_at - previous.scheduled_at }} in {{ tick.time_zone }}", "0ms in Europe/London"),
        ("{{ previous.ended_at - previous.started_at }}", "2m 58s"),
        ("{{ tick.routine }} {{ tick.trigger }} {{ tick.id }}", "triage mornings routine.triage-2026-07-21T05:00:00Z"),
        ("{% for i in event.issues if i.n > 1 %}{{ loop.index }}. {{ i.title | title }}\n{% endfor %}", "1. Crash\n"),
        ("{{ event.issues | map(attribute='title') | join(', ') }}", "leak, crash"),
        ("{{ event.issues | selectattr('n', 'gt', 1) | list }}", '[{"n": 2, "title": "crash"}]'),
        ("{{ event.items }} {{ event.issues[0:1] | length }}", "own 1"),
        ("{% for k, v in event.issues[0].items() %}{{ k }}={{ v }} {% endfor %}", "n=1 title=leak "),
        ("{{ state.cursor | default('the beginning') }} {{ 'x' if state.cursor is defined }}.", "the beginning ."),
        ("{% set ns = namespace(n=0) %}{% for i in range(5) %}{% set ns.n = ns.n + i %}{% endfor %}{{ ns.n }}", "10"),
        ("{% set line %}{{ tick.trigger }}!{% endset %}{{ line }}{% raw %}{{ x }}{% endraw %}", "mornings!{{ x }}"),
        (
            "{% filter upper %}{{ routine.labels.team }}{% endfilter %} {{ 'at ' ~ tick.local }}",
            "OPS at 2026-07-21T06:0",
        ),
        ("{{ [tick.local, 1, none] }}", '["2026-07-21T06:00:00+01:00", 1, null]'),
        ("{{ 3 in [1, 2, 3] }} {{ 'leak' == event.issues[0].title }} {{ 2 ** 10 }}", "True True 1024"),
        ("Ein Zeichen <b>&</b> bleibt.\n", "Ein Zeichen <b>&</b> bleibt.\n"),
    ],
)
def test_a_template_says_what_it_knows(text: str, said: str):
    assert check_template(text) == []
    assert render(text, values(previous=Past.of(tick_record()), event=EVENT)).startswith(said)


def test_before_the_first_success_previous_stands_for_the_time_of_creation():
    known = values()

    assert render("Since {{ previous.started_at }}.", known) == "Since 2026-11-01T06:00:00Z."
    assert render("{{ previous.first }} {{ 'again' if previous else 'new' }}", known) == "True new"
    assert render("[{{ previous.result }}{{ last.status }}]", known) == "[none]"


def test_a_tick_that_never_began_has_the_time_when_it_was_due():
    skipped = Past.of(tick_record(status="skipped", reason="overlap", started_at=None, run_id=None, output=None))

    said = render(
        "{{ last.status }}: {{ last.reason }} at {{ last.started_at }}{{ last.run }}", values(previous=skipped)
    )

    assert said == "skipped: overlap at 2026-07-21T05:00:00Z"


def test_a_tick_that_a_person_set_off_is_in_utc():
    tick = Tick.of(tick_record(trigger=None, source="manual"))

    assert (tick.trigger, tick.time_zone, str(tick.local)) == ("", "UTC", "2026-07-21T05:00:00Z")


def test_what_cannot_be_stored_does_not_get_into_an_input():
    assert render(r"a{{ '\x00' }}b", values()) == "a\ufffdb"


# ---- what is wrong before anything is rendered


@pytest.mark.parametrize(
    ("text", "line", "said"),
    [
        ("a\n{% if %}", 2, "expected an expression, got 'end of statement block'"),
        ("{{ previus.started_at }}", 1, "nothing is called 'previus' here; did you mean 'previous'?"),
        ("{{ foo }}", 1, "nothing is called 'foo' here; it knows previous, last, state, tick, event, routine"),
        ("{{ self }}", 1, "nothing is called 'self' here; it knows"),
        ("a\n\n{{ previous.start_at }}", 3, "`previous` has no field 'start_at'; did you mean 'started_at'?"),
        ("{{ tick['zone'] }}", 1, "`tick` has no field 'zone'; did you mean 'time_zone'?"),
        ("{{ 'x' | uper }}", 1, "there is no filter 'uper' in these templates; did you mean 'upper'?"),
        ("{{ [1] | map('x') | random }}", 1, "there is no filter 'random' in these templates"),
        ("{{ 1 is odds }}", 1, "there is no test 'odds' in these templates; did you mean 'odd'?"),
        ("{% macro m() %}{% endmacro %}", 1, "there is no statement 'macro' in these templates"),
        ("{% include 'x' %}", 1, "there is no statement 'include' in these templates"),
        ("{% for i in [1] recursive %}{% endfor %}", 1, "there is no statement 'for … recursive' in these templates"),
        ("{{ " + "(" * 5000 + "1" + ")" * 5000 + " }}", 1, "is nested too deeply"),
        ("\n{% for i in [1] %}{% set loop = 1 %}{% endfor %}", 2, "can't assign to special loop variable"),
        ("{% for i in [1] %}" * 60 + "x" + "{% endfor %}" * 60, 1, "is nested too deeply"),
        ("{{ " + "9" * 20_000 + " }}", 1, "is nested too deeply, or has a number that cannot be"),
        ("{{ 1 }}" * (MAX_PARTS + 1), 1, "has more than 3,000 parts"),
        ("{{ [" + "1," * MAX_PARTS + "] }}", 1, "has more than 3,000 parts"),
        ("x" * 64_001, 1, "is longer than 64,000 characters"),
    ],
)
def test_a_wrong_template_is_told_with_its_line(text: str, line: int, said: str):
    (found,) = check_template(text)

    assert found.line == line
    assert found.sentence.startswith(said)
    assert found.sentence in failure(text).message


def test_a_name_that_the_template_makes_itself_is_known():
    assert check_template("{% set a = 1 %}{{ a }}{% for tick in [1] %}{{ tick.whatever }}{% endfor %}") == []


# ---- what goes wrong while rendering


@pytest.mark.parametrize(
    ("text", "message", "hint"),
    [
        (
            "a\n{{ state.cursor }}",
            "The input template fails at line 2: `state` has no 'cursor'.",
            "Guard it: {% if state.cursor is defined %} … {% endif %}, or {{ state.cursor | default('…') }}",
        ),
        (
            "{{ state['my key'] + 1 }}",
            "The input template fails at line 1: `state` has no 'my key'.",
            "Guard it: {% if state['my key'] is defined %} … {% endif %}, or {{ state['my key'] | default('…') }}",
        ),
        ("{% if state.a.b %}{% endif %}", "The input template fails at line 1: `state` has no 'a'.", "Guard it: {% if"),
        (
            "{{ event.issue.title }}",
            "The input template fails at line 1: `event.issue`: no event set this tick off.",
            "Guard it: {% if event %} … {{ event.issue }} … {% endif %}",
        ),
        ("{{ 1 / 0 }}", "The input template fails at line 1: division by zero.", "Correct it, then: horarium apply"),
        ("{{ tick }}", "The input template fails at line 1: it writes a whole tick, which has no text; say", "Correct"),
        ("{% if event %}x{% endif %} ", "The input template came to an empty text.", "Let it say something in every"),
    ],
)
def test_a_template_that_fails_says_where_why_and_how_to_guard_it(text: str, message: str, hint: str):
    failed = failure(text)

    assert failed.code == "template_failed"
    assert failed.message.startswith(message)
    assert (failed.hint or "").startswith(hint)


# ---- what none of them can do

LOOP = "{% for i in range(99999) %}"
HOSTILE = [
    "{{ 'x' * 10**9 }}",
    "{{ [1] * 10**9 }}",
    "{{ [[1] * 99999] * 99999 }}",
    "{{ 9 ** 99999999 }}",
    "{{ 9 ** (9 ** (9 ** 9)) }}",
    LOOP + LOOP + "{% endfor %}{% endfor %}",
    LOOP + "{% if tick %}{% endif %}" * 500 + "{% endfor %}x",
    LOOP + "lorem ipsum" * 1000 + "{% endfor %}",
    "{% set x %}" + LOOP + "lorem ipsum" * 1000 + "{% endfor %}{% endset %}x",
    "{% set ns = namespace(x=9) %}" + LOOP + "{% set ns.x = ns.x * ns.x %}{% endfor %}x",
    "{% set ns = namespace(x='9') %}" + LOOP + "{% set ns.x = ns.x ~ ns.x %}{% endfor %}x",
    "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = [ns.x, ns.x] %}{% endfor %}x",
    "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = {'a': ns.x, 'b': ns.x} %}{% endfor %}x",
    "{% set ns = namespace(x=[1]) %}" + LOOP + "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x == [ns.x] }}",
    "{% set ns = namespace(n=1) %}{% set ns.a = ns %}{{ ns }}",
    "{% set a = namespace(n=1) %}" + "{% set a = namespace(x=a, y=a) %}" * 99 + "{{ a | upper }}",
    "{% set a = namespace(n=1) %}" + "{% set a = namespace(x=a, y=a) %}" * 99 + "{{ [a] | map('title') | list }}",
    "{% set a = 'x' * 99999 %}" + "{% set a = a ~ a %}" * 30 + "x",
    "{% set a = 'x' * 999 %}" + "{% set a %}{{ a }}{{ a }}{% endset %}" * 30 + "x",
    "{% set a = 'x' * 199999 %}" + LOOP + "{% set b = a.count('y') %}{% endfor %}x",
    "{% set a = 'x' * 199999 %}" + LOOP + "{% set b = a[1:] %}{% endfor %}x",
    "{% set a = range(99999) | list %}" + LOOP + "{% if -1 in a %}{% endif %}{% endfor %}x",
    "{{ 'x' | indent(10**9) }}",
    "{{ 'x' | indent(first=true, width=10**9) }}",
    "{{ ('x\n' * 999) | indent('x' * 9999) }}",
    "{{ [1] | batch(10**9, 'x') | list }}",
    "{{ [1] | slice(10**9) | list }}",
    "{{ 1.5 | round(precision=10**9) }}",
    "{{ ('x' * 199999) | replace('x', 'y' * 199999) }}",
    "{{ (range(99999) | map('string') | list) | join('x' * 199999) }}",
    "{{ range(99999) | map('replace', '', 'x' * 999) | list }}",
    "{{ range(99999) | select('in', range(99999) | list) | list }}",
    "{{ [[1]] | sum(start=[1]) }}",
    "{{ '%1000000000d' % 1 }}",
    "{{ '{:1000000000}'.format(1) }}",
    "{{ '{0.__class__}'.format(tick) }}",
    "{{ '{a:1000000000}'.format_map({'a': 1}) }}",
    "{{ 'x'.ljust(10**9) }}",
    "{{ 'x'.encode() }}",
    "{{ tick.local.strftime('%1000000000Y') }}",
    "{{ tick.local.replace(year=1) }}",
    "{{ range(10**9) }}",
    "{{ ('f' * 99999) | int(base=16) }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ previous['__class__'] }}",
    "{{ state.update({'a': 1}) }}",
    "{{ [1].append(2) }}",
    "{{ tick.of }}",
    "{{ namespace.__init__.__globals__ }}",
    "{{ range.__self__ }}",
    "{{ ('x', 'y') | map(attribute='__class__') | list }}",
    "{{ cycler('a') }}",
    "{{ lipsum(n=10**6) }}",
]


@pytest.mark.parametrize("text", HOSTILE)
def test_no_template_hangs_fills_or_looks_around(text: str):
    known = values(event=EVENT)
    began = time.thread_time()

    with pytest.raises(TemplateFailed) as failed:
        render(text, known)

    assert time.thread_time() - began < 5, "bounded; a bound that is missing takes minutes, or all memory"
    assert len(str(failed.value)) < 2_000


def test_the_work_is_counted_in_steps_and_not_in_time():
    loop = "{% for i in range(300) %}{% for j in range(100) %}{{ i }}{% endfor %}{% endfor %}"

    assert [len(render(loop, values())) for _ in range(3)] == [79_000] * 3


def test_an_output_that_is_too_long_is_refused_with_its_length():
    failed = failure("{% for i in range(300) %}{{ 'x' * 999 }}{% endfor %}")

    assert failed.message == "The input template came to 299,700 characters; at most 200,000 can be an input."


def test_a_moment_is_written_the_same_everywhere():
    moment = Moment.of(DUE)

    assert f"{moment}" == str(moment) == "2026-07-21T05:00:00Z"
    assert str(moment + timedelta(hours=1)) == "2026-07-21T06:00:00Z"
