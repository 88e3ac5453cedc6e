"""The activity `send_alert`: people and programs are told of a routine that failed, works again, or is late."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from datetime import UTC, datetime

import structlog
from temporalio import activity
from temporalio.exceptions import ApplicationError

from activities.alert_words import webhook_body, words
from activities.sending import Sender, Target
from horarium.content import digest
from horarium.errors import ConfigError
from horarium.ledger.alerts import Alerts, AlertShown
from horarium.ledger.database import Ledger
from horarium.ledger.notices import Told
from horarium.routines import Routine
from horarium.settings import Settings
from horarium.tick_protocol import SEND_ALERT, Alert

log = structlog.get_logger()

NextFire = Callable[[Routine, datetime], datetime | None]


class Alerter:
    """The activity `send_alert` and what it needs.

    Args:
        next_fire: When a routine fires next after a moment.
    """

    def __init__(
        self,
        ledger: Ledger,
        settings: Settings,
        next_fire: NextFire,
        clock: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        self._alerts = Alerts(ledger)
        self._settings = settings.routines
        self._gateway = settings.approvals.links
        self._next_fire = next_fire
        self._clock = clock
        self._sender = Sender(ledger, clock, section="routines")

    @activity.defn(name=SEND_ALERT)
    async def send_alert(self, alert: Alert) -> None:
        """Send one alert to every address that has not had it.

        Safe to repeat. An address that accepted the message just before this process died gets it twice; a
        webhook then has the same `webhook-id`.

        Raises:
            ApplicationError: Some addresses did not take it; to be tried again.
        """
        shown = await self._alerts.shown(alert)
        if shown is None:
            return
        say = log.info if alert.event == "recovered" else log.warning
        say(f"routine.{alert.event}", routine=alert.routine, tick=alert.tick, occurrence=alert.occurrence)
        sent = await self._sender.deliver(self._targets(shown))
        if sent.problems:
            log.warning("notice.failed", notice=f"routine.{alert.event}", subject=alert.routine, problems=sent.problems)
            await self._alerts.failed(alert, shown.routine.tenant, sent.problems, self._clock())
            raise ApplicationError(sent.words, type="notice_failed")

    def _targets(self, shown: AlertShown) -> Iterator[Target]:
        alert, name = shown.alert, shown.routine.name
        about = ["routine", alert.event, name, alert.occurrence]

        def told(address: str) -> Told:
            where = digest(address)
            return Told(digest([*about, where]), where)

        link = f"{self._gateway.rstrip('/')}/routines/{name}" if self._gateway else None
        next_fire = self._next(shown)
        message = words(shown, link, next_fire)
        everywhere = [(f"routines.alert {n}", reference) for n, reference in enumerate(self._settings.alert, 1)]
        own = [(f"{name}.alert {n}", reference) for n, reference in enumerate(shown.routine.routine.alert, 1)]
        # The same address under both is told once.
        for reference, label in {reference: label for label, reference in (*own, *everywhere)}.items():
            yield from self._sender.people(label, reference, told, lambda: message)
        body = webhook_body(shown, link, next_fire)
        for number, webhook in enumerate(self._settings.webhooks, 1):
            yield self._sender.program(f"routines.webhooks {number}", webhook, told, about, body)

    def _next(self, shown: AlertShown) -> datetime | None:
        if shown.routine.paused or shown.routine.deleted_at is not None:
            return None
        try:
            return self._next_fire(shown.routine.routine, self._clock())
        except ConfigError:  # a zone that is gone must not keep an alert back
            return None
