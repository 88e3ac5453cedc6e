"""Why a delivery of another service is not taken."""

from __future__ import annotations

from horarium.errors import HorariumError


class BadSignature(HorariumError):
    """Whoever sent this does not have the hook's secret, or sends it long after it was signed."""

    code = "bad_signature"


class BadDelivery(HorariumError):
    """It is signed, and there is something missing in it."""

    code = "bad_delivery"
