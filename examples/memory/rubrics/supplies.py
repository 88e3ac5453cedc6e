"""When a run did well enough to teach how orders are made."""

from horarium import JudgedRun


def looked_first(run: JudgedRun) -> float:
    """Whoever orders without a look at the stock teaches nobody."""
    return 1.0 if run.called("read_stock") else 0.0
