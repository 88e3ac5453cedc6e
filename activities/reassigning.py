"""The activity `reassign`: others decide on an open approval, because somebody who may decide on it said so.

The ledger's list of who decides is what every decision is held against, also where the effect is. So nobody gets onto
it without the word of a person who may say so, verified here, and once more with each decision (horarium/ballots.py).
"""

from __future__ import annotations

from temporalio import activity

from activities.catalog import Catalog
from activities.deciding import LISTED_BYTES, LISTED_QUESTIONS
from horarium.ballots import Witness
from horarium.content import shorten
from horarium.contract import Reassignment
from horarium.errors import (
    ApprovalWithdrawn,
    DigestMismatch,
    HorariumError,
    NotAnApprover,
    NotApproved,
    ReassignmentRefused,
)
from horarium.ledger.approvals import ApprovalRecord, Approvals
from horarium.ledger.database import Ledger
from horarium.ledger.reassignments import HandedOver, Reassignments, handed_over
from horarium.ledger.runs import Runs
from horarium.people import is_among, plain
from horarium.plans import ROLE, is_role, listed, people_of, rule_named
from horarium.problems import near_miss
from horarium.proof import KeyRing
from horarium.protocol import NOTE_CHARS, REASSIGN, Reassign, Reassigned
from horarium.settings import Settings

MOST_TIMES = 20  # each is kept with its proof, and verified with every decision


class Reassigning:
    """The activity and what it needs."""

    def __init__(self, ledger: Ledger, catalog: Catalog, settings: Settings) -> None:
        self._approvals = Approvals(ledger)
        self._reassignments = Reassignments(ledger)
        self._runs = Runs(ledger)
        self._catalog = catalog
        self._settings = settings
        keys = KeyRing.of(settings).public_only()
        self._witness = Witness(self._approvals, keys, required=settings.approvals.require_proof)

    @activity.defn(name=REASSIGN)
    async def reassign(self, reassigning: Reassign) -> Reassigned:
        """Hand an approval to others, as a person said. Safe to repeat: who has said the same last changes nothing."""
        said = reassigning.reassignment
        try:
            asked = await self._approvals.get(said.approval)
            before = handed_over(asked)
            if before and before[-1].said == said:
                return _as_it_stands(asked.approvers, len(before))
            _is_said_anew(said, before)
            return await self._handed_over(reassigning, asked, len(before))
        except HorariumError as error:
            await self._approvals.refused_word(
                reassigning.run, said.approval, said, "update", reassigning.at, error.code, str(error)
            )
            return Reassigned(code=error.code, message=shorten(str(error), NOTE_CHARS))

    async def _handed_over(self, reassigning: Reassign, asked: ApprovalRecord, before: int) -> Reassigned:
        """Raises as the update says."""
        said = reassigning.reassignment
        if asked.kind != "approval" or asked.run_id != reassigning.run:
            raise NotApproved(f"{asked.id} is no approval of run {reassigning.run}.")
        key = self._witness.of_reassignment(reassigning.run, said, reassigning.at)
        if await self._approvals.arguments_of(asked.id, said.digest) is None:
            raise DigestMismatch(f"What was shown of {asked.id} is not what waits.", hint="Look at it again.")
        _may_reassign(said, asked)
        await self._plan_lets(asked)
        if before >= MOST_TIMES:
            raise ReassignmentRefused(f"{asked.id} was handed to others {before} times, which is enough.")
        people = await self._people(said, asked)
        if asked.approvers and {plain(one) for one in people} == {plain(one) for one in asked.approvers}:
            return _as_it_stands(asked.approvers, before)
        handed = HandedOver(said=said, at=reassigning.at, key=key, before=tuple(asked.approvers), people=people)
        times = await self._reassignments.record(asked.id, handed)
        if times is None:
            raise ApprovalWithdrawn(f"{asked.id} waits for nobody any more.")
        return _as_it_stands(people, times)

    async def _plan_lets(self, asked: ApprovalRecord) -> None:
        run = await self._runs.get(asked.run_id)
        rule = rule_named((await self._catalog.agent(run.agent, run.version or 0)).agent, asked.rule)
        if rule is not None and not rule.reassign:
            raise ReassignmentRefused(
                f"The approval plan of {asked.agent} lets nobody hand {asked.tool} to others.",
                hint="See `reassign` in its rules.",
            )

    async def _people(self, said: Reassignment, asked: ApprovalRecord) -> tuple[str, ...]:
        """Who decides from now on: those who were named, and whoever has voted, because votes stand.

        Raises:
            ReassignmentRefused: One of the names is nobody's, or too few may decide.
        """
        self._are_known(said)
        found = {plain(person): person for person in people_of(said.to, self._settings)}
        for vote in await self._approvals.votes(asked.id):
            found.setdefault(plain(vote.by), vote.by)
        people = tuple(found.values())
        left = [person for person in people if not is_among(person, asked.not_by)]
        if len(left) < asked.required:
            without = f" without {', '.join(asked.not_by)} (four eyes)" if len(left) < len(people) else ""
            raise ReassignmentRefused(
                f"{asked.required} have to approve {asked.id}, and with those{without} there are {len(left)}.",
                hint="Name more people.",
            )
        return people

    def _are_known(self, said: Reassignment) -> None:
        roles = self._settings.approvals.roles
        members = [person for people in roles.values() for person in people]
        for name in said.to:
            role = name.removeprefix(ROLE)
            if is_role(name) and not roles.get(role):
                miss = near_miss(role, sorted(roles))
                raise ReassignmentRefused(f"There is no role {role!r} with people in it here{miss or '.'}")
            if name in roles and not is_among(name, (*members, *self._settings.approvals.people)):
                raise ReassignmentRefused(f"{name!r} is a role, and no person.", hint=f"Write 'role:{name}'.")


def _is_said_anew(said: Reassignment, before: tuple[HandedOver, ...]) -> None:
    """A signed word counts once: whoever can read it could undo with it what was said since.

    Raises:
        ReassignmentRefused: It counted before.
    """
    counted = {one.said.proof.nonce for one in before if one.said.proof is not None}
    if said.proof is not None and said.proof.nonce in counted:
        raise ReassignmentRefused(
            f"This word of {said.by} counted before, and {said.approval} was handed to others since.",
            hint="Say it anew.",
        )


def _may_reassign(said: Reassignment, asked: ApprovalRecord) -> None:
    """Raises:
    NotAnApprover: Others decide.
    """
    if is_among(said.by, asked.not_by):
        raise NotAnApprover(f"{said.by} started this run; whoever did may not choose who decides on it (four eyes).")
    if asked.approvers and not said.as_admin and not is_among(said.by, asked.approvers):
        raise NotAnApprover(
            f"{shorten(said.by, 60)} may not decide this, nor who does.",
            hint=f"These may: {', '.join(listed(asked.approvers, NOTE_CHARS // 2)[0])}.",
        )


def _as_it_stands(people: tuple[str, ...] | list[str], times: int) -> Reassigned:
    shown, more = listed(people, LISTED_BYTES // LISTED_QUESTIONS)
    return Reassigned(people=shown, more=more, times=times)
