"""How a message leaves: to an Apprise address, or as a signed webhook; each message to each address once.

What went out is written down right after, so a repeated attempt sends only what is missing. Addresses are secrets and
messages may hold links as good as a person's word: neither is ever logged or raised.
"""

from __future__ import annotations

import asyncio
import base64
import logging
import re
from collections.abc import Awaitable, Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import httpx2
import structlog
from standardwebhooks import Webhook as Signer

from activities.notice_words import Words
from horarium.content import digest
from horarium.errors import ConfigError
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Notices, Told
from horarium.secrets import SecretReference, conceal, redact, reveal
from horarium.settings import RunWebhook, Webhook

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
class Target:
    """One address: what it is called where people read it, and how to send there."""

    name: str
    told: Told
    send: _Send


@dataclass(frozen=True, slots=True)
class Sent:
    """What became of sending: how many addresses there are, and what is wrong with those that were not told."""

    targets: int
    problems: Sequence[str]

    @property
    def words(self) -> str:
        """The problems as one sentence."""
        return redact(f"{len(self.problems)} of {self.targets} addresses were not told: {'; '.join(self.problems)}")


class Sender:
    """Sends messages and remembers, in the ledger, which ones went out."""

    def __init__(self, ledger: Ledger, clock: Callable[[], datetime], *, section: str) -> None:
        self._notices = Notices(ledger)
        self._clock = clock
        self._section = section
        # Of its own: a mail server that hangs must not hold up whatever else waits for a thread.
        self._threads = ThreadPoolExecutor(8, "send")
        _quieten()

    async def deliver(self, targets: Iterable[Target]) -> Sent:
        """Send to every address that has not had it. Safe to repeat.

        An address that accepted the message just before this process died gets it twice; a webhook then has the same
        `webhook-id`.
        """
        wanted = list(targets)
        sent = await self._notices.sent([target.told.id for target in wanted])
        missing = [target for target in wanted if target.told.id not in sent]
        # All are waited for, whatever becomes of one: what went out must be written down.
        results = await asyncio.gather(*map(self._tell, missing), return_exceptions=True)
        for result in results:
            if isinstance(result, BaseException):
                raise result
        return Sent(len(wanted), [result for result in results if isinstance(result, str)])

    async def _tell(self, target: Target) -> str | None:
        """Send, and write it down; otherwise what is wrong."""
        try:
            await target.send()
        except (NotSent, ConfigError) as error:
            return redact(f"{target.name}: {error}")
        except Exception as error:  # of a library; its text may quote the address
            return f"{target.name}: it broke with {type(error).__name__}"
        await self._notices.record(target.told, self._clock())
        return None

    def people(
        self,
        name: str,
        reference: SecretReference,
        told: Callable[[str], Told],
        message: Callable[[], Words],
        *,
        reader: str = "everybody",
    ) -> Iterator[Target]:
        """A reference may hold several addresses; each is told, and tried again, by itself.

        Args:
            name: What people call it, as `notify 1`.
            told: Names the message to one address.
            message: Made when it is sent: it may hold a link for one reader.
        """
        key = f"{reader} {reference}"
        try:
            addresses = _addresses(reveal(reference))
        except ConfigError as error:
            yield Target(name, told(key), _refusal(error))
            return
        for number, address in enumerate(addresses, 1):
            conceal(address)
            called = name if len(addresses) == 1 else f"{name}.{number}"

            async def send(address: str = address) -> None:
                await self._apprise(address, message())

            yield Target(called, told(f"{key} {number}"), send)

    def program(
        self, name: str, webhook: Webhook | RunWebhook, told: Callable[[str], Told], about: object, body: str
    ) -> Target:
        """A webhook; `about` names the message, so that each attempt carries the same `webhook-id`."""
        message_id = f"msg_{digest(about).removeprefix('sha256:')[:32]}"

        async def send() -> None:
            await self._webhook(name, webhook, message_id, body)

        return Target(name, told(f"{webhook.secret} {webhook.url}"), send)

    async def _apprise(self, address: str, message: Words) -> None:
        patience = APPRISE_TIMEOUT.total_seconds()
        try:
            async with asyncio.timeout(patience + 5):
                loop = asyncio.get_running_loop()
                await loop.run_in_executor(self._threads, _send_by_apprise, address, message, patience)
        except TimeoutError:
            raise NotSent(f"no answer within {patience:.0f} s") from None

    async def _webhook(self, name: str, webhook: Webhook | RunWebhook, message_id: str, body: str) -> None:
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
            log.warning(
                "notice.gone", address=name, hint=f"Take this webhook out of [{self._section}] in horarium.toml."
            )
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


def _signer(webhook: Webhook | RunWebhook) -> Signer:
    secret = reveal(webhook.secret)
    try:
        encoded = secret.removeprefix("whsec_").rstrip("=")  # some leave the padding out
        base64.b64decode(encoded + "=" * (-len(encoded) % 4), validate=True)
        return Signer(secret)
    except Exception:  # it has one of its own for an empty secret, and the cause may quote the secret
        raise ConfigError("its secret is not of the form whsec_<base64>") from None


def _refusal(error: ConfigError) -> _Send:
    async def send() -> None:
        raise error

    return send
