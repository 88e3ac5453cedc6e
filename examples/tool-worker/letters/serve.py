"""The tool worker of the letters: `python letters/serve.py`, in the environment that environment.sh makes.

Its templates were written for Jinja2 3.0 and break with any later one; the engine, in its own environment, has a later
one. They meet in Temporal and in the ledger, and share no package but horarium.
"""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import jinja2

from horarium import NotPerformed, Performed, Settings, ToolContext, serve_tools, tool

PROJECT = Path(__file__).resolve().parent.parent
OUTBOX = PROJECT / "outbox"
LETTER = """{{ club }}

{{ member | greeting }}

{% for line in lines %}{{ line }}
{% endfor %}
With kind regards
The board
"""


@jinja2.contextfilter  # since 3.1 there is no such thing
def greeting(context: Any, member: str) -> str:
    """How this club begins its letters."""
    return f"Dear {member}, dear friend of {context['club']},"


def was_written(context: ToolContext, arguments: dict[str, Any]) -> Performed | NotPerformed:
    """Say whether the letter of this call's key is in the outbox."""
    letter = _letter(context)
    return Performed(str(letter.name)) if letter.exists() else NotPerformed()


@tool(effect="external", verify=was_written)
def write_letter(member: str, lines: list[str], context: ToolContext) -> str:
    """Write a letter to a member and put it into the outbox, from where it is posted.

    Args:
        member: Who gets it, with title.
        lines: What it says, a sentence each.
    """
    letters = jinja2.Environment()  # noqa: S701 - plain text, no page
    letters.filters["greeting"] = greeting
    text = letters.from_string(LETTER).render(club="Allotment Gardens Elmfield", member=member, lines=lines)
    OUTBOX.mkdir(exist_ok=True)
    letter = _letter(context)
    unfinished = letter.with_suffix(".part")
    unfinished.write_text(text)
    unfinished.rename(letter)
    return f"{letter.name}, set with Jinja2 {jinja2.__version__}"


def _letter(context: ToolContext) -> Path:
    """One file for each key, so that the same call twice is one letter."""
    return OUTBOX / f"{context.idempotency_key.replace('/', '-')}.txt"


if __name__ == "__main__":
    asyncio.run(serve_tools([write_letter], name="letters", settings=Settings.load(PROJECT)))
