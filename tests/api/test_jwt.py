"""JWTs of an identity provider as credentials (T62)."""

from __future__ import annotations

import base64
import hmac
import json
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any

import jwt
import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa
from flask import Flask
from pydantic import ValidationError

from app import create_app, wire
from core.errors import NotAuthenticated, Unavailable
from core.principal import SCOPES, Principal, Quota
from services import Services
from services.access import provider_documents
from services.access.identity_provider import IdentityProvider as Verifier
from services.access.identity_provider import ProviderSettings
from settings import Settings
from tests.client import GatewayClient
from tests.identity_provider import AUDIENCE, CLIENT, RSA, IdentityProvider, Key

ALGORITHMS = ("RS256", "ES256", "EdDSA")


@pytest.fixture
def provider() -> Iterator[IdentityProvider]:
    with IdentityProvider() as running:
        yield running


@pytest.fixture
def verifier(provider: IdentityProvider) -> Verifier:
    return Verifier(ProviderSettings(provider.issuer, AUDIENCE, ALGORITHMS))


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Moves the clock by which documents of the provider age."""
    now = 0.0

    def forward(seconds: float) -> None:
        nonlocal now
        now += seconds

    monkeypatch.setattr(provider_documents, "monotonic", lambda: now)
    return forward


def refused(verifier: Verifier, token: str) -> bool:
    try:
        verifier.authenticate(token)
    except NotAuthenticated:
        return True
    return False


@pytest.fixture
def gateway(provider: IdentityProvider, settings: Settings, services: Services) -> Flask:
    told = Settings(_env_file=None, **(settings.model_dump() | provider.settings))
    return create_app(told, wire(told, db=services.db))


@pytest.mark.memory_store
def test_a_jwt_and_a_key_of_one_owner_see_the_same_files(
    gateway: Flask, services: Services, provider: IdentityProvider
) -> None:
    by_key = GatewayClient(gateway, services.keys.create_key("alice")[1])
    by_jwt = by_key.as_(provider.token(sub="alice"))
    file = by_jwt.add()
    assert by_key.get(f"/api/files/{file['id']}").status == 200
    assert by_key.as_(provider.token(sub="bob")).get(f"/api/files/{file['id']}").status == 404
    assert by_jwt.get("/api/admin/keys").status == 403
    answer = by_key.as_(provider.token(exp=1)).get("/api/files")
    assert (answer.status, answer.code) == (401, "not_authenticated")


@pytest.mark.memory_store
def test_T62_no_credential_is_taken_for_another_kind(
    gateway: Flask, services: Services, provider: IdentityProvider
) -> None:
    client = GatewayClient(gateway, services.keys.create_key("alice")[1])
    file = client.add(visibility="public")
    token = client.post("/api/upload-tokens", json={"owner_id": "alice"}).json["token"]
    link = client.get(f"/api/files/{file['id']}/url?expires_in=3600").json["url"].rpartition("/")[2].partition("?")[0]
    for credential in (link, "gws_" + "x" * 43, provider.token().replace(".", "_"), provider.token()[1:]):
        assert client.as_(credential).get("/api/files").status == 401, credential
    assert client.as_(token).get("/api/files").status == 403
    for credential in (provider.token(), str(client.key)):
        assert client.as_(None).get(f"/t/{credential}/api/uploads").status == 401
        assert client.as_(None).get(f"/d/{credential}").status == 401


def test_the_same_services_without_a_provider_refuse_jwts(services: Services, provider: IdentityProvider) -> None:
    assert services.identity_provider is None
    with pytest.raises(NotAuthenticated):
        services.keys.authenticate(provider.token())


@pytest.mark.parametrize("algorithm", ALGORITHMS)
def test_the_configured_algorithms_are_accepted(provider: IdentityProvider, verifier: Verifier, algorithm: str) -> None:
    provider.keys = [Key("other", "ES256" if algorithm == "RS256" else "RS256"), Key("this", algorithm)]
    assert verifier.authenticate(provider.token(provider.keys[1])) == Principal("alice", credential="jwt")


def test_the_type_of_access_tokens_is_accepted(provider: IdentityProvider, verifier: Verifier) -> None:
    for kind in ("JWT", "at+jwt", "application/at+JWT"):
        assert verifier.authenticate(provider.token(header={"typ": kind})).owner_id == "alice"


def encoded(value: Any) -> str:
    data = value if isinstance(value, bytes) else json.dumps(value).encode()
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def unsigned(provider: IdentityProvider, algorithm: str, signature: str = "") -> str:
    head = encoded({"alg": algorithm, "typ": "JWT", "kid": "rsa"})
    return f"{head}.{encoded(provider.claims())}.{signature}"


def with_secret(provider: IdentityProvider, secret: bytes, algorithm: str = "HS256") -> str:
    """Signed with an HMAC by hand: PyJWT refuses public keys as secrets."""
    head = encoded({"alg": algorithm, "typ": "JWT", "kid": "rsa"})
    body = f"{head}.{encoded(provider.claims())}"
    return f"{body}.{encoded(hmac.digest(secret, body.encode(), 'sha256'))}"


def with_claims(text: str, **header: str) -> str:
    return jwt.api_jws.encode(text.encode(), RSA.private, "RS256", headers={"kid": "rsa"} | header)


def forgeries(provider: IdentityProvider) -> dict[str, str]:
    """Tokens that each break one rule."""
    foreign, now = Key("rsa"), int(time.time())
    pem = RSA.private.public_key().public_bytes(
        serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    good = provider.token()
    head, claims, signature = good.split(".")
    return {
        "none": unsigned(provider, "none"),
        "None": unsigned(provider, "None"),
        "nOnE with a signature": unsigned(provider, "nOnE", signature),
        "no algorithm": f"{encoded({'typ': 'JWT', 'kid': 'rsa'})}.{claims}.{signature}",
        "a list of algorithms": f"{encoded({'alg': ['RS256'], 'kid': 'rsa'})}.{claims}.{signature}",
        "no signature": f"{head}.{claims}.",
        "the public key as a secret": with_secret(provider, pem),
        "the public key as a secret, said to be RSA": with_secret(provider, pem, "RS256"),
        "the key's JSON as a secret": with_secret(provider, json.dumps(RSA.public).encode()),
        "an empty secret": with_secret(provider, b""),
        "a default secret": with_secret(provider, b"secret"),
        "an algorithm that is not configured": jwt.encode(
            provider.claims(), RSA.private, "RS512", headers={"kid": "rsa"}
        ),
        "another key under the same kid": provider.token(foreign),
        "another key under another kid": provider.token(Key("foreign")),
        "a kid that is a path": provider.token(foreign, {"kid": "../../dev/null"}),
        "a kid that is SQL": provider.token(foreign, {"kid": "' union select 'x"}),
        "a kid that is no text": f"{encoded({'alg': 'RS256', 'kid': [1]})}.{claims}.{signature}",
        "its own key": provider.token(foreign, {"jwk": foreign.public}),
        "its own key set": provider.token(foreign, {"jku": f"{provider.issuer}/elsewhere"}),
        "its own certificate": provider.token(foreign, {"x5u": f"{provider.issuer}/elsewhere", "x5c": ["MIIB"]}),
        "an unknown critical header": provider.token(header={"crit": ["exp2"], "exp2": 1}),
        "a known critical header": provider.token(header={"crit": ["b64"], "b64": True}),
        "empty critical headers": provider.token(header={"crit": []}),
        "a logout token": provider.token(header={"typ": "logout+jwt"}),
        "a proof of possession": provider.token(header={"typ": "dpop+jwt"}),
        "an ID token": provider.token(aud=CLIENT),
        "no audience": provider.token(aud=None),
        "an audience that contains ours": provider.token(aud=AUDIENCE + "2"),
        "another issuer": provider.token(iss=provider.issuer + "/"),
        "no issuer": provider.token(iss=None),
        "expired": provider.token(exp=now - 31),
        "never expires": provider.token(exp=None),
        "an expiry that is no number": provider.token(exp="tomorrow"),
        "an infinite expiry": with_claims(json.dumps(provider.claims(exp=1.5)).replace("1.5", "1e999")),
        "an endless expiry": with_claims(json.dumps(provider.claims(exp=1.5)).replace("1.5", "9" * 5000)),
        "not yet valid": provider.token(nbf=now + 60),
        "issued in the future": provider.token(iat=now + 60),
        "no owner": provider.token(sub=None),
        "an empty owner": provider.token(sub=""),
        "an owner that is a number": RSA.sign(provider.claims(sub=None) | {"sub": 7}),
        "an owner that is too long": provider.token(sub="a" * 256),
        "an owner with a NUL": provider.token(sub="a\0b"),
        "an owner with half a character": provider.token(sub="a\ud800b"),
        "changed claims": f"{head}.{encoded(provider.claims(sub='root'))}.{signature}",
        "nested": with_claims(good, cty="JWT"),
        "claims that are a list": with_claims("[]"),
        "claims that are deep": with_claims("[" * 9000),
        "encrypted": ".".join([encoded({"alg": "RSA-OAEP", "enc": "A256GCM"}), "a", "b", "c", "d"]),
        "huge": provider.token(padding="x" * 100_000, exp=1),
        "nothing": "eyJ",
        "no parts": "eyJ" + "A" * 500,
        "dots": "eyJ....",
        "text after it": good + "=",
    }


def test_T62_T68_no_forged_jwt_is_accepted(provider: IdentityProvider, verifier: Verifier) -> None:
    assert not refused(verifier, provider.token())
    forged = forgeries(provider)
    assert [name for name, token in forged.items() if not refused(verifier, token)] == []
    assert provider.requests.keys() == {"/.well-known/openid-configuration", "/jwks"}  # no address from a token


@pytest.mark.memory_store
@pytest.mark.settings(rate_limits="off")
def test_T62_forged_jwts_get_one_answer(gateway: Flask, provider: IdentityProvider) -> None:
    client = GatewayClient(gateway)
    answers = set()
    for name, token in forgeries(provider).items():
        answer = client.as_(token).get("/api/files", headers={"X-Request-ID": "0123456789"})
        assert answer.status == 401, name
        answers.add(answer.body)
    assert len(answers) <= 2  # one is for what is too long to be a credential


def test_T62_a_key_set_is_read_with_care(provider: IdentityProvider, verifier: Verifier) -> None:
    shared = {"kty": "oct", "kid": "shared", "k": encoded(b"x" * 32)}
    encrypting, bound, p384 = Key("encrypting"), Key("bound"), {"kty": "EC", "crv": "P-384", "kid": "rsa"}
    encrypting.public["use"] = "enc"
    bound.public["alg"] = "PS256"
    provider.keys = [RSA, encrypting, bound]
    provider.other_keys = [None, 5, {}, {"kty": "RSA", "kid": "x"}, {"kty": "EC", "crv": "P-999"}, p384, shared]
    provider.other_keys.append({"kty": "RSA", "kid": [1], "n": "AQ", "e": "AQAB"})
    assert not refused(verifier, provider.token())
    assert refused(verifier, provider.token(encrypting))
    assert refused(verifier, provider.token(bound))
    assert refused(verifier, jwt.encode(provider.claims(), b"x" * 32, "HS256", headers={"kid": "shared"}))


def test_T62_short_keys_are_not_used(provider: IdentityProvider, verifier: Verifier) -> None:
    weak = Key("weak")
    weak.private = rsa.generate_private_key(65537, 1024)
    provider.keys = [weak]
    with pytest.warns(jwt.InsecureKeyLengthWarning):
        token = provider.token()
    assert refused(verifier, token)


def test_a_token_need_not_name_an_only_key(provider: IdentityProvider, verifier: Verifier) -> None:
    provider.keys = [Key(None)]
    assert not refused(verifier, provider.token())
    assert refused(verifier, provider.token(Key(None)))


# -- keys that change, and a provider that is down ----------------------------------------------------------------------------


def test_T62_new_keys_are_found_and_withdrawn_keys_end(
    provider: IdentityProvider, verifier: Verifier, clock: Callable[[float], None]
) -> None:
    old, new = RSA, Key("new", "ES256")
    assert not refused(verifier, provider.token(old))
    provider.keys = [new]
    clock(31)
    assert not refused(verifier, provider.token(new))
    assert refused(verifier, provider.token(old))
    provider.keys = [old]
    clock(601)
    assert not refused(verifier, provider.token(old))
    assert refused(verifier, provider.token(new))


def test_T62_unknown_keys_do_not_make_requests(
    provider: IdentityProvider, verifier: Verifier, clock: Callable[[float], None]
) -> None:
    assert not refused(verifier, provider.token())
    foreign = Key("0")
    for number in range(50):
        assert refused(verifier, provider.token(foreign, {"kid": str(number)}))
    assert provider.requests["/jwks"] == 1
    clock(31)
    for number in range(50):
        assert refused(verifier, provider.token(foreign, {"kid": str(number)}))
    assert provider.requests["/jwks"] == 2
    assert provider.requests["/.well-known/openid-configuration"] == 1


def test_known_keys_work_while_the_provider_is_down(
    provider: IdentityProvider, verifier: Verifier, clock: Callable[[float], None]
) -> None:
    known, unknown = provider.token(), provider.token(Key("new"))
    assert not refused(verifier, known)
    provider.failing = True
    clock(100_000)
    assert not refused(verifier, known)
    for _ in range(10):
        with pytest.raises(Unavailable):  # it may be good: a client must not throw it away
            verifier.authenticate(unknown)
    assert provider.requests["/jwks"] == 2
    provider.failing = False
    clock(31)
    assert refused(verifier, unknown)


def test_a_silent_provider_blocks_few_threads(
    provider: IdentityProvider, verifier: Verifier, clock: Callable[[float], None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(provider_documents, "DEADLINE", 0.5)
    known, unknown = provider.token(), provider.token(Key("new"))
    assert not refused(verifier, known)
    clock(31)
    provider.silent = threading.Event()
    ended: list[int] = []

    def ask() -> None:
        with pytest.raises(Unavailable):
            verifier.authenticate(unknown)
        ended.append(1)

    threads = [threading.Thread(target=ask) for _ in range(20)]
    for thread in threads:
        thread.start()
    while len(ended) < 16:  # four threads wait at most
        time.sleep(0.01)
    assert not refused(verifier, known)
    for thread in threads:
        thread.join()
    provider.silent.set()
    assert provider.requests["/jwks"] == 2


@pytest.mark.parametrize(
    "wrong",
    [
        {"issuer": "https://elsewhere.example"},
        {"jwks_uri": 5},
        {"jwks_uri": "http://10.0.0.1/jwks"},
        {"jwks_uri": "file:///etc/passwd"},
    ],
)
def test_a_wrong_discovery_document_is_not_believed(
    provider: IdentityProvider, verifier: Verifier, wrong: dict[str, Any]
) -> None:
    provider.discovery = wrong
    with pytest.raises(Unavailable):
        verifier.authenticate(provider.token())


def test_large_slow_and_redirecting_answers_are_refused(
    provider: IdentityProvider, verifier: Verifier, monkeypatch: pytest.MonkeyPatch
) -> None:
    provider.discovery["jwks_uri"] = f"{provider.issuer}/redirect"
    with pytest.raises(Unavailable):
        verifier.authenticate(provider.token())
    assert provider.requests == {"/.well-known/openid-configuration": 1, "/redirect": 1}
    for name in ("MAX_BYTES", "DEADLINE"):
        monkeypatch.setattr(provider_documents, name, 0)
        with pytest.raises(Unavailable):
            provider_documents.request_json(f"{provider.issuer}/jwks")
        monkeypatch.undo()
    assert provider_documents.request_json(f"{provider.issuer}/jwks")[0] == 200


# -- claims -------------------------------------------------------------------------------------------------------------------


def test_claims_decide_owner_role_scopes_and_quota(provider: IdentityProvider) -> None:
    told = ProviderSettings(
        provider.issuer,
        AUDIENCE,
        ALGORITHMS,
        owner_claim="https://example.com/user",
        role_claim="realm_access.roles",
        admin_role="file-admin",
        scope_claim="scope",
        bytes_claim="quota.bytes",
        files_claim="quota.files",
    )
    verifier = Verifier(told)
    named: dict[str, Any] = {"https://example.com/user": "carol"}
    everything = verifier.authenticate(
        provider.token(
            **named,
            scope="openid read write",
            realm_access={"roles": ["x", "file-admin"]},
            quota={"bytes": 2**70, "files": 0},
        )
    )
    assert everything == Principal(
        "carol",
        "admin",
        credential="jwt",
        scopes=frozenset({"read", "write"}),
        quota=Quota(max_bytes=2**63 - 1, max_files=0),
    )
    nothing = verifier.authenticate(provider.token(**named))
    assert nothing == Principal("carol", credential="jwt", scopes=frozenset())
    for roles in ("file-admins", ["file-admins"], {"file-admin": 1}, 5, None, [["file-admin"]], "the:file-admin"):
        found = verifier.authenticate(provider.token(**named, realm_access={"roles": roles}))
        assert found.role == "user", roles
    wrong: list[Any] = [-1, 1.5, "5", True, [], "many"]
    for quota in wrong:
        assert refused(verifier, provider.token(**named, quota={"bytes": quota})), quota
    assert refused(verifier, provider.token(sub="alice"))


def test_without_a_scope_claim_a_jwt_may_do_what_its_role_may(provider: IdentityProvider, verifier: Verifier) -> None:
    found = verifier.authenticate(provider.token(scope="read", roles=["admin"], role="admin"))
    assert (found.scopes, found.role) == (SCOPES, "user")


# -- settings -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("jwt_algorithms", "HS256"),
        ("jwt_algorithms", "RS256,none"),
        ("jwt_algorithms", "RS256,HS512"),
        ("jwt_algorithms", ","),
        ("jwt_jwks_url", "http://idp.example/jwks"),
        ("jwt_jwks_url", "file:///etc/passwd"),
        ("jwt_jwks_url", "https://user:secret@idp.example/jwks"),
        ("jwt_jwks_url", "https://"),
        ("jwt_issuer", "http://idp.example"),
        ("jwt_issuer", None),
        ("jwt_audience", None),
        ("jwt_leeway", 301),
    ],
)
def test_T62_unsafe_settings_are_refused_at_start(name: str, value: Any) -> None:
    good: dict[str, Any] = {"jwt_issuer": "https://idp.example", "jwt_audience": "gateway"}
    Settings(_env_file=None, **good)
    with pytest.raises(ValidationError):
        Settings(_env_file=None, **(good | {name: value}))


def test_http_is_accepted_on_this_machine_only() -> None:
    for url in ("http://localhost:8081/realms/x", "http://127.0.0.1:1", "http://[::1]/", "https://idp.example/a"):
        Settings(_env_file=None, jwt_issuer=url, jwt_audience="gateway")
