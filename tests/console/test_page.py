"""What holds for every page: its headers, its forms, and that an error is a page too."""

from __future__ import annotations

from tests.console.browser import Console
from tests.gateway.rest import Rest


async def test_a_page_that_is_not_there_says_so_in_words_and_fits_a_phone(console: Console) -> None:
    await console.page.set_viewport_size({"width": 360, "height": 700})

    await console.see("/runs/run_0", status=404)

    assert "run_0" in await console.main()
    await console.fits()
    await console.accessible()


async def test_pages_load_nothing_from_elsewhere_and_are_framed_by_nobody(rest: Rest) -> None:
    answer = await rest("GET", "/inbox", None)

    policy = answer.headers["content-security-policy"]
    assert "default-src 'none'" in policy
    assert "frame-ancestors 'none'" in policy
    assert "unsafe" not in policy
    assert answer.headers["referrer-policy"] == "same-origin"


async def test_a_form_without_its_sessions_token_is_refused(rest: Rest) -> None:
    answer = await rest("POST", "/sign-out", None, data={"token": "0" * 64})

    assert answer.status_code == 403
