"""Signing in at an identity provider by OpenID Connect's code flow, and attacks on it (T62, T66)."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any
from urllib.parse import parse_qs, urlencode, urlsplit

import pytest
from flask import Flask
from openapi_spec_validator import validate

from app import create_app, wire
from services import Services
from settings import Settings
from tests.browser import Browser
from tests.client import Answer, GatewayClient
from tests.identity_provider import AUDIENCE, CLIENT, SECRET, IdentityProvider, Key

pytestmark = pytest.mark.memory_store
BASE = "http://gateway.test"
CALLBACK = "/api/session/oidc/callback"


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


@pytest.fixture
def told(request: pytest.FixtureRequest, provider: IdentityProvider, settings: Settings) -> Settings:
    ours = {
        "jwt_issuer": provider.issuer,
        "oidc_client_id": CLIENT,
        "oidc_client_secret": SECRET,
        "rate_limit_logins": "1000/minute",
    }
    return Settings(_env_file=None, **(settings.model_dump() | ours | getattr(request, "param", {})))


@pytest.fixture
def gateway(told: Settings, services: Services) -> Flask:
    return create_app(told, wire(told, db=services.db))


@pytest.fixture
def browser(gateway: Flask) -> Browser:
    return Browser(gateway, site="cross-site")  # as it says when the provider sends it back


def begin(browser: Browser, return_to: str | None = None) -> str:
    """Where the provider is."""
    answer = browser.get("/api/session/oidc", params={} if return_to is None else {"return_to": return_to})
    assert answer.status == 302, answer.body
    return answer.headers["Location"]


def come_back(browser: Browser, location: str) -> Answer:
    assert location.startswith(BASE + CALLBACK)
    return browser.get(location.removeprefix(BASE), headers={"Sec-Fetch-Mode": "navigate"})


def attempt(browser: Browser, provider: IdentityProvider) -> Answer:
    return come_back(browser, provider.log_in(begin(browser)))


def is_signed_in(browser: Browser) -> bool:
    return browser.get("/api/files", headers={"Sec-Fetch-Site": "same-origin"}).status == 200


def changed(location: str, **values: str | None) -> str:
    """The address with other parameters; None leaves one out."""
    parts = urlsplit(location)
    query = {name: found[0] for name, found in parse_qs(parts.query).items()} | values
    return parts._replace(query=urlencode({name: value for name, value in query.items() if value is not None})).geturl()


def test_a_person_signs_in_at_the_provider(browser: Browser, provider: IdentityProvider) -> None:
    answer = come_back(browser, provider.log_in(begin(browser, "/folders/7?sort=name&q=%C3%A9#top")))
    assert (answer.status, answer.headers["Location"]) == (302, BASE + "/folders/7?sort=name&q=%C3%A9#top")
    assert is_signed_in(browser)
    assert set(browser.cookies) == {"session"}  # that of the login is gone
    cookie = browser.cookies["session"]
    assert (cookie["httponly"], cookie["samesite"]) == (True, "Lax")
    made = browser.post("/api/folders", json={"name": "x"}, headers={"Sec-Fetch-Site": "same-origin"})
    assert made.status == 201


def test_the_request_follows_the_standards(browser: Browser, provider: IdentityProvider) -> None:
    first, second = (parse_qs(urlsplit(begin(browser)).query) for _ in range(2))
    assert first["redirect_uri"] == [BASE + CALLBACK]
    for name in ("state", "nonce", "code_challenge"):
        assert len(first[name][0]) >= 43
        assert first[name] != second[name]
    cookie = browser.cookies["login"]
    assert (cookie["httponly"], cookie["samesite"], cookie["max-age"]) == (True, "Lax", "600")


def test_the_document_has_the_routes(gateway: Flask, app: Flask) -> None:
    document = GatewayClient(gateway).document
    validate(document)
    assert {"/api/session/oidc", CALLBACK} <= document["paths"].keys()
    assert GatewayClient(app).get("/api/session/oidc").status == 401  # without a provider: no such route


@pytest.mark.parametrize("told", [{"jwt_role_claim": "groups", "jwt_admin_role": "ops"}], indirect=True)
def test_the_id_token_decides_owner_and_role(browser: Browser, provider: IdentityProvider) -> None:
    provider.id_claims = {"sub": "carol", "groups": ["ops"]}
    assert attempt(browser, provider).status == 302
    own_page = {"Sec-Fetch-Site": "same-origin"}
    made = browser.post("/api/folders", json={"name": "x"}, headers=own_page)
    assert made.status == 201
    assert [key["owner_id"] for key in browser.get("/api/admin/keys", headers=own_page).json["items"]] == []
    found = browser.get("/api/folders", params={"owner": "carol"}, headers=own_page)
    assert [folder["name"] for folder in found.json["items"]] == ["x"]


@pytest.mark.parametrize("told", [{"oidc_client_secret": None}], indirect=True)
def test_a_public_client_has_no_secret(browser: Browser, provider: IdentityProvider) -> None:
    assert attempt(browser, provider).status == 401
    provider.secret = ""
    assert attempt(browser, provider).status == 302


def test_the_secret_is_sent_as_the_provider_wants(browser: Browser, provider: IdentityProvider) -> None:
    provider.discovery["token_endpoint_auth_methods_supported"] = ["client_secret_post"]
    assert attempt(browser, provider).status == 302
    provider.secret = "another"
    assert attempt(browser, provider).status == 401


@pytest.mark.parametrize("told", [{"public_url": "https://files.test"}], indirect=True)
def test_over_https_the_cookies_are_bound_to_the_host(browser: Browser, provider: IdentityProvider) -> None:
    location = provider.log_in(begin(browser))
    assert set(browser.cookies) == {"__Host-login"}
    answer = browser.get(location.removeprefix("https://files.test"))
    assert answer.headers["Location"] == "https://files.test/"
    assert set(browser.cookies) == {"__Host-session"}
    assert browser.cookies["__Host-session"]["secure"]


# -- attacks -------------------------------------------------------------------------------------------------------------------

ELSEWHERE = [
    "//evil.test",
    "https://evil.test",
    "/\\evil.test",
    "\\evil.test",
    "evil.test",
    "@evil.test",
    ".evil.test",
    "",
    "/a\r\nSet-Cookie: x=1",
    "/é",
    "/" + "x" * 1000,
    "javascript:alert(1)",
]


def test_nobody_is_sent_to_another_site(browser: Browser, provider: IdentityProvider) -> None:
    for path in ELSEWHERE:
        answer = browser.get("/api/session/oidc", params={"return_to": path})
        if answer.status == 302:
            back = come_back(browser, provider.log_in(answer.headers["Location"]))
            assert urlsplit(back.headers["Location"]).netloc == "gateway.test", path
        else:
            assert (answer.status, answer.code) == (400, "invalid_input"), path
    assert provider.logins == 1  # //evil.test, which is a path of the gateway


def test_T66_nobody_is_signed_in_by_the_login_of_another(
    gateway: Flask, browser: Browser, provider: IdentityProvider
) -> None:
    attacker = Browser(gateway)
    theirs = provider.log_in(begin(attacker))
    assert come_back(browser, theirs).status == 401  # a browser that has begun no login
    begin(browser)
    assert come_back(browser, theirs).status == 401  # one that has begun another
    mine = provider.log_in(begin(browser))
    mixed = changed(theirs, state=parse_qs(urlsplit(mine).query)["state"][0])
    assert come_back(browser, mixed).status == 401  # the attacker's code in the victim's login: PKCE
    stolen = provider.log_in(begin(browser))
    begin(attacker)
    state = parse_qs(urlsplit(begin(attacker)).query)["state"][0]
    assert come_back(attacker, changed(stolen, state=state)).status == 401  # the victim's code in the attacker's
    assert not is_signed_in(browser) and not is_signed_in(attacker)
    assert provider.logins == 0


def test_T62_a_callback_works_once(browser: Browser, provider: IdentityProvider) -> None:
    location = provider.log_in(begin(browser))
    login = browser.cookies["login"]
    assert come_back(browser, location).status == 302
    assert come_back(browser, location).status == 401
    browser.cookies = {"login": login}
    assert come_back(browser, location).status == 401  # the provider gives nothing for a code again
    assert not is_signed_in(browser)


def test_T62_a_changed_callback_is_refused(browser: Browser, provider: IdentityProvider) -> None:
    foreign: list[dict[str, str | None]] = [
        {"state": None},
        {"state": ""},
        {"state": "x"},
        {"state": "é"},
        {"code": None},
        {"code": "x"},
        {"code": None, "error": "access_denied"},
        {"iss": "https://elsewhere.test"},
        {"iss": ""},
    ]
    for values in foreign:
        answer = come_back(browser, changed(provider.log_in(begin(browser)), **values))
        assert answer.status == 401, values
        assert not browser.cookies
    assert come_back(browser, changed(provider.log_in(begin(browser)), code="")).status == 400
    location = provider.log_in(begin(browser))
    login = browser.cookies["login"]
    for value in ("x", login.value[:-1], login.value[1:], login.value + "A"):
        assert browser.get(location.removeprefix(BASE), headers={"Cookie": f"login={value}"}).status == 401
    assert not is_signed_in(browser)


def test_a_login_may_take_ten_minutes(
    browser: Browser, provider: IdentityProvider, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = time.time()
    for seconds, status in ((605, 401), (595, 302)):
        monkeypatch.setattr(time, "time", lambda seconds=seconds: now - seconds)
        location = provider.log_in(begin(browser))
        monkeypatch.undo()
        assert come_back(browser, location).status == status, seconds


def test_T62_a_provider_that_names_itself_always_does(browser: Browser, provider: IdentityProvider) -> None:
    provider.discovery["authorization_response_iss_parameter_supported"] = True
    assert come_back(browser, changed(provider.log_in(begin(browser)), iss=None)).status == 401
    assert attempt(browser, provider).status == 302


def test_older_providers_do_not_name_themselves(browser: Browser, provider: IdentityProvider) -> None:
    assert come_back(browser, changed(provider.log_in(begin(browser)), iss=None)).status == 302


def test_T62_an_id_token_of_another_login_or_client_is_refused(browser: Browser, provider: IdentityProvider) -> None:
    now = int(time.time())
    wrong: list[dict[str, Any]] = [
        {"nonce": "x"},
        {"nonce": None},
        {"nonce": ["x"]},
        {"aud": AUDIENCE},
        {"aud": [AUDIENCE, "x"]},
        {"aud": [CLIENT, AUDIENCE]},
        {"aud": [CLIENT, AUDIENCE], "azp": AUDIENCE},
        {"azp": AUDIENCE},
        {"aud": None},
        {"iss": "https://elsewhere.test"},
        {"exp": now - 31},
        {"exp": None},
        {"iat": now + 60},
        {"sub": None},
        {"sub": "a" * 256},
    ]
    for claims in wrong:
        provider.id_claims = {"sub": "alice"} | claims
        assert attempt(browser, provider).status == 401, claims
    for key in (Key("rsa"), Key("other", "ES256")):
        provider.id_claims, provider.id_key = {"sub": "alice"}, key
        assert attempt(browser, provider).status == 401
    assert not is_signed_in(browser)
    provider.id_key = None
    for claims in ({"azp": CLIENT}, {"aud": [CLIENT]}, {"aud": [CLIENT, AUDIENCE], "azp": CLIENT}):
        provider.id_claims = {"sub": "alice"} | claims
        assert attempt(browser, provider).status == 302, claims


@pytest.mark.parametrize("told", [{"jwt_audience": AUDIENCE}], indirect=True)
def test_T62_an_id_token_is_no_credential(gateway: Flask, browser: Browser, provider: IdentityProvider) -> None:
    client = GatewayClient(gateway)
    assert client.as_(provider.token()).get("/api/files").status == 200
    assert client.as_(provider.token(aud=CLIENT, nonce="x")).get("/api/files").status == 401
    begin(browser)
    login = browser.cookies["login"].value
    assert client.get("/api/files", headers={"Cookie": f"session={login}"}).status == 401
    assert client.as_(login).get("/api/files").status == 401


def test_a_provider_that_is_down_is_503(browser: Browser, provider: IdentityProvider) -> None:
    provider.failing = True
    assert browser.get("/api/session/oidc").status == 503


def test_a_provider_that_goes_down_is_503_too(browser: Browser, provider: IdentityProvider) -> None:
    location = provider.log_in(begin(browser))
    provider.failing = True
    answer = come_back(browser, location)
    assert (answer.status, answer.code) == (503, "unavailable")
    assert not is_signed_in(browser)


@pytest.mark.parametrize("told", [{"rate_limit_logins": "2/minute"}], indirect=True)
def test_logins_are_limited(browser: Browser) -> None:
    assert [browser.get(f"{CALLBACK}?code=x&state=x").status for _ in range(3)] == [401, 401, 429]
