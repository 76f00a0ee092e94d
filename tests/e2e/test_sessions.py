"""The session cookie in a real Chromium: what pages of the gateway may do with it, and pages of other origins may not (T66)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from tests.e2e.conftest import Owner

pytestmark = [
    pytest.mark.needs_chromium,
    pytest.mark.timeout(60),
    pytest.mark.parametrize("live", ["seaweedfs"], indirect=True),  # the bucket makes no difference
]

FETCH = """async ([url, method, body]) => {
    const headers = body === null ? {} : {"Content-Type": "application/json"}
    const options = {method, credentials: "include", headers, body: body === null ? undefined : JSON.stringify(body)}
    return fetch(url, options).then((answer) => answer.status, () => 0)
}"""
FORM = """url => {
    document.body.innerHTML = `<form method="post" enctype="text/plain" action="${url}">
        <input name='{"name":"form","x":"' value='"}'>`
    document.forms[0].submit()
}"""
IMAGE = """async url => new Promise((done) => {
    const image = new Image()
    image.onload = () => done("shown")
    image.onerror = () => done("not shown")
    image.src = url
})"""


@pytest.fixture
def page(browser: Any, owner: Owner) -> Iterator[Any]:
    """A page of the gateway, in a browser in which the owner has signed in."""
    context = browser.new_context(bypass_csp=True)  # so that the test can call fetch() in any page
    page = context.new_page()
    page.goto(f"{owner.live.url}/")
    assert fetched(page, "/api/session", "POST", {"key": owner.key}) == 200
    yield page
    context.close()


def fetched(page: Any, url: str, method: str = "GET", body: Any = None) -> int:
    """The status of a request that a script of the page makes; 0 if it may not see the response."""
    status: int = page.evaluate(FETCH, [url, method, body])
    return status


def folders(owner: Owner) -> list[str]:
    return [folder["name"] for folder in owner.client.get("/api/folders").json["items"]]


def test_T66_pages_of_the_gateway_use_the_session(page: Any, owner: Owner) -> None:
    assert page.evaluate("document.cookie") == ""
    assert fetched(page, "/api/folders", "POST", {"name": "own"}) == 201
    assert folders(owner) == ["own"]
    assert fetched(page, "/api/session", "DELETE") == 204
    assert fetched(page, "/api/folders") == 401


# Another port of the gateway's host is the same site, so the browser sends the cookie, and CORS_ORIGINS has this origin. Another
# host is another site, whose pages can't even see a response.
@pytest.mark.parametrize(
    ("host", "refused", "unknown", "sent"), [("127.0.0.1", 403, 401, 403), ("localhost", 0, 0, 401)]
)
def test_T66_pages_of_other_origins_can_not(
    page: Any, owner: Owner, host: str, refused: int, unknown: int, sent: int
) -> None:
    gateway, elsewhere = owner.live.url, owner.live.page.replace("127.0.0.1", host) + "/plain.html"
    picture = f"{gateway}/api/files/{owner.client.add('pixel.gif', PIXEL)['id']}/download?mode=proxy&disposition=inline"
    assert page.evaluate(IMAGE, picture) == "shown"
    page.goto(elsewhere)
    assert fetched(page, f"{gateway}/api/folders", "POST", {"name": "fetch"}) == refused
    assert fetched(page, f"{gateway}/api/session", "DELETE") == refused
    assert fetched(page, f"{gateway}/api/session", "POST", {"key": owner.key}) == refused
    assert fetched(page, f"{gateway}/api/folders") == unknown
    assert page.evaluate(IMAGE, picture) == "not shown"
    with page.expect_navigation() as answer:
        page.evaluate(FORM, f"{gateway}/api/folders")
    assert answer.value.status == sent
    assert folders(owner) == []
    page.goto(elsewhere)
    with page.expect_navigation() as answer:
        page.evaluate("url => { location.href = url }", f"{gateway}/api/files")
    assert answer.value.status == 200  # a link that a person follows


PIXEL = bytes.fromhex("47494638396101000100800000000000ffffff21f90401000000002c00000000010001000002024401003b")  # a GIF
