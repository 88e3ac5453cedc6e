"""A response as it is shown: while it waits for people in a way that the protocol has no item for, with a note.

The note is no part of the response: it comes last, is of the phase `commentary`, and goes when the run goes on. A
stream, whose events stay as they are, does not have it.
"""

from __future__ import annotations

from horarium.client import Client
from horarium.gateway.responses.events import told
from horarium.gateway.responses.output import Item, text_part
from horarium.gateway.responses.record import Part
from horarium.gateway.v1.run_views import waiting_for

ABOUT = "This waits for people, in the inbox (the console, /v1/approvals, or `horarium approvals`):"
NOTE = 0  # in its id, where others have the number of a step


async def as_shown(client: Client, part: Part) -> Item:
    """The whole response as it is now."""
    response = told(part)
    if part.ended or part.run.status != "requires_action":
        return response
    waits = await waiting_for(client, part.run)
    if not waits:  # it goes on already
        return response
    lines = [ABOUT, *(f"- {wait.text}{f' In run {wait.run}.' if wait.run != part.run.id else ''}" for wait in waits)]
    note = {
        "type": "message",
        "id": part.name.item("msg", NOTE),
        "status": "in_progress",
        "role": "assistant",
        "phase": "commentary",
        "content": [text_part("\n".join(lines))],
    }
    return {**response, "output": [*response["output"], note]}
