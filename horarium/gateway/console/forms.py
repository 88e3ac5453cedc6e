"""What a form sent: read whole, of bounded size, and from a page of this very session."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from typing import Annotated
from urllib.parse import parse_qsl

from fastapi import Depends, Request

from horarium.errors import HorariumError
from horarium.gateway.bodies import BODY_WITHIN, UNKEPT
from horarium.gateway.console.page import Browser, TheBrowser
from horarium.gateway.roles import NotAllowed

MOST_FIELDS = 2_000


class BadForm(HorariumError):
    """A form that is not as our pages have it."""

    code = "bad_form"


class Form:
    """The fields of a form, each at its name; some more than once."""

    def __init__(self, fields: list[tuple[str, str]]) -> None:
        self._fields = fields

    def __getitem__(self, name: str) -> str:
        """The value of a field.

        Raises:
            BadForm: It is not there, or empty.
        """
        value = self.get(name)
        if value is None:
            raise BadForm(f"The field {name!r} is empty.")
        return value

    def __contains__(self, name: str) -> bool:
        """Whether it has the field, as a box that was ticked or the button that was pressed."""
        return any(field == name for field, _ in self._fields)

    def get(self, name: str) -> str | None:
        """The value of a field; None when it is not there, or empty. Lines end as everywhere else here."""
        value = next((value for field, value in self._fields if field == name), "").replace("\r\n", "\n")
        return value if value.strip() else None

    def all(self, name: str) -> list[str]:
        """The values of a field that may be there more than once."""
        return [value for field, value in self._fields if field == name]

    def below(self, prefix: str) -> Iterator[tuple[str, str]]:
        """The fields that begin with this, without it."""
        return ((field.removeprefix(prefix), value) for field, value in self._fields if field.startswith(prefix))


async def _form(request: Request, browser: TheBrowser) -> Form:
    most = request.app.state.settings.gateway.max_body_bytes
    body = bytearray()
    try:
        async with asyncio.timeout(BODY_WITHIN):
            async for part in request.stream():
                body += part
                if len(body) > most:
                    raise BadForm(f"The form has more than the {most:,} bytes that it may have.")
    except TimeoutError as error:
        raise BadForm(f"The form did not come within {BODY_WITHIN:.0f} seconds.") from error
    kind = request.headers.get("content-type", "").partition(";")[0].strip().lower()
    if kind != "application/x-www-form-urlencoded":
        raise BadForm("That is no form of ours.")
    try:
        fields = parse_qsl(body.decode("utf-8"), keep_blank_values=True, max_num_fields=MOST_FIELDS, errors="strict")
    except ValueError as error:
        raise BadForm("The form cannot be read.") from error
    if any(UNKEPT.search(text) for field in fields for text in field):
        raise BadForm("A field has a character that cannot be kept (U+0000).")
    form = Form(fields)
    _check(request, browser, form)
    return form


def _check(request: Request, browser: Browser, form: Form) -> None:
    """The Gate has looked at Host and Origin; a browser that sends no Origin with a form is none that we know."""
    if browser.is_new or not browser.sessions.is_token(browser.session, form.get("token") or ""):
        raise NotAllowed("This form is not from a page of your session.", hint="Load the page again, and repeat it.")
    site = request.headers.get("sec-fetch-site")
    if site not in (None, "same-origin"):
        raise NotAllowed("This form is from another site.")


TheForm = Annotated[Form, Depends(_form)]
