"""Every shape that is recorded, of runs and of ticks: importing a module of shapes is what names them."""

from tests.replay import function_shapes, sub_agent_shapes, tick_shapes
from tests.replay.shapes import SHAPES

__all__ = ["SHAPES", "function_shapes", "sub_agent_shapes", "tick_shapes"]
