"""Ids as clients of the protocol see them, each made from one of ours.

A run that waited for approvals shows as more than one response: each later one begins with what became of the calls
of one turn, and has that turn's step number in its id.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from horarium.errors import NotFound

_RESPONSE = re.compile(r"^resp_([A-Za-z0-9]{1,100})(?:_([0-9]{1,9}))?$")
_CALL = re.compile(r"^call_([A-Za-z0-9]{1,100})_([0-9]{1,9})$")
_SUFFIX = re.compile(r"^[A-Za-z0-9]{1,100}$")


class ResponseNotFound(NotFound):
    """There is no such response, or it is another tenant's."""

    code = "response_not_found"


@dataclass(frozen=True, slots=True)
class ResponseName:
    """Which part of which run. `after`: the number of the turn whose answered calls it begins with; None: the start."""

    run: str
    after: int | None = None

    def __str__(self) -> str:
        """`resp_…`, or `resp_…_4`."""
        return self._with("resp_") + (f"_{self.after}" if self.after is not None else "")

    def item(self, kind: str, step: int) -> str:
        """The id of the item that shows a step: `msg_…_4`, `mcp_…_5`."""
        return f"{self._with(kind + '_')}_{step}"

    def _with(self, prefix: str) -> str:
        return prefix + self.run.removeprefix("run_")


def read_response(name: str) -> ResponseName:
    """What an id of a response stands for.

    Raises:
        ResponseNotFound: It is none of ours.
    """
    match = _RESPONSE.match(name)
    if match is None:
        raise no_response(name)
    return ResponseName(f"run_{match[1]}", int(match[2]) if match[2] else None)


def no_response(name: object) -> ResponseNotFound:
    """The error for one that is not there."""
    return ResponseNotFound(f"Response with id '{name}' not found.")


def conversation_of(thread: str) -> str:
    """The conversation that shows a thread."""
    return f"conv_{thread.removeprefix('thr_')}"


def thread_of(conversation: str) -> str:
    """The thread that a conversation shows; of an id that cannot be one, a thread that is not there."""
    return _ours(conversation, "conv_", "thr_")


def request_of(approval: str) -> str:
    """The approval request item that shows an approval."""
    return f"mcpr_{approval.removeprefix('apr_')}"


def approval_of(request: str) -> str:
    """The approval that an approval request item shows."""
    return _ours(request, "mcpr_", "apr_")


def call_of(call_id: str) -> tuple[str, int] | None:
    """The run and the step of a function's call, by the id that clients have of it; None: it is none of ours."""
    match = _CALL.match(call_id)
    return (f"run_{match[1]}", int(match[2])) if match is not None else None


def _ours(name: str, theirs: str, ours: str) -> str:
    head, rest = name[: len(theirs)], name[len(theirs) :]
    return ours + rest if head == theirs and _SUFFIX.match(rest) else f"{ours}none"
