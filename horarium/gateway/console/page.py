"""What every page has: its template, its headers, whose browser it is, and what the last order came to."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated, Any
from urllib.parse import quote, urlsplit

from fastapi import Depends, Request
from jinja2 import Environment, PackageLoader, StrictUndefined
from starlette.responses import HTMLResponse, RedirectResponse, Response

from horarium.errors import HorariumError
from horarium.gateway.auth import ANYBODY, CALLER, LOOPBACK_NAMES, SESSION, Caller
from horarium.gateway.console.assets import static
from horarium.gateway.console.words import FILTERS
from horarium.gateway.roles import Role
from horarium.gateway.sessions import COOKIE, SAID, Said, Session, Sessions, is_secure

HEADERS = {
    "Content-Security-Policy": "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; "
    "connect-src 'self'; form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "X-Frame-Options": "DENY",
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "same-origin",  # with `no-referrer` a browser would not say its Origin with a form
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Permissions-Policy": "camera=(), geolocation=(), microphone=()",
    "Cache-Control": "no-store",
}
NAVIGATION = (
    ("/inbox", "Inbox"),
    ("/runs", "Runs"),
    ("/routines", "Routines"),
    ("/agents", "Agents"),
    ("/memory", "Memory"),
    ("/system", "System"),
)

_environment = Environment(
    loader=PackageLoader("horarium.gateway.console"),
    autoescape=True,
    undefined=StrictUndefined,
    trim_blocks=True,
    lstrip_blocks=True,
)
_environment.filters.update(FILTERS)
_environment.globals["static"] = static


@dataclass(frozen=True, slots=True)
class Browser:
    """Who looks, and with which session. `is_new`: the browser does not have its cookie yet."""

    session: Session
    sessions: Sessions
    caller: Caller
    is_new: bool
    secure: bool

    @property
    def token(self) -> str:
        """For its forms."""
        return self.sessions.token(self.session)

    def cookie(self, name: str) -> str:
        """How a cookie of ours is called in this browser."""
        return self.sessions.cookie_name(name, secure=self.secure)


def _browser(request: Request) -> Browser:
    sessions: Sessions = request.app.state.sessions
    secure = is_secure(request.headers, request.app.state.loopback_hosts)
    session: Session | None = request.scope.get(SESSION)
    return Browser(
        session=session or sessions.begin(),
        sessions=sessions,
        caller=request.scope.get(CALLER, ANYBODY),
        is_new=session is None,
        secure=secure,
    )


TheBrowser = Annotated[Browser, Depends(_browser)]


def loopback_hosts(port: int) -> frozenset[str]:
    """The Host headers of this machine's own loopback."""
    return frozenset(name if port == 80 else f"{name}:{port}" for name in LOOPBACK_NAMES)


def page(request: Request, template: str, status: int = 200, **context: Any) -> HTMLResponse:
    """A page.

    Args:
        request: That it answers.
        template: Its file in templates/.
        status: Of HTTP.
        context: What the template shows. `title` is needed; `here`: its noun, when not in its address.
    """
    browser = _browser(request)
    said = browser.sessions.read_said(request.cookies.get(browser.cookie(SAID)))
    text = _environment.get_template(template).render(
        caller=browser.caller,
        role=browser.caller.role,
        Role=Role,
        token=browser.token,
        session=browser.session,
        navigation=NAVIGATION,
        here=context.pop("here", request.url.path),
        address=request.url.path + (f"?{request.url.query}" if request.url.query else ""),
        said=said,
        **context,
    )
    answer = HTMLResponse(text, status, headers=HEADERS)
    if browser.is_new:
        set_session(answer, browser, browser.session)
    if said is not None:
        answer.delete_cookie(browser.cookie(SAID), path="/", secure=browser.secure, httponly=True, samesite="lax")
    return answer


def set_session(answer: Response, browser: Browser, session: Session) -> None:
    """Give the browser this session."""
    _set(answer, browser, COOKIE, browser.sessions.cookie(session))


def said(request: Request, text: str, *, back: str, tone: str = "good", hint: str | None = None) -> Response:
    """Go on to a page of ours, which says this on top.

    Args:
        request: The order that was obeyed, or was not.
        text: What became of it.
        back: The page; an address elsewhere is not followed.
        tone: `good` or `bad`.
        hint: What to do next.
    """
    browser = _browser(request)
    answer = RedirectResponse(own(back), 303, headers=HEADERS)
    message = Said.model_validate({"tone": tone, "text": text, "hint": hint})
    _set(answer, browser, SAID, browser.sessions.said_cookie(message))
    return answer


def refused(request: Request, error: HorariumError, *, back: str) -> Response:
    """Go on to a page of ours, which says why an order was not obeyed."""
    message = str(error.args[0]) if error.args else str(error)
    return said(request, message, back=back, tone="bad", hint=error.hint)


def own(address: str | None, instead: str = "/inbox") -> str:
    """An address, when it is one of this site and none that a browser would read as another's."""
    if address is None or not address.startswith("/") or address[1:2] in ("/", "\\"):
        return instead
    if any(ord(char) <= 0x20 or ord(char) == 0x7F or char == "\\" for char in address):
        return instead
    parts = urlsplit(address)
    return instead if parts.scheme or parts.netloc else quote(address, safe="/?=&%#:@!$'()*+,;~-._")


_environment.filters["own"] = own


def _set(answer: Response, browser: Browser, name: str, value: str) -> None:
    answer.set_cookie(browser.cookie(name), value, path="/", secure=browser.secure, httponly=True, samesite="lax")
