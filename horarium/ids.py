"""Ids, and the one way to derive each.

Ids made by a client are ULIDs; ids made inside a run are derived from the run, because
workflow code has no dice. Both look alike: `<prefix>_` and 26 characters of Crockford base32.
"""

from __future__ import annotations

import hashlib
import re

from ulid import ULID

RUN_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,199}$")
STEP_ID = re.compile(r"^[A-Za-z0-9][A-Za-z0-9_.:\-]{0,199}/[0-9]{4,9}$")
_CROCKFORD = "0123456789ABCDEFGHJKMNPQRSTVWXYZ"


def new_run_id() -> str:
    """A fresh `run_<ulid>`; sorts by time."""
    return f"run_{ULID()}"


def new_thread_id() -> str:
    """A fresh `thr_<ulid>`; sorts by time."""
    return f"thr_{ULID()}"


def new_message_ref() -> str:
    """A fresh `msg_<ulid>`, of a message that was placed in a thread without a run."""
    return f"msg_{ULID()}"


def run_id_for_key(tenant: str, key: str) -> str:
    """The run id that an idempotency key always leads to, within a tenant."""
    return f"run_{_derived('run', tenant, key)}"


def thread_id_for_run(run_id: str) -> str:
    """The thread of a run that was started without one."""
    return f"thr_{_derived('thread', run_id)}"


def sub_run_id(step: str, permit: int) -> str:
    """The run of the sub-agent that a step hands its task to; another one each time that a person says: do it again."""
    return f"run_{_derived('sub-run', step, str(permit))}"


def thread_id_for_session(tenant: str, agent: str, session: str) -> str:
    """The thread of a session that a caller of an agent names."""
    return f"thr_{_derived('session', tenant, agent, session)}"


def step_id(run_id: str, number: int) -> str:
    """`run_…/0007`."""
    return f"{run_id}/{number:04d}"


def split_step_id(step: str) -> tuple[str, int]:
    """The run id and the number of a step id."""
    run_id, _, number = step.rpartition("/")
    return run_id, int(number)


def approval_id(step: str) -> str:
    """The approval that guards a step; one for each, so it needs no dice."""
    return f"apr_{_derived('approval', step)}"


def question_id(step: str, phase: str, permit: int) -> str:
    """What is asked of a step that is `unknown` or `held`; another each time, so that no answer meets a later one."""
    return approval_id(f"{step}#{phase}{permit}")


def function_call_id(run_id: str, number: int) -> str:
    """How whoever carries out a call of a function names it; unlike a model's own ids, no other call has it."""
    return f"call_{run_id.removeprefix('run_')}_{number}"


def new_memory_id() -> str:
    """A fresh `mem_<ulid>`; sorts by time."""
    return f"mem_{ULID()}"


def memory_workflow_id(run_id: str) -> str:
    """The workflow that tells a memory store elsewhere what a run left; one for each run."""
    return f"{run_id}:memories"


def grant_id(approval: str) -> str:
    """The standing grant that came with an approval; one for each."""
    return f"gra_{_derived('grant', approval)}"


def routine_grant_id(*parts: str) -> str:
    """The standing grant of one preapproved tool of a routine; one for each routine, agent, tool, schema and bounds."""
    return f"gra_{_derived('routine-grant', *parts)}"


def order_id(*parts: str) -> str:
    """The workflow of an order with a key; one for each tenant, action, name and key."""
    return f"order_{_derived('order', *parts)}"


def new_order_id() -> str:
    """A fresh `order_<ulid>`; sorts by time."""
    return f"order_{ULID()}"


def idempotency_key(run_id: str, call_id: str) -> str:
    """The key a tool or a model gets: the same on every attempt and on every resumed run."""
    return f"horarium/{run_id}/{call_id}"


def _derived(*parts: str) -> str:
    number = int.from_bytes(hashlib.sha256("\0".join(parts).encode()).digest()[:16], "big")
    return "".join(_CROCKFORD[(number >> shift) & 31] for shift in range(125, -1, -5))
