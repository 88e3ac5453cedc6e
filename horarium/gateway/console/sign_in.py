"""Signing in to the console, with an API key or at an OpenID provider, and signing out.

A key is sent once, and from then on the cookie says which it was. The provider is asked with the authorization code
flow, PKCE, a state and a nonce: an answer counts for the browser that asked, once, and only as its own.
"""

from __future__ import annotations

import base64
import hashlib
from typing import Annotated
from urllib.parse import urlencode

import structlog
from fastapi import Query, Request
from starlette.responses import RedirectResponse, Response

from horarium.errors import NotFound, Unreachable
from horarium.gateway.auth import ADDRESS
from horarium.gateway.console.forms import TheForm
from horarium.gateway.console.page import HEADERS, Browser, TheBrowser, own, page, set_session
from horarium.gateway.console.routing import pages
from horarium.gateway.context import TheClient
from horarium.gateway.issuer import CodeRefused
from horarium.gateway.oidc import Holder, Oidc, TokenRefused
from horarium.gateway.roles import Role, role_of
from horarium.gateway.sessions import ERRAND, ERRAND_LASTS
from horarium.ledger.api_keys import ApiKeys
from horarium.secrets import reveal

log = structlog.get_logger()

CALLBACK = "/sign-in/callback"
AGAIN = "Sign in again, from this page."
router = pages()

Next = Annotated[str, Query(max_length=2_000)]
Short = Annotated[str, Query(max_length=4_000)]


@router.get("/sign-in")
async def form(request: Request, browser: TheBrowser, next: Next = "/inbox") -> Response:
    """Where somebody says who he is."""
    if browser.session.is_signed_in and browser.caller.role >= Role.VIEWER:
        return RedirectResponse(own(next), 303, headers=HEADERS)
    return _form(request, next)


@router.post("/sign-in")
async def by_key(request: Request, browser: TheBrowser, form: TheForm, client: TheClient) -> Response:
    """Begin a session with an API key."""
    back = form.get("next") or "/inbox"
    if wait := await request.app.state.limits.wait_of_sign_in(request.scope[ADDRESS]):
        return _too_often(request, back, wait)
    key = await ApiKeys(client.require_ledger()).check((form.get("key") or "").strip())
    if key is None:
        log.info("console.sign_in_refused", how="key", address=request.scope[ADDRESS])
        await request.app.state.limits.failed(request.scope[ADDRESS])
        return _form(request, back, 401, "This key is wrong, expired or revoked.")
    if role_of(key.scopes) < Role.VIEWER:
        return _form(request, back, 403, "This key has no role, so it opens no page.")
    return _signed_in(browser, back, how="key", name=key.name, tenant=key.tenant, key=key.id)


@router.get("/sign-in/oidc")
async def to_provider(request: Request, browser: TheBrowser, next: Next = "/inbox") -> Response:
    """Send somebody to the OpenID provider."""
    oidc = _oidc(request)
    if wait := await request.app.state.limits.wait_of_sign_in(request.scope[ADDRESS]):
        return _too_often(request, next, wait)
    metadata = await oidc.issuer.metadata()
    if metadata.authorization_endpoint is None:
        raise Unreachable("The OpenID issuer names no page to sign in at.")
    errand = browser.sessions.begin_errand(own(next))
    digest = hashlib.sha256(errand.verifier.encode()).digest()
    query = {
        "response_type": "code",
        "response_mode": "query",
        "client_id": oidc.settings.client_id,
        "redirect_uri": _callback(request, browser),
        "scope": "openid profile email",
        "state": errand.state,
        "nonce": errand.nonce,
        "code_challenge": base64.urlsafe_b64encode(digest).rstrip(b"=").decode(),
        "code_challenge_method": "S256",
    }
    joint = "&" if "?" in metadata.authorization_endpoint else "?"
    answer = RedirectResponse(f"{metadata.authorization_endpoint}{joint}{urlencode(query)}", 303, headers=HEADERS)
    answer.set_cookie(
        browser.cookie(ERRAND),
        browser.sessions.errand_cookie(errand),
        max_age=int(ERRAND_LASTS.total_seconds()),
        path="/",
        secure=browser.secure,
        httponly=True,
        samesite="lax",
    )
    return answer


