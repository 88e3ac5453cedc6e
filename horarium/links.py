"""One-use links by which a person decides from a message.

Looking changes nothing, however often it is done: mail scanners follow every link. Deciding works once, for this
approver, on these arguments, until the deadline. The token is as good as the person's word, so it is never logged.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import secrets
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Protocol, Self

from itsdangerous import BadData, URLSafeSerializer
from pydantic import BaseModel, ConfigDict, ValidationError

from horarium.contract import Decision, Verdict
from horarium.errors import (
    ApprovalAlreadyDecided,
    ApprovalExpired,
    ApprovalNotFound,
    ApprovalWithdrawn,
    ConfigError,
    Conflict,
    DigestMismatch,
    HorariumError,
    LinkExpired,
    LinkInvalid,
    LinkUsed,
    NotAnApprover,
)
from horarium.ledger.database import Ledger
from horarium.ledger.links import LinkUse, LinkUses
from horarium.ledger.notices import Notices, Shown
from horarium.link_secret import link_secret
from horarium.people import is_among, same_person
from horarium.settings import ApprovalsSettings, Settings
from horarium.visible import one_line

LEEWAY = timedelta(minutes=1)  # between the clocks of those who make links and those who take them
_TOKEN = re.compile(r"[A-Za-z0-9_.\-]{1,2048}")
_PAST = {"approve": "approved", "reject": "rejected", "answer": "answered"}


class Linkable(Protocol):
    """What a link is bound to. Every record of an approval has it."""

    @property
    def id(self) -> str: ...
    @property
    def digest(self) -> str: ...
    @property
    def expires_at(self) -> datetime | None: ...


class _Claims(BaseModel):
    """What the token says, in as few characters as a mail likes."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    approval: str
    digest: str
    approver: str
    until: int
    jti: str

    @property
    def deadline(self) -> datetime:
        return datetime.fromtimestamp(self.until, UTC)


@dataclass(frozen=True, slots=True)
class LinkView:
    """What following a link shows. `arguments` are the exact ones, as canonical JSON."""

    approval: Shown
    arguments: str
    approver: str
    deadline: datetime
    open: bool
    why_not: str | None
    chosen: str | None  # the verdict that was sent by this link and has not arrived: only it can be sent again


