"""What is written into Temporal's history, and how: one converter for every process of ours.

Pydantic JSON, as the contract says; any Temporal client can read and write it. Two things are ours.
The engine's own payloads leave out what stands at its default, for they are written several times a
turn and kept for as long as the run is. And a failure carries no stack: that names files of the
machine it came from, and belongs into that machine's log.
"""

from __future__ import annotations

from typing import Any

from temporalio.api.common.v1 import Payload as WirePayload
from temporalio.api.failure.v1 import Failure
from temporalio.contrib.pydantic import PydanticJSONPlainPayloadConverter
from temporalio.converter import (
    CompositePayloadConverter,
    DataConverter,
    DefaultFailureConverter,
    DefaultPayloadConverter,
    JSONPlainPayloadConverter,
    PayloadConverter,
)

from horarium.protocol import Payload


class _Json(PydanticJSONPlainPayloadConverter):
    def to_payload(self, value: Any) -> WirePayload | None:
        if not isinstance(value, Payload):
            return super().to_payload(value)
        data = value.__pydantic_serializer__.to_json(value, exclude_defaults=True)
        return WirePayload(metadata={"encoding": b"json/plain"}, data=data)


_JSON = _Json()
_CONVERTERS = tuple(
    _JSON if isinstance(converter, JSONPlainPayloadConverter) else converter
    for converter in DefaultPayloadConverter.default_encoding_payload_converters
)


class HorariumPayloadConverter(CompositePayloadConverter):
    """The SDK makes a new one for every workflow task (1.35), so what is costly to make is shared."""

    def __init__(self) -> None:
        super().__init__(*_CONVERTERS)


class WithoutStacks(DefaultFailureConverter):
    """Failures with their type, message and details alone."""

    def to_failure(self, exception: BaseException, payload_converter: PayloadConverter, failure: Failure) -> None:
        """See the base class; it comes here again for each cause."""
        super().to_failure(exception, payload_converter, failure)
        failure.stack_trace = ""


data_converter = DataConverter(payload_converter_class=HorariumPayloadConverter, failure_converter_class=WithoutStacks)
