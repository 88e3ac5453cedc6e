"""Every shape that is recorded, of runs and of ticks: importing a module of shapes is what names them."""

from tests.replay import answer_shapes, function_shapes, segment_shapes, sub_agent_shapes, tick_shapes
from tests.replay.shapes import GATEWAYS, SHAPES

__all__ = [
    "GATEWAYS",
    "SHAPES",
    "answer_shapes",
    "function_shapes",
    "segment_shapes",
    "sub_agent_shapes",
    "tick_shapes",
]