@router.get(CALLBACK)
async def from_provider(
    request: Request, browser: TheBrowser, code: Short = "", state: Short = "", error: Short = "", iss: Short = ""
) -> Response:
    """Take the provider's answer, and begin a session."""
    answer = await _answered(request, browser, code, state, error, iss)
    answer.delete_cookie(
        browser.cookie(ERRAND), path="/", secure=browser.secure, httponly=True, samesite="lax"
    )  # one answer for each time that somebody was sent there
    return answer


@router.post("/sign-out")
async def sign_out(_form: TheForm, browser: TheBrowser) -> Response:
    """End the session of this browser."""
    answer = RedirectResponse("/sign-in", 303, headers=HEADERS)
    set_session(answer, browser, browser.sessions.begin())
    return answer


async def _answered(request: Request, browser: Browser, code: str, state: str, error: str, iss: str) -> Response:
    oidc = _oidc(request)
    errand = browser.sessions.read_errand(request.cookies.get(browser.cookie(ERRAND)), state)
    if errand is None:
        return _refused(request, "state", "This answer belongs to no sign-in of this browser, or it came too late.")
    metadata = await oidc.issuer.metadata()
    needs_iss = metadata.authorization_response_iss_parameter_supported
    if (iss or needs_iss) and iss != metadata.issuer:
        return _refused(request, "issuer", "This answer is another provider's.")
    if error or not code:
        return _refused(request, error[:100] or "no code", "The provider did not sign you in.", errand.next)
    secret = oidc.settings.client_secret
    try:
        token = await oidc.issuer.exchange(
            code,
            verifier=errand.verifier,
            redirect_uri=_callback(request, browser),
            secret=reveal(secret) if secret is not None else None,
        )
        holder = await oidc.signed_in(token, nonce=errand.nonce)
    except CodeRefused:
        return _refused(request, "code", "The provider does not take its own answer: it was used before.", errand.next)
    except TokenRefused as refused:
        return _refused(request, refused.reason, "What the provider says of you does not count here.", errand.next)
    if holder.role < Role.VIEWER:
        return _without_role(request, holder, errand.next)
    return _signed_in(
        browser,
        errand.next,
        how="oidc",
        name=holder.name,
        tenant=holder.tenant,
        role=int(holder.role),
        key=holder.id,
    )


def _signed_in(browser: Browser, back: str, **who: object) -> Response:
    """A session of its own: one that the browser brought along is left behind."""
    log.info("console.signed_in", how=who["how"], name=who["name"], tenant=who["tenant"])
    answer = RedirectResponse(own(back), 303, headers=HEADERS)
    set_session(answer, browser, browser.sessions.begin(**who))
    return answer


def _form(request: Request, back: str, status: int = 200, wrong: str | None = None) -> Response:
    oidc: Oidc | None = request.app.state.oidc
    provider = oidc is not None and oidc.settings.client_id is not None
    return page(request, "sign_in.html", status, title="Sign in", wrong=wrong, next=own(back), provider=provider)


def _refused(request: Request, reason: str, words: str, back: str = "/inbox") -> Response:
    log.info("console.sign_in_refused", how="oidc", reason=reason, address=request.scope[ADDRESS])
    return _form(request, back, 403, f"{words} {AGAIN}")


def _without_role(request: Request, holder: Holder, back: str) -> Response:
    log.info("console.sign_in_refused", how="oidc", reason="role", address=request.scope[ADDRESS])
    words = f"You are {holder.name}, who has no role here. Ask whoever looks after the provider for one."
    return _form(request, back, 403, words)


def _too_often(request: Request, back: str, wait: int) -> Response:
    answer = _form(request, back, 429, f"These are too many attempts. Try again in {wait} seconds.")
    answer.headers["Retry-After"] = str(wait)
    return answer


def _oidc(request: Request) -> Oidc:
    oidc: Oidc | None = request.app.state.oidc
    if oidc is None or oidc.settings.client_id is None:
        raise NotFound("Nobody signs in at a provider here.", hint="See `[gateway.oidc]`, and its `client_id`.")
    return oidc


def _callback(request: Request, browser: Browser) -> str:
    """Where the provider sends people back to: the name that they came by, which the Gate has let in."""
    return f"{'https' if browser.secure else 'http'}://{request.headers['host'].lower()}{CALLBACK}"
