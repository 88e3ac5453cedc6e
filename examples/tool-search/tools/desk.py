"""What the desk of a small town library can look up; a few rows stand for its books."""

from __future__ import annotations

from datetime import date, timedelta
from typing import TypeVar

from horarium import ToolError, tool

Row = TypeVar("Row")

BOOKS = {"B1": ("The Sea Wall", "M. Duras"), "B2": ("Bees of the North", "K. Lund"), "B3": ("Old Maps", "R. Iyer")}
LOANS = {"B1": ("2041", date(2026, 11, 2)), "B3": ("1187", date(2026, 12, 5))}
FEES = {"2041": [("The Sea Wall", 150)]}
ROOMS = {"Oak": 6, "Elm": 12}
EVENTS = {"E1": "Reading with K. Lund, 4 December, 19:00", "E2": "Repair café, 6 December, 14:00"}


@tool(effect="read")
def find_book(words: str) -> dict[str, str]:
    """Search the catalogue by words of title or author."""
    return {
        number: f"{title}, {by}" for number, (title, by) in BOOKS.items() if words.lower() in f"{title} {by}".lower()
    }


@tool(effect="read")
def show_book(number: str) -> str:
    """Show title and author of one book."""
    return ", ".join(_known(BOOKS, number))


@tool(effect="read")
def list_new_books() -> list[str]:
    """List what was bought this month."""
    return [BOOKS["B2"][0]]


@tool(effect="read")
def is_on_loan(number: str) -> bool:
    """Tell whether somebody has borrowed a book."""
    return number in LOANS


@tool(effect="read")
def list_loans(card: str) -> list[str]:
    """List the books that a visitor has borrowed."""
    return [BOOKS[number][0] for number, (whose, _) in LOANS.items() if whose == card]


@tool(effect="read")
def due_date(number: str) -> date:
    """Tell until when a borrowed book has to be brought back."""
    return _known(LOANS, number)[1]


@tool(effect="read")
def list_reservations(card: str) -> list[str]:
    """List the books that are kept aside for a visitor."""
    return []


@tool(effect="read")
def outstanding_fees(card: str) -> list[str]:
    """Tell what a visitor still has to pay, in cents, and for which book."""
    return [f"{cents} cents for {title!r}" for title, cents in FEES.get(card, [])]


@tool(effect="read")
def card_expiry(card: str) -> date:
    """Tell until when a library card is valid."""
    return date(2026, 1, 1) + timedelta(days=int(card) % 365)


@tool(effect="read")
def opening_hours(day: str) -> str:
    """Tell when the library is open on a weekday."""
    return "closed" if day.lower() == "sunday" else "10:00 to 18:00"


@tool(effect="read")
def holidays() -> list[str]:
    """List the days on which the library stays closed."""
    return ["25 December", "1 January"]


@tool(effect="read")
def list_branches() -> list[str]:
    """List the houses of the library with their addresses."""
    return ["Market Square 3", "Harbour Lane 12"]


@tool(effect="read")
def directions(branch: str) -> str:
    """Tell how to get to a house of the library by bus."""
    return "Bus 7 to Market Square."


@tool(effect="read")
def list_rooms() -> dict[str, int]:
    """List study rooms with their seats."""
    return ROOMS


@tool(effect="read")
def free_rooms(day: date, seats: int) -> list[str]:
    """Find study rooms that are free on a day."""
    return [room for room, there in ROOMS.items() if there >= seats]


@tool(effect="read")
def list_events() -> list[str]:
    """List readings and other events of the coming weeks."""
    return list(EVENTS)


@tool(effect="read")
def event_details(event: str) -> str:
    """Tell what an event is about, and when."""
    return _known(EVENTS, event)


@tool(effect="read")
def story_times() -> str:
    """Tell when children are read to."""
    return "Saturdays at eleven"


@tool(effect="read")
def printer_prices() -> str:
    """Tell what copying and printing cost."""
    return "10 cents a page"


@tool(effect="read")
def wifi_password() -> str:
    """Tell the password of the visitors' network."""
    return "quiet-please"


def _known(rows: dict[str, Row], number: str) -> Row:
    if number not in rows:
        raise ToolError(f"There is no {number!r}. There are: {', '.join(rows)}.")
    return rows[number]
