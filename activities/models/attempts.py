"""What becomes of a step whose model does not answer for now: another attempt later, until it was enough of them."""

from __future__ import annotations

from datetime import timedelta

import structlog
from temporalio.exceptions import ApplicationError

from horarium.content import clean_text, shorten
from horarium.definitions import ModelSettings
from horarium.errors import ModelUnavailable
from horarium.ledger.journal import Held, Journal, StepRecord
from horarium.protocol import NOTE_CHARS

log = structlog.get_logger()

FIRST_RETRY = timedelta(seconds=1)
MOST_RETRY = timedelta(minutes=1)


async def unavailable(journal: Journal, held: Held, settings: ModelSettings, error: ModelUnavailable) -> StepRecord:
    """Wait as told; a throttled call is handed back uncounted, so that no attempt is used up by it.

    Returns:
        The step, settled as failed, when this was the last attempt.

    Raises:
        ApplicationError: It is worth another; carries the time to wait.
    """
    words = shorten(clean_text(str(error))[0], NOTE_CHARS)
    log.warning("model.unavailable", error=words, attempt=held.attempt)
    if error.throttled:
        await journal.hand_back(held)
        delay = error.retry_after or FIRST_RETRY * 5
        raise ApplicationError(words, type=error.code, next_retry_delay=delay) from None
    if held.failures + 1 >= settings.attempts:
        return await journal.settle(held, "failed", "", code=error.code, message=words)
    failures = await journal.attempt_failed(held, words)
    delay = error.retry_after or min(FIRST_RETRY * 2 ** (failures - 1), MOST_RETRY)
    raise ApplicationError(words, type=error.code, next_retry_delay=delay) from None