class Links:
    """Makes the links of a project, shows what they are about, and takes the decisions that come by them."""

    def __init__(
        self,
        settings: ApprovalsSettings,
        ledger: Ledger,
        secret: str,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._settings = settings
        self._notices = Notices(ledger)
        self._uses = LinkUses(ledger)
        self._clock = clock
        # Not the timed kind: each link has a deadline of its own, never later than its approval's.
        self._serializer = URLSafeSerializer(
            secret,
            salt="horarium.link.1",
            signer_kwargs={"key_derivation": "hmac", "digest_method": hashlib.sha256},
        )

    @classmethod
    def of(cls, settings: Settings, ledger: Ledger) -> Self:
        """The links of a project, signed with its own secret, which is made at first use.

        Raises:
            ConfigError: The secret cannot be read, or is too short to be one.
        """
        return cls(settings.approvals, ledger, link_secret(settings))

    def make(self, approval: Linkable, approver: str, now: datetime) -> str:
        """A token by which this approver, and nobody else, decides on this digest, once."""
        until = now + self._settings.link_lasts
        if approval.expires_at is not None:
            until = min(until, approval.expires_at)
        claims = _Claims(
            approval=approval.id,
            digest=approval.digest,
            approver=approver,
            until=int(until.timestamp()),
            jti=secrets.token_urlsafe(18),
        )
        return str(self._serializer.dumps(claims.model_dump()))

    def url(self, token: str) -> str:
        """Where to follow it.

        Raises:
            ConfigError: `[approvals] links` does not say where the gateway is.
        """
        if self._settings.links is None:
            raise ConfigError("Nobody knows where links lead.", hint="Set `links` in [approvals] of horarium.toml.")
        return f"{self._settings.links.rstrip('/')}/approve/{token}"

    async def peek(self, token: str) -> LinkView:
        """What the link is about, and whether it still decides. Changes nothing.

        Raises:
            LinkInvalid: It is no link of ours.
            LinkExpired: Its time is over; what it was about is not shown any more.
        """
        claims, shown = await self._opened(token)
        use = await self._uses.get(claims.jti)
        problem = self._problem(claims, shown, use)
        return LinkView(
            approval=shown,
            arguments=shown.arguments,
            approver=claims.approver,
            deadline=claims.deadline,
            open=problem is None,
            why_not=None if problem is None else str(problem),
            chosen=use.verdict if use is not None and use.settled_at is None else None,
        )

    @contextlib.asynccontextmanager
    async def consume(
        self, token: str, verdict: Verdict, comment: str | None = None, *, answer: str | None = None
    ) -> AsyncIterator[Decision]:
        """Use the link: gives the decision to send, and when it was sent without an exception the link is spent.

        When sending fails, or this process dies, the same verdict can be sent by the same link again, and no other
        can: the first may have arrived. It is no second vote, because a repeated decision changes nothing.

        Raises:
            LinkInvalid, LinkExpired: As `peek`.
            LinkUsed: It was used before; says who decided what, and when.
            ApprovalAlreadyDecided, ApprovalExpired, ApprovalWithdrawn, DigestMismatch, NotAnApprover: It was not used,
                and yet cannot decide any more.
        """
        claims, shown = await self._opened(token)
        decision = _decision(claims, verdict, comment, answer)
        problem = self._problem(claims, shown, await self._uses.get(claims.jti), verdict)
        if problem is not None:
            raise problem
        mine = LinkUse(claims.jti, claims.approval, claims.approver, self._clock(), verdict, None)
        stands = await self._uses.reserve(mine)
        if stands.settled_at is not None or stands.verdict != verdict:
            raise _used(stands, shown)
        yield decision
        await self._uses.settle(claims.jti, self._clock())

    # ---- the rules

    async def _opened(self, token: str) -> tuple[_Claims, Shown]:
        claims = self._claims(token)
        try:
            shown = await self._notices.shown(claims.approval)
        except ApprovalNotFound as error:
            raise _invalid() from error
        if shown.kind != "approval":
            raise _invalid()
        if self._clock() >= claims.deadline + LEEWAY:
            raise LinkExpired(
                f"This link was good until {instant(claims.deadline)}."
                + (f" {outcome(shown)}" if shown.status != "pending" else ""),
                hint=f"Look at it in the inbox, or with: horarium approvals show {shown.id}",
            )
        return claims, shown

    def _claims(self, token: str) -> _Claims:
        # The decoder below leaves out what it does not know, and takes the rest.
        if not _TOKEN.fullmatch(token):
            raise _invalid()
        try:
            return _Claims.model_validate(self._serializer.loads(token))
        except (BadData, ValidationError):
            raise _invalid() from None  # the cause quotes the token

    def _problem(
        self, claims: _Claims, shown: Shown, use: LinkUse | None, verdict: Verdict | None = None
    ) -> HorariumError | None:
        """Why the link does not decide; None when it does."""
        if use is not None and (use.settled_at is not None or _landed(shown, use)):
            return _used(use, shown)
        if use is not None and verdict not in (None, use.verdict):
            return _used(use, shown)
        ended = self._ended(shown)
        if ended is not None:
            return ended
        if claims.digest != shown.digest:
            by = f" by {one_line(shown.edited_by)}" if shown.edited_by else ""
            return DigestMismatch(
                f"The arguments of {shown.id} were changed{by} after this link was made.",
                hint="Look at the approval again and decide on what it shows now.",
            )
        if shown.approvers and not is_among(claims.approver, people(shown.approvers, self._settings.roles)):
            return NotAnApprover(f"Others decide on {shown.id} now; {one_line(claims.approver)} is not asked any more.")
        return None

    def _ended(self, shown: Shown) -> HorariumError | None:
        late = shown.expires_at is not None and self._clock() >= shown.expires_at + LEEWAY
        if shown.status == "expired" or (shown.status == "pending" and late):
            return ApprovalExpired(f"Nobody decided on {shown.id} in time. Nothing is left to do here.")
        if shown.status == "withdrawn":
            return ApprovalWithdrawn(f"{outcome(shown)} Nothing is left to do here.")
        if shown.status != "pending":
            return ApprovalAlreadyDecided(f"{outcome(shown)} Nothing is left to do here.")
        return None


def people(approvers: Iterable[str], roles: Mapping[str, tuple[str, ...]]) -> list[str]:
    """The people that a list of people and `role:<name>` means, each once."""
    found: list[str] = []
    for name in approvers:
        for person in roles.get(name.removeprefix("role:"), ()) if name.startswith("role:") else (name,):
            if not is_among(person, found):
                found.append(person)
    return found


def outcome(shown: Shown) -> str:
    """How a question ended, as a sentence."""
    if shown.status == "expired":
        return f"Nobody decided on {shown.id} in time."
    if shown.status == "withdrawn":
        return f"{shown.id} was withdrawn: the run no longer waits for it."
    by = one_line(shown.decided_by) if shown.decided_by else "somebody"
    how = f" ({shown.verdict})" if shown.status == "resolved" else ""
    at = f" at {instant(shown.decided_at)}" if shown.decided_at else ""
    return f"{shown.id} was {shown.status}{how} by {by}{at}."


def instant(moment: datetime) -> str:
    """`2026-11-21 07:30 UTC`: who reads a message may be in any zone."""
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M} UTC"


def _decision(claims: _Claims, verdict: Verdict, comment: str | None, answer: str | None) -> Decision:
    try:
        return Decision(
            approval=claims.approval,
            digest=claims.digest,
            by=claims.approver,
            verdict=verdict,
            comment=comment,
            answer=answer,
        )
    except ValidationError as error:
        first = error.errors()[0]
        raise Conflict(f"The decision cannot be sent: {first['loc'][0]}: {first['msg']}.") from None


def _landed(shown: Shown, use: LinkUse) -> bool:
    """Whether the ledger has the decision of a use that was never settled."""
    voted = any(same_person(vote.by, use.used_by) and vote.verdict == use.verdict for vote in shown.votes)
    decided = shown.decided_by is not None and is_among(use.used_by, shown.decided_by.split(", "))
    return voted or (decided and shown.status == _PAST[use.verdict])


def _used(use: LinkUse, shown: Shown) -> LinkUsed:
    if use.settled_at is None and not _landed(shown, use):
        return LinkUsed(
            f"With this link {one_line(use.used_by)} chose to {use.verdict} at {instant(use.used_at)}. "
            "It is not known yet whether that arrived.",
            hint=f"Choose {use.verdict} again, or look at it in the inbox: horarium approvals show {shown.id}",
        )
    said = f"{one_line(use.used_by)} used this link at {instant(use.used_at)} and {_PAST[use.verdict]} {shown.id}."
    ended = f" {outcome(shown)}" if shown.status != "pending" else ""
    return LinkUsed(f"{said}{ended} Nothing is left to do here.")


def _invalid() -> LinkInvalid:
    return LinkInvalid(
        "This is no link to an approval: part of it may be missing.",
        hint="Open the whole link from the message, or look in the inbox: horarium approvals list",
    )
