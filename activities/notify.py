"""The activity `notify`: people and programs are told that a question waits, or how it ended.

Each message goes to each address once: what went out is written down right after, so a repeated attempt sends only
what is missing. Addresses are secrets and links are as good as a person's word: neither is ever logged or raised.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Awaitable, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from functools import cached_property, partial

import httpx2
import structlog
from standardwebhooks import Webhook as Signer
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.notice_words import ASKING, Words, webhook_body, words
from horarium.content import digest
from horarium.errors import ConfigError
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Notices, Shown, Told
from horarium.links import Links, people
from horarium.people import is_among, same_person
from horarium.protocol import NOTIFY, Notice
from horarium.secrets import SecretReference, conceal, redact, reveal
from horarium.settings import Settings, Webhook

log = structlog.get_logger()

WEBHOOK_TIMEOUT = timedelta(seconds=10)
APPRISE_TIMEOUT = timedelta(seconds=30)  # a long message goes to Teams or Discord in many parts
GONE = 410
# They write addresses, and some whole messages, into their logs.
_TALKATIVE = {"urllib3": logging.ERROR, "httpx2": logging.WARNING, "httpcore2": logging.WARNING}
_Send = Callable[[], Awaitable[None]]


class NotSent(Exception):
    """An address did not take the message; the text says why and names neither."""


@dataclass(frozen=True, slots=True)
class _Target:
    """One address: what it is called where people read it, and how to send there."""

    name: str
    told: Told
    send: _Send


class Notifier:
    """The activity `notify` and what it needs."""

    def __init__(
        self, ledger: Ledger, settings: Settings, clock: Callable[[], datetime] = lambda: datetime.now(UTC)
    ) -> None:
        self._notices = Notices(ledger)
        self._settings = settings.approvals
        # At first use: a project that sends no links needs no secret.
        self._make_links = partial(Links.of, settings, ledger)
        self._clock = clock
        # Of its own: a mail server that hangs must not hold up whatever else waits for a thread.
        self._threads = ThreadPoolExecutor(8, "notify")
        _quieten()

    @activity.defn(name=NOTIFY)
    async def notify(self, notice: Notice) -> None:
        """Send one event to every address that has not had it.

        Safe to repeat. An address that accepted the message just before this process died gets it twice; a
        webhook then has the same `webhook-id`.

        Raises:
            ApprovalNotFound: There is no such question.
            ApplicationError: Some addresses did not take it, or the ledger does not know the end of the question
                yet; to be tried again.
        """
        shown = await self._notices.shown(notice.subject)
        if notice.event in ("decided", "expired") and shown.status == "pending":
            raise ApplicationError(
                f"The ledger does not know yet how {shown.id} ended.",
                type="notice_early",
                next_retry_delay=timedelta(seconds=1),
            )
        targets = list(self._targets(notice, shown))
        sent = await self._notices.sent([target.told.id for target in targets])
        missing = [target for target in targets if target.told.id not in sent]
        # All are waited for, whatever becomes of one: what went out must be written down.
        results = await asyncio.gather(*map(self._tell, missing), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        problems = [result for result in results if isinstance(result, str)]
        if problems:
            log.warning("notice.failed", notice=notice.event, subject=shown.id, problems=problems)
            await self._notices.failed(shown.id, f"{notice.event}.{notice.occurrence}", problems, self._clock())
            raise ApplicationError(
                redact(f"{len(problems)} of {len(targets)} addresses were not told: {'; '.join(problems)}"),
                type="notice_failed",
            )
        if notice.event == "reminder":
            await self._notices.reminded(shown.id, notice.occurrence, self._clock())

    async def _tell(self, target: _Target) -> str | None:
        """Send, and write it down; otherwise what is wrong."""
        try:
            await target.send()
        except (NotSent, ConfigError) as error:
            return redact(f"{target.name}: {error}")
        except Exception as error:  # of a library; its text may quote the address
            return f"{target.name}: it broke with {type(error).__name__}"
        await self._notices.record(target.told, self._clock())
        return None

    # ---- who is told

    def _targets(self, notice: Notice, shown: Shown) -> Iterator[_Target]:
        link = f"{self._settings.links.rstrip('/')}/approvals/{shown.id}" if self._settings.links else None
        # Nobody is asked any more what was decided while this waited to be tried again.
        if notice.event not in ASKING or shown.status == "pending":
            common = words(notice, shown, link)
            for number, reference in enumerate(self._settings.notify, 1):
                yield from self._people_at(notice, f"notify {number}", reference, "everybody", lambda: common)
        if notice.event in ASKING and shown.status == "pending":
            yield from self._approvers(notice, shown, link)
        body = webhook_body(notice, shown, self._clock(), link)
        for number, webhook in enumerate(self._settings.webhooks, 1):
            yield self._program_at(notice, f"webhook {number}", webhook, body)

    def _approvers(self, notice: Notice, shown: Shown, link: str | None) -> Iterator[_Target]:
        """Those who may decide, have addresses of their own, and have not voted on what is shown."""
        voted = [vote.by for vote in shown.votes if vote.digest == shown.digest]
        for person in people(shown.approvers, self._settings.roles):
            if is_among(person, (*voted, *shown.not_by)):
                continue
            references = next((found for name, found in self._settings.people.items() if same_person(name, person)), ())
            for number, reference in enumerate(references, 1):
                message = partial(self._for, notice, shown, person, link)
                yield from self._people_at(notice, f"people.{person} {number}", reference, person, message)

    def _for(self, notice: Notice, shown: Shown, person: str, link: str | None) -> Words:
        if link is None:
            return words(notice, shown, None)
        links = self._links
        return words(notice, shown, links.url(links.make(shown, person, self._clock())), personal=True)

    @cached_property
    def _links(self) -> Links:
        return self._make_links()

    def _people_at(
        self, notice: Notice, name: str, reference: SecretReference, reader: str, message: Callable[[], Words]
    ) -> Iterator[_Target]:
        """A reference may hold several addresses; each is told, and tried again, by itself."""
        try:
            addresses = _addresses(reveal(reference))
        except ConfigError as error:
            yield _Target(name, self._told(notice, f"{reader} {reference}"), _refusal(error))
            return
        for number, address in enumerate(addresses, 1):
            conceal(address)
            called = name if len(addresses) == 1 else f"{name}.{number}"

            async def send(address: str = address) -> None:
                await self._apprise(address, message())

            yield _Target(called, self._told(notice, f"{reader} {reference} {number}"), send)

    def _program_at(self, notice: Notice, name: str, webhook: Webhook, body: str) -> _Target:
        async def send() -> None:
            await self._webhook(notice, name, webhook, body)

        return _Target(name, self._told(notice, f"{webhook.secret} {webhook.url}"), send)

    def _told(self, notice: Notice, address: str) -> Told:
        return Told.of(notice.event, notice.subject, notice.occurrence, address)

    # ---- how

    async def _apprise(self, address: str, message: Words) -> None:
        patience = APPRISE_TIMEOUT.total_seconds()
        try:
            async with asyncio.timeout(patience + 5):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, _send_by_apprise, address, message, patience)
        except TimeoutError:
            raise NotSent(f"no answer within {patience:.0f} s") from None

    async def _webhook(self, notice: Notice, name: str, webhook: Webhook, body: str) -> None:
        message_id = f"msg_{digest([notice.event, notice.subject, notice.occurrence]).removeprefix('sha256:')[:32]}"
        now = self._clock().astimezone(UTC)
        headers = {
            "content-type": "application/json",
            "user-agent": "Horarium",
            "webhook-id": message_id,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": _signer(webhook).sign(message_id, now, body),
        }
        try:
            async with (
                asyncio.timeout(WEBHOOK_TIMEOUT.total_seconds()),
                httpx2.AsyncClient(follow_redirects=False, timeout=WEBHOOK_TIMEOUT.total_seconds()) as client,
                client.stream("POST", webhook.url, content=body.encode(), headers=headers) as response,
            ):
                status = response.status_code
        except (TimeoutError, httpx2.TimeoutException):
            raise NotSent(f"no answer within {WEBHOOK_TIMEOUT.total_seconds():.0f} s") from None
        except httpx2.HTTPError as error:
            raise NotSent(f"cannot be reached ({type(error).__name__})") from None
        if status == GONE:
            log.warning("notice.gone", address=name, hint="Take this webhook out of [approvals] in horarium.toml.")
        elif not 200 <= status < 300:
            raise NotSent(f"it answered {status}")


def _quieten() -> None:
    for name, least in _TALKATIVE.items():
        logger = logging.getLogger(name)
        logger.setLevel(max(least, logger.level))
    # Apprise turns its own level down and up while it sends, so a level would not hold.
    apprise = logging.getLogger("apprise")
    if apprise.propagate:
        apprise.propagate = False
        apprise.addHandler(logging.NullHandler())


def _addresses(text: str) -> list[str]:
    # Here and below and not above: a worker that tells nobody should not spend a tenth of its start on Apprise.
    from apprise.utils.parse import parse_urls

    return list(parse_urls(text))  # type: ignore[no-untyped-call]


def _send_by_apprise(address: str, message: Words, patience: float) -> None:
    from apprise import Apprise, AppriseAsset, NotifyFormat, OverflowMode

    asset = AppriseAsset(app_id="Horarium", app_desc="Horarium", http_redirects=False)
    service = Apprise.instantiate(address, asset=asset)
    if service is None:
        raise NotSent("Apprise does not know this kind of address")
    # Whatever the address asks for: nothing of a message is cut, and nothing in it becomes a picture.
    service.overflow_mode = OverflowMode.SPLIT
    service.body_max_line_count = 0
    service.interpret_emojis = False
    sender = Apprise(asset=asset)
    sender.add(service)
    result = sender.notify(
        body=message.body, title=message.title, body_format=NotifyFormat.TEXT, interpret_escapes=False, timeout=patience
    )
    if not result:
        status = next(
            (found[1] for entry in result.logs() if (found := re.search(r"error=(\d{3})\b", entry.message))), ""
        )
        raise NotSent(f"{service.service_name} did not take it" + (f" (it answered {status})" if status else ""))


def _signer(webhook: Webhook) -> Signer:
    secret = reveal(webhook.secret)
    try:
        base64.b64decode(secret.removeprefix("whsec_") + "==", validate=True)
        return Signer(secret)
    except Exception:  # it has one of its own for an empty secret, and the cause may quote the secret
        raise ConfigError("its secret is not of the form whsec_<base64>") from None


def _refusal(error: ConfigError) -> _Send:
    async def send() -> None:
        raise error

    return send
