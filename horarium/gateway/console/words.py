"""How values are shown on pages: times, lengths, money, and text that may be hostile."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sized
from datetime import UTC, datetime, timedelta
from functools import lru_cache
from typing import Any

import nh3
from markdown_it import MarkdownIt
from markupsafe import Markup, escape

from horarium.durations import words as length_in_words
from horarium.people import in_words
from horarium.visible import exact_json, one_line, visible

_KEPT_TAGS = {
    "p",
    "br",
    "em",
    "strong",
    "code",
    "pre",
    "blockquote",
    "ul",
    "ol",
    "li",
    "hr",
    "a",
    "h3",
    "h4",
    "h5",
    "h6",
} | {"table", "thead", "tbody", "tr", "th", "td"}
_LONGEST_MARKDOWN = 50_000  # characters; a longer text is shown as it is
# Turn the direction of what follows, or are not seen at all; joiners and marks stay, which prose needs.
_TURNS = re.compile("[\u202a-\u202e\u2066-\u2069\U000e0000-\U000e007f]")
_QUESTION = re.compile(r"\bapr_[0-9A-Z]{26}\b")
_NO_TIME = Markup('<span class="faint">–</span>')
_markdown = MarkdownIt("commonmark", {"html": False, "linkify": False}).enable("table").disable("image")


def when(moment: datetime | None) -> Markup:
    """A time, for the script to show in the reader's zone; without it, UTC."""
    if moment is None:
        return _NO_TIME
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}" title="{}">{}</time>').format(
        f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%Y-%m-%d %H:%M:%S} UTC", f"{utc:%Y-%m-%d %H:%M} UTC"
    )


def ago(moment: datetime | None) -> Markup:
    """How long since, or until, a time; the script keeps it true while the page is open."""
    if moment is None:
        return _NO_TIME
    utc = moment.astimezone(UTC)
    return Markup('<time datetime="{}" data-ago title="{}">{}</time>').format(
        f"{utc:%Y-%m-%dT%H:%M:%SZ}", f"{utc:%Y-%m-%d %H:%M:%S} UTC", _roughly(datetime.now(UTC) - utc)
    )


def length(value: timedelta | Sized | None) -> str | int:
    """A length of time, as `1h 5m`; of anything else how many it has, as Jinja's own filter of this name says."""
    if isinstance(value, timedelta):
        return length_in_words(value)
    return "–" if value is None else len(value)


def span(start: datetime | None, end: datetime | None) -> str:
    """The time between two, to a tenth of a second below a minute."""
    if start is None or end is None:
        return "–"
    seconds = max((end - start).total_seconds(), 0.0)
    return f"{seconds:.1f} s" if seconds < 60 else length_in_words(timedelta(seconds=round(seconds)))


def money(cost_micro_usd: int) -> str:
    """US dollars, to as many places as it takes to see them."""
    if not cost_micro_usd:
        return "–"
    return f"${cost_micro_usd / 1e6:,.2f}" if cost_micro_usd >= 1_000_000 else f"${cost_micro_usd / 1e6:.4f}"


def count(number: int, noun: str, plural: str | None = None) -> str:
    """`1 run`, `2 runs`."""
    return f"{number:,} {noun if number == 1 else plural or noun + 's'}"


def size(number: int | None) -> str:
    """Bytes."""
    if number is None:
        return "–"
    value = float(number)
    for unit in ("B", "KiB", "MiB"):
        if value < 1024:
            return f"{value:.0f} {unit}" if unit == "B" else f"{value:.1f} {unit}"
        value /= 1024
    return f"{value:.1f} GiB"


def short(identity: str | None) -> str:
    """An id, shortened in its middle: what tells two apart is at its end."""
    return "" if identity is None else identity if len(identity) <= 14 else f"{identity[:4]}…{identity[-6:]}"


def questions(text: str) -> Markup:
    """A text in which the ids of questions are links to them in the inbox."""
    shown = _QUESTION.sub(lambda found: f'<a class="id" href="/inbox/{found[0]}">{short(found[0])}</a>', escape(text))
    return Markup(shown)  # noqa: S704 - escaped just before, and an id has letters and digits alone


def status_words(status: str) -> str:
    """A status as people say it."""
    return status.replace("_", " ")


def markdown(text: str) -> Markup:
    """What a model wrote, with its headings, lists and tables. No HTML of its own, and nothing that is loaded from
    anywhere; links say where they lead."""
    if len(text) > _LONGEST_MARKDOWN:
        return Markup('<pre class="text">{}</pre>').format(visible(text))
    return _rendered(_TURNS.sub(lambda found: f"<U+{ord(found[0]):04X}>", text))


@lru_cache(maxsize=200)
def _rendered(text: str) -> Markup:
    html = nh3.clean(
        _markdown.render(text),
        tags=_KEPT_TAGS,
        attributes={"a": {"href"}},
        url_schemes={"http", "https", "mailto"},
        link_rel="noopener noreferrer nofollow ugc",
    )
    return Markup(html)  # noqa: S704 - cleaned just before


def _roughly(since: timedelta) -> str:
    seconds = abs(since.total_seconds())
    if seconds < 5:
        return "now"
    for limit, unit, name in ((90, 1, "s"), (5400, 60, "min"), (129_600, 3600, "h")):
        if seconds < limit:
            number = f"{seconds / unit:.0f} {name}"
            break
    else:
        number = count(round(seconds / 86_400), "day")
    return f"{number} ago" if since.total_seconds() > 0 else f"in {number}"


FILTERS: Mapping[str, Callable[..., Any]] = {
    "when": when,
    "ago": ago,
    "length": length,
    "span": span,
    "money": money,
    "count": count,
    "size": size,
    "short": short,
    "by": in_words,
    "questions": questions,
    "status": status_words,
    "markdown": markdown,
    "visible": visible,
    "one_line": one_line,
    "exact": exact_json,
}
