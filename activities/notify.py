"""The activity `notify`: people and programs are told that a question waits, or how it ended.

Who is told of which event, and what; how a message leaves is in `sending`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.notice_words import ASKING, Words, handed_by, webhook_body, words
from activities.run_notices import RunNotices
from activities.sending import Sender, Target
from activities.unserved import unserved, unserved_body, unserved_words
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Notices, Shown, Told
from horarium.links import Links, people
from horarium.people import is_among, same_person
from horarium.protocol import NOTIFY, RUN_NOTICES, Notice
from horarium.settings import Settings

log = structlog.get_logger()


class Notifier:
    """The activity `notify` and what it needs."""

    def __init__(
        self, ledger: Ledger, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._ledger = ledger
        self._notices = Notices(ledger)
        self._settings = settings.approvals
        # At first use: a project that sends no links needs no secret.
        self._make_links = partial(Links.of, settings, ledger)
        self._clock = clock
        self._sender = Sender(ledger, clock, section="approvals")
        self._runs = RunNotices(ledger, settings, clock)

    @activity.defn(name=NOTIFY)
    async def notify(self, notice: Notice) -> None:
        """Send one event to every address that has not had it.

        Safe to repeat. An address that accepted the message just before this process died gets it twice; a
        webhook then has the same `webhook-id`.

        Raises:
            ApprovalNotFound: There is no such question.
            RunNotFound, ToolUnavailable: There is no such call.
            ApplicationError: Some addresses did not take it, or the ledger does not know the end of the question
                yet; to be tried again.
        """
        if notice.event == "tool_unserved":
            return await self._tell_unserved(notice)
        if notice.event in RUN_NOTICES:
            return await self._runs.tell(notice)
        shown = await self._notices.shown(notice.subject)
        if notice.event in ("decided", "expired") and shown.status == "pending":
            raise ApplicationError(
                f"The ledger does not know yet how {shown.id} ended.",
                type="notice_early",
                next_retry_delay=timedelta(seconds=1),
            )
        sent = await self._sender.deliver(self._targets(notice, shown))
        if sent.problems:
            log.warning("notice.failed", notice=notice.event, subject=shown.id, problems=sent.problems)
            await self._notices.failed(shown.id, f"{notice.event}.{notice.occurrence}", sent.problems, self._clock())
            raise ApplicationError(sent.words, type="notice_failed")
        if notice.event == "reminder":
            await self._notices.reminded(shown.id, notice.occurrence, self._clock())

    async def _tell_unserved(self, notice: Notice) -> None:
        call = await unserved(self._ledger, notice)
        if call is None:
            return
        told = partial(Told.of, notice.event, notice.subject, notice.occurrence)
        about = [notice.event, notice.subject, notice.occurrence]
        body = unserved_body(call, self._clock())
        targets = [
            *(
                target
                for number, reference in enumerate(self._settings.notify, 1)
                for target in self._sender.people(f"notify {number}", reference, told, lambda: unserved_words(call))
            ),
            *(
                self._sender.program(f"webhook {number}", webhook, told, about, body)
                for number, webhook in enumerate(self._settings.webhooks, 1)
            ),
        ]
        sent = await self._sender.deliver(targets)
        if sent.problems:
            log.warning("notice.failed", notice=notice.event, subject=notice.subject, problems=sent.problems)
            raise ApplicationError(sent.words, type="notice_failed")

    # ---- who is told

    def _targets(self, notice: Notice, shown: Shown) -> Iterator[Target]:
        told = partial(Told.of, notice.event, notice.subject, notice.occurrence)
        about = [notice.event, notice.subject, notice.occurrence]
        link = f"{self._settings.links.rstrip('/')}/approvals/{shown.id}" if self._settings.links else None
        # Nobody is asked any more what was decided while this waited to be tried again.
        if notice.event not in ASKING or shown.status == "pending":
            common = words(notice, shown, link)
            for number, reference in enumerate(self._settings.notify, 1):
                yield from self._sender.people(f"notify {number}", reference, told, lambda: common)
        if notice.event in ASKING and shown.status == "pending":
            yield from self._approvers(notice, shown, link, told)
        body = webhook_body(notice, shown, self._clock(), link)
        for number, webhook in enumerate(self._settings.webhooks, 1):
            yield self._sender.program(f"webhook {number}", webhook, told, about, body)

    def _approvers(
        self, notice: Notice, shown: Shown, link: str | None, told: Callable[[str], Told]
    ) -> Iterator[Target]:
        """Those who may decide, have addresses of their own, and have not voted on what is shown.

        When it was handed to them, those who were asked before are told nothing new.
        """
        voted = [vote.by for vote in shown.votes if vote.digest == shown.digest]
        if notice.event == "reassigned" and (handed := handed_by(notice, shown)) is not None:
            voted += handed.before
        for person in people(shown.approvers, self._settings.roles):
            if is_among(person, (*voted, *shown.not_by)):
                continue
            references = next((found for name, found in self._settings.people.items() if same_person(name, person)), ())
            for number, reference in enumerate(references, 1):
                message = partial(self._for, notice, shown, person, link)
                yield from self._sender.people(f"people.{person} {number}", reference, told, message, reader=person)

    def _for(self, notice: Notice, shown: Shown, person: str, link: str | None) -> Words:
        if link is None:
            return words(notice, shown, None)
        links = self._links
        return words(notice, shown, links.url(links.make(shown, person, self._clock())), personal=True)

    @cached_property
    def _links(self) -> Links:
        return self._make_links()
