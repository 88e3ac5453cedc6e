"""Deliveries of other services: who sent one, whether it came before, which event it is, and what of it is handed on.

Nothing in a delivery is believed before its signature is checked, over the bytes as they came.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from standardwebhooks import Webhook
from standardwebhooks.webhooks import WebhookVerificationError

from horarium.content import canonical, shorten
from horarium.contract import MAX_INLINE_INPUT_CHARS
from horarium.errors import ConfigError
from horarium.gateway.bodies import NotStrict, strict_json
from horarium.gateway.refusals import BadDelivery, BadSignature
from horarium.secrets import reveal
from horarium.settings import Hook

CUT = "horarium_cut"
_MOST_ID_CHARS = 256
_NOT_IN_EVENT = re.compile(r"[^A-Za-z0-9_.:/-]+")
# Depth, characters of a text, items of a list: a payload that is too long is cut by the first that makes it fit.
_LADDER = ((8, 2_000, 50), (6, 1_000, 20), (4, 500, 10), (3, 200, 5), (2, 100, 3), (1, 50, 0))


@dataclass(frozen=True, slots=True)
class Delivery:
    """One delivery, checked. `key`: the same for the same delivery, however often it is sent."""

    event: str
    key: str
    payload: dict[str, Any]


def checked(hook: Hook, headers: Mapping[str, str], body: bytes) -> Delivery:
    """The delivery in a request.

    Raises:
        BadSignature: It is not signed with the hook's secret, or its time is more than five minutes away.
        BadDelivery: It is no JSON object, or has no id.
        ConfigError: The hook's secret is not there.
    """
    secret = reveal(hook.secret)
    if hook.kind == "github":
        _check_github(secret, headers, body)
        identity, payload = _identity(headers, "x-github-delivery"), _payload(body)
        kind = ".".join(word for word in ("github", headers.get("x-github-event"), _text(payload, "action")) if word)
    else:
        _check_standard(secret, headers, body)
        identity, payload = _identity(headers, "webhook-id"), _payload(body)
        kind = _text(payload, "type") or hook.name
    known_as = hashlib.sha256("\0".join((hook.name, identity)).encode()).hexdigest()[:40]
    return Delivery(hook.event or _event(kind), f"hook-{known_as}", fitted(payload))


def fitted(payload: dict[str, Any], most: int = MAX_INLINE_INPUT_CHARS) -> dict[str, Any]:
    """The payload, cut until it is short enough for an event; then it says so itself, as `horarium_cut`.

    What goes first is deep inside or long: ids, numbers and titles near the top stay.
    """
    if len(canonical(payload)) <= most:
        return payload
    for depth, chars, items in _LADDER:
        cut = {**_cut(payload, depth, chars, items), CUT: True}
        if len(canonical(cut)) <= most:
            return cut
    return {CUT: True}


def _cut(value: Any, depth: int, chars: int, items: int) -> Any:
    if isinstance(value, str):
        return shorten(value, chars)
    if isinstance(value, dict):
        inner = {key: item for key, item in value.items() if depth > 0 or not isinstance(item, dict | list)}
        # Of the addresses that GitHub puts beside everything, those for people are worth their place.
        kept = {key: item for key, item in inner.items() if not key.endswith("_url") or key == "html_url"}
        return {key: _cut(item, depth - 1, chars, items) for key, item in kept.items()}
    if isinstance(value, list):
        return [_cut(item, depth - 1, chars, items) for item in value[:items]]
    return value


def _check_github(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    expected = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    said = headers.get("x-hub-signature-256", "")
    if not hmac.compare_digest(expected.encode(), said.encode("utf-8", "replace")):
        raise BadSignature("The header X-Hub-Signature-256 is not the signature of this body.")


def _check_standard(secret: str, headers: Mapping[str, str], body: bytes) -> None:
    try:
        webhook = Webhook(_key(secret))
    except Exception:  # it has one of its own for an empty secret, and the cause may quote the secret
        raise ConfigError("The hook's secret is not of the form whsec_<base64>.") from None
    try:
        webhook.verify(body, dict(headers), json_parse=False)
    except WebhookVerificationError as error:
        raise BadSignature(f"The delivery is not signed as it should be: {error}.") from error
    except (ValueError, TypeError, OverflowError) as error:  # of headers that are not what they should be
        raise BadSignature("The delivery is not signed as it should be.") from error


def _key(secret: str) -> bytes:
    text = secret.removeprefix("whsec_").rstrip("=")
    return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)


def _identity(headers: Mapping[str, str], name: str) -> str:
    identity = headers.get(name, "")
    if not identity or len(identity) > _MOST_ID_CHARS:
        raise BadDelivery(f"The header {name} is missing, or longer than {_MOST_ID_CHARS} characters.")
    return identity


def _payload(body: bytes) -> dict[str, Any]:
    try:
        read = strict_json(body)
    except NotStrict as error:
        raise BadDelivery(f"The body is no JSON: {error}.", hint="Have it sent as application/json.") from error
    if not isinstance(read, dict):
        raise BadDelivery("The body is no JSON object.")
    return read


def _text(payload: Mapping[str, Any], name: str) -> str | None:
    found = payload.get(name)
    return found if isinstance(found, str) else None


def _event(said: str) -> str:
    found = _NOT_IN_EVENT.sub("_", said).lstrip("_.:/-")[:200]
    if not found:
        raise BadDelivery("It does not say which event it is.", hint="Name one in the hook's settings: `event`.")
    return found
