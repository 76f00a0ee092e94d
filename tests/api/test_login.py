"""Sessions of browsers: what they may do, when they end, and which requests their cookie authenticates (T62, T66)."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from typing import Any

import pytest
from flask import Flask

from app import create_app, wire
from commands import Call, run
from core.principal import Principal
from db import Database, login_sessions
from services import Services
from services.access.login_sessions import LoginSessions, SessionLimits
from settings import Settings
from tests.browser import Browser
from tests.client import GatewayClient
from tests.identity_provider import IdentityProvider
from tests.rows import sql

pytestmark = pytest.mark.memory_store


@pytest.fixture
def browser(app: Flask, client: GatewayClient) -> Browser:
    """Signed in as alice."""
    signed_in = Browser(app)
    signed_in.sign_in(client.key)
    return signed_in


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


def age(db: Database, column: str, seconds: int) -> None:
    sql(db, f"update login_sessions set {column} = now() - make_interval(secs => %s)", seconds)


# -- signing in and out --------------------------------------------------------------------------------------------------------


def test_the_key_may_be_a_bearer_credential(client: GatewayClient, anonymous: GatewayClient) -> None:
    answer = client.post("/api/session")
    assert (answer.status, answer.json["owner_id"]) == (200, "alice")
    assert "HttpOnly" in answer.headers["Set-Cookie"]
    assert (anonymous.post("/api/session").status, client.as_("gw_none").post("/api/session").status) == (401, 401)


def test_a_session_has_the_rights_of_its_key(app: Flask, client: GatewayClient, admin: GatewayClient) -> None:
    browser = Browser(app)
    assert browser.sign_in(client.key).json == {"owner_id": "alice", "role": "user"}
    made = browser.post("/api/folders", json={"name": "Plans"})
    assert made.status == 201
    assert client.get(f"/api/folders/{made.json['id']}").status == 200
    assert browser.get("/api/admin/keys").status == 403
    browser.sign_in(admin.key)
    assert browser.get("/api/admin/keys").status == 200


def test_scripts_cannot_read_the_cookie_and_other_sites_do_not_send_it(browser: Browser) -> None:
    (cookie,) = browser.cookies.values()
    assert (cookie.key, cookie["httponly"], cookie["samesite"], cookie["path"]) == ("session", True, "Lax", "/")
    assert (cookie["secure"], cookie["domain"]) == ("", "")
    assert 43_000 < int(cookie["max-age"]) <= 43_200


@pytest.mark.settings(public_url="https://files.test")
def test_over_https_the_cookie_is_bound_to_the_host(browser: Browser) -> None:
    (cookie,) = browser.cookies.values()
    assert (cookie.key, cookie["secure"], cookie["path"], cookie["domain"]) == ("__Host-session", True, "/", "")
    assert browser.get("/api/files", headers={"Cookie": f"session={cookie.value}"}).status == 401


def test_a_session_is_stored_as_a_digest(browser: Browser, db: Database) -> None:
    (cookie,) = browser.cookies.values()
    assert len(cookie.value) >= 43 + len("gws_")
    assert cookie.value not in str(sql(db, "select s::text from login_sessions s"))


def test_signing_out_ends_the_session_at_once(browser: Browser, db: Database) -> None:
    (cookie,) = browser.cookies.values()
    answer = browser.delete("/api/session")
    assert (answer.status, answer.headers["Clear-Site-Data"]) == (204, '"cache", "storage"')
    assert browser.cookies == {}
    assert browser.get("/api/files", headers={"Cookie": f"session={cookie.value}"}).status == 401
    assert sql(db, "select count(*) from login_sessions") == [(0,)]


def test_only_a_session_can_be_ended(client: GatewayClient, anonymous: GatewayClient, browser: Browser) -> None:
    assert client.delete("/api/session").status == 403
    assert anonymous.delete("/api/session").status == 401
    assert browser.delete("/api/session", headers={"Authorization": f"Bearer {client.key}"}).status == 403
    assert browser.get("/api/files").status == 200


def test_T66_each_login_has_a_new_secret_and_ends_the_one_before(
    app: Flask, client: GatewayClient, other: GatewayClient, db: Database
) -> None:
    browser = Browser(app)
    fixed = "gws_" + "x" * 43
    first = browser.post("/api/session", json={"key": client.key}, headers={"Cookie": f"session={fixed}"})
    assert first.status == 200
    given = browser.cookies["session"].value
    assert given != fixed
    browser.sign_in(other.key)
    assert browser.cookies["session"].value != given
    assert Browser(app).get("/api/files", headers={"Cookie": f"session={given}"}).status == 401
    assert sql(db, "select owner_id from login_sessions") == [("bob",)]


@pytest.mark.settings(max_sessions=2)
def test_T145_the_oldest_session_of_an_owner_ends(app: Flask, client: GatewayClient, other: GatewayClient) -> None:
    browsers = [Browser(app) for _ in range(4)]
    for browser in browsers[:3]:
        browser.sign_in(client.key)
    browsers[3].sign_in(other.key)
    assert [browser.get("/api/files").status for browser in browsers] == [401, 200, 200, 200]


def test_T145_logins_at_the_same_time_do_not_exceed_the_bound(
    db: Database, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    limits = SessionLimits(timedelta(hours=1), timedelta(hours=1), per_owner=1)
    sessions, end_oldest = LoginSessions(db, services.keys, limits), login_sessions.end_oldest

    def end_before_the_others_commit(*args: Any, **options: Any) -> int:
        ended = end_oldest(*args, **options)
        time.sleep(0.05)
        return ended

    monkeypatch.setattr(login_sessions, "end_oldest", end_before_the_others_commit)
    with ThreadPoolExecutor(4) as pool:
        list(pool.map(lambda _: sessions.begin(Principal("alice")), range(4)))
    assert sql(db, "select count(*) from login_sessions") == [(1,)]


# -- the end of a session ------------------------------------------------------------------------------------------------------


def test_T63_a_session_ends_with_its_key(browser: Browser, admin: GatewayClient, services: Services) -> None:
    (key,) = (key for key in services.keys.list_keys(limit=9, cursor=None).items if key.owner_id == "alice")
    assert browser.get("/api/files").status == 200
    assert admin.delete(f"/api/admin/keys/{key.id}").status == 204
    assert browser.get("/api/files").status == 401
    assert browser.cookies == {}  # the browser need not send it again


def test_operators_sign_an_owner_out_of_all_browsers(
    browser: Browser,
    other: GatewayClient,
    app: Flask,
    services: Services,
    settings: Settings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    bob = Browser(app)
    bob.sign_in(other.key)
    monkeypatch.setattr(Call, "services", lambda call: services)  # its own would stay open
    assert run(["sessions", "end", "alice"], settings) == 0
    assert capsys.readouterr().out == "ended  1\n"
    assert browser.get("/api/files").status == 401
    assert bob.get("/api/files").status == 200
    assert sql(services.db, "select owner_id, details from audit_events where action = 'sessions_ended'") == [
        ("alice", {"sessions": 1})
    ]


def test_T63_a_session_has_the_scopes_and_the_expiry_of_its_key(
    app: Flask, client: GatewayClient, services: Services, db: Database, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.access.keys.CACHED", 0.0)
    folder = client.post("/api/folders", json={"name": "Plans"}).json["id"]
    elsewhere = client.add()["id"]
    record, key = services.keys.create_key("alice", scopes=["read"], folder_id=folder)
    browser = Browser(app)
    browser.sign_in(key)
    assert browser.get(f"/api/folders/{folder}").status == 200
    assert browser.get(f"/api/files/{elsewhere}").status == 404
    assert browser.post("/api/folders", json={"name": "x"}).status == 403
    sql(db, "update api_keys set expires_at = now() where id = %s", record.id)
    assert browser.get(f"/api/folders/{folder}").status == 401


def test_an_idle_session_ends(browser: Browser, db: Database) -> None:
    age(db, "seen_at", 7_100)
    assert browser.get("/api/files").status == 200
    assert sql(db, "select seen_at > now() - interval '1 minute' from login_sessions") == [(True,)]
    age(db, "seen_at", 7_300)
    assert browser.get("/api/files").status == 401


def test_a_session_in_use_ends_too(browser: Browser, db: Database, services: Services) -> None:
    age(db, "expires_at", 1)
    assert browser.get("/api/files").status == 401
    services.janitor.run(full=False)
    assert sql(db, "select count(*) from login_sessions") == [(0,)]


def test_a_public_file_is_shown_to_a_browser_whose_session_has_ended(
    browser: Browser, client: GatewayClient, db: Database
) -> None:
    file = client.add(visibility="public")
    assert "owner_id" in browser.get(f"/api/files/{file['id']}").json
    age(db, "expires_at", 1)
    assert "owner_id" not in browser.get(f"/api/files/{file['id']}").json


def test_a_session_of_a_jwt_ends_with_it_and_keeps_its_claims(
    provider: IdentityProvider, settings: Settings, services: Services, db: Database
) -> None:
    claims = {"jwt_role_claim": "role", "jwt_scope_claim": "scope", "jwt_quota_claim": "quota"}
    told = Settings(_env_file=None, **(settings.model_dump() | provider.settings | claims))
    gateway = create_app(told, wire(told, db=services.db))
    browser, now = Browser(gateway), int(time.time())
    browser.sign_in(provider.token(sub="carol", role="admin", scope="read", quota=5, exp=now + 200))
    session = wire(told, db=services.db).login_sessions.authenticate(browser.cookies["session"].value)
    known = services.keys.authenticate(services.keys.create_key("carol", role="admin")[1])
    assert session == replace(
        known, key_id=None, has_quota=True, credential="session", scopes=frozenset({"read"}), quota=session.quota
    )
    assert session.quota is not None
    assert (session.quota.max_bytes, session.quota.max_files) == (5, None)
    assert 200 <= int(browser.cookies["session"]["max-age"]) <= 230  # JWT_LEEWAY is 30
    for exp in (1e300, now + 10**9):
        browser.sign_in(provider.token(exp=exp))
    assert browser.post("/api/session", json={"key": provider.token(exp=now - 31)}).status == 401


# -- what is no login ----------------------------------------------------------------------------------------------------------


def test_T62_sessions_and_other_credentials_are_not_interchangeable(
    app: Flask, browser: Browser, client: GatewayClient, anonymous: GatewayClient
) -> None:
    session = browser.cookies["session"].value
    token = client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"]
    assert anonymous.as_(session).get("/api/files").status == 401
    assert anonymous.get(f"/t/{session}/api/uploads").status == 401
    assert anonymous.get(f"/d/{session}").status == 401
    for credential in (session, token, "gw_" + "x" * 43, "x", "\ud83d\ude00", "a\0b"):
        answer = Browser(app).post("/api/session", json={"key": credential})
        assert answer.status in (401, 403), credential
        assert "Set-Cookie" not in answer.headers
    for credential in (str(client.key), token, "x", "é", '"', ""):
        assert anonymous.get("/api/files", headers={"Cookie": f"session={credential}"}).status == 401, credential


def test_T66_failed_logins_are_all_alike(app: Flask, services: Services, anonymous: GatewayClient) -> None:
    record, revoked = services.keys.create_key("alice")
    services.keys.revoke_key(record.id)
    answers = [
        anonymous.post("/api/session", json={"key": key}, headers={"X-Request-ID": "0123456789"})
        for key in (revoked, "gw_" + "x" * 43, "unknown")
    ]
    assert {(answer.status, answer.body) for answer in answers} == {(401, answers[0].body)}


def test_an_authorization_header_counts_instead_of_the_cookie(
    app: Flask, browser: Browser, other: GatewayClient, client: GatewayClient
) -> None:
    file = client.add()
    assert browser.get(f"/api/files/{file['id']}").status == 200
    for header, status in ((f"Bearer {other.key}", 404), ("Bearer wrong", 401), ("Basic x", 401), ("", 401)):
        answer = browser.get(f"/api/files/{file['id']}", headers={"Authorization": header})
        assert answer.status == status, header
    token = other.post("/api/upload-tokens", json={"owner_id": "bob"}).json["token"]
    browser.client = GatewayClient(app, check=False)  # the document does not list tokens in paths
    uploaded = browser.request("PUT", f"/t/{token}/api/upload/a.txt", data=b"x")
    assert uploaded.status == 201
    assert other.get(f"/api/files/{uploaded.json['id']}").status == 200


# -- requests of other sites ---------------------------------------------------------------------------------------------------

OWN = "http://gateway.test"
FROM_ELSEWHERE: list[dict[str, str]] = [
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "no-cors"},
    {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "cors", "Origin": "http://evil.test"},
    {"Sec-Fetch-Site": "same-site", "Sec-Fetch-Mode": "cors", "Origin": "http://app.test"},  # of CORS_ORIGINS
    {"Sec-Fetch-Site": "same-site", "Origin": OWN},
    {"Sec-Fetch-Site": "Same-Origin, cross-site"},
    {"Sec-Fetch-Site": ""},
    {"Origin": "null"},
    {"Origin": "http://app.test"},
    {"Origin": "http://gateway.test.evil.test"},
    {"Origin": "https://gateway.test"},
    {"Origin": "http://gateway.test:81"},
    {"Origin": ""},
]


def test_T66_changes_that_another_site_makes_are_refused(browser: Browser, client: GatewayClient, db: Database) -> None:
    browser.site = None
    file = client.add()
    navigation = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Origin": "http://evil.test"}
    by_the_person = {"Sec-Fetch-Site": "none", "Sec-Fetch-Mode": "navigate"}
    changes: list[tuple[str, str, dict[str, Any]]] = [
        ("POST", "/api/folders", {"json": {"name": "x"}}),
        ("PATCH", f"/api/files/{file['id']}", {"json": {"tags": ["x"]}}),
        ("PUT", f"/api/files/{file['id']}/move", {"json": {"target_folder_id": None}}),
        ("PUT", "/api/upload/x.txt", {"data": b"x"}),
        ("DELETE", f"/api/files/{file['id']}", {}),
        ("DELETE", "/api/session", {}),
        ("POST", "/api/tus", {"headers": {"Tus-Resumable": "1.0.0", "Upload-Length": "1"}}),
        ("POST", "/s3/multipart", {"json": {"filename": "x", "type": "text/plain"}}),
        ("GET", "/s3/params", {"params": {"filename": "x", "type": "text/plain"}}),
    ]
    for headers in [*FROM_ELSEWHERE, navigation, by_the_person, {}]:
        for method, path, options in changes:
            sent = options | {"headers": options.get("headers", {}) | headers}
            answer = browser.request(method, path, **sent)
            assert answer.status == 403, (headers, method, path, answer.body)
    assert client.get("/api/folders?flat=true").json["items"] == []
    assert client.get(f"/api/files/{file['id']}").json["tags"] == []
    assert sql(db, "select count(*) from login_sessions") == [(1,)]
    for headers in ({"Sec-Fetch-Site": "same-origin"}, {"Origin": OWN}):
        for method, path, options in changes[:3]:
            answer = browser.request(method, path, **(options | {"headers": headers}))
            assert answer.status in (200, 201, 409), (headers, method, path, answer.body)


def test_T66_other_sites_read_nothing_by_the_cookie(browser: Browser) -> None:
    browser.site = None
    for headers in FROM_ELSEWHERE:
        assert browser.get("/api/files", headers=headers).status == 401, headers
    followed = {"Sec-Fetch-Site": "cross-site", "Sec-Fetch-Mode": "navigate", "Sec-Fetch-Dest": "document"}
    for headers in ({}, {"Sec-Fetch-Site": "none"}, {"Sec-Fetch-Site": "same-origin"}, {"Origin": OWN}, followed):
        assert browser.get("/api/files", headers=headers).status == 200, headers
    assert browser.cookies  # a request of another site does not sign anybody out


@pytest.mark.settings(rate_limit_logins="2/hour")
def test_T66_other_sites_cannot_sign_a_person_in_or_use_up_their_logins(app: Flask, other: GatewayClient) -> None:
    for headers in FROM_ELSEWHERE:
        answer = Browser(app, site=None).post("/api/session", json={"key": other.key}, headers=headers)
        assert answer.status == 403, headers
        assert "Set-Cookie" not in answer.headers
    form = {"Content-Type": "text/plain"}
    assert Browser(app).post("/api/session", data=b'{"key": "x"}', headers=form).status == 415
    Browser(app).sign_in(other.key)


# -- addresses that fail -------------------------------------------------------------------------------------------------------


@pytest.fixture
def at(app: Flask) -> Callable[[str], GatewayClient]:
    """A client at this address."""

    def make(address: str) -> GatewayClient:
        moved, inner = Flask("moved"), app.wsgi_app
        moved.wsgi_app = lambda environ, start: inner(environ | {"REMOTE_ADDR": address}, start)  # type: ignore
        return GatewayClient(moved, check=False)

    return make


@pytest.mark.settings(rate_limit_failures="3/minute", rate_limit_logins="100/minute")
def test_addresses_that_fail_are_slowed_down_before_the_database_is_asked(
    at: Callable[[str], GatewayClient],
    client: GatewayClient,
    other: GatewayClient,
    services: Services,
    settings: Settings,
    db: Database,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    attacker, elsewhere, neighbour = at("192.0.2.1"), at("192.0.2.2"), at("192.0.2.1").as_(client.key)
    assert neighbour.get("/api/files").status == 200
    for attempt in (
        lambda: attacker.as_("gw_wrong").get("/api/files"),
        lambda: attacker.get("/t/gwt_" + "x" * 43 + "/api/uploads"),
        lambda: attacker.get("/api/files", headers={"Cookie": "session=gws_wrong"}),
    ):
        assert attempt().status == 401
    tried: list[bytes] = []
    monkeypatch.setattr("db.keys.find", lambda tx, digest: tried.append(digest))
    for key in ("gw_wrong", "gw_another", other.key):
        for answer in (attacker.as_(key).get("/api/files"), attacker.post("/api/session", json={"key": key})):
            assert (answer.status, answer.code) == (429, "rate_limited")
            assert 0 < int(answer.headers["Retry-After"]) <= 60
    assert tried == []
    monkeypatch.undo()
    assert neighbour.get("/api/files").status == 200  # a known key works at this address
    assert elsewhere.as_(other.key).get("/api/files").status == 200
    assert attacker.get("/healthz").status == 200
    process = create_app(settings, wire(settings, db=services.db))  # another process learns it by its first failure
    assert GatewayClient(process, "gw_wrong").get("/api/files").status == 401


@pytest.mark.settings(rate_limit_failures="2/minute")
def test_all_processes_count_failures_together(services: Services, settings: Settings) -> None:
    first, second = (GatewayClient(create_app(settings, wire(settings, db=services.db)), "gw_wrong") for _ in range(2))
    assert [gateway.get("/api/files").status for gateway in (first, second, second, first)] == [401, 401, 429, 401]
    assert first.get("/api/files").status == 429


@pytest.mark.settings(rate_limit_failures="1/minute")
def test_a_revoked_key_is_not_known_any_more(client_for: Callable[..., GatewayClient], services: Services) -> None:
    carol = client_for("carol")
    assert carol.get("/api/files").status == 200
    (record,) = services.keys.list_keys(limit=9, cursor=None).items
    services.keys.revoke_key(record.id)
    assert [carol.get("/api/files").status for _ in range(3)] == [401, 429, 429]


@pytest.mark.settings(rate_limit_failures="1/minute")
def test_jwts_need_no_database_and_are_always_checked(
    provider: IdentityProvider, settings: Settings, services: Services, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("services.access.failed_credentials._MOST", 2)
    told = Settings(_env_file=None, **(settings.model_dump() | provider.settings))
    gateway = GatewayClient(create_app(told, wire(told, db=services.db)))
    known = gateway.as_(services.keys.create_key("alice")[1])
    assert known.get("/api/files").status == 200
    for owner in ("bob", "carol", "dave"):  # these take no place among what is remembered
        assert gateway.as_(provider.token(sub=owner)).get("/api/files").status == 200
    expired = gateway.as_(provider.token(exp=1))
    assert [expired.get("/api/files").status for _ in range(3)] == [401, 429, 429]
    assert gateway.as_(provider.token()).get("/api/files").status == 200
    assert known.get("/api/files").status == 200


@pytest.mark.settings(rate_limits="off", rate_limit_failures="1/minute")
def test_without_rate_limits_nothing_is_slowed_down(anonymous: GatewayClient) -> None:
    assert [anonymous.as_("wrong").get("/api/files").status for _ in range(3)] == [401, 401, 401]
