"""When the shop is open."""

from __future__ import annotations

from horarium import tool


@tool(effect="read")
def opening_hours(day: str) -> str:
    """Say when the parcel shop is open.

    Args:
        day: A day of the week, like Monday.
    """
    return "closed" if day.strip().lower() == "sunday" else "from 8 to 18"
