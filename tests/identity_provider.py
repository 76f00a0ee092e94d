"""A small OpenID Connect provider for tests: discovery, keys, and the authorization code flow with PKCE, over real HTTP.

    with IdentityProvider() as provider:
        token = provider.token(sub="alice")                      # a JWT for the audience "gateway"
        answer = provider.log_in(location)                       # what a browser does: the redirect back to the client

It refuses what the standards tell it to refuse: codes used twice or with another redirect address, a wrong verifier or secret."""

from __future__ import annotations

import base64
import hashlib
import json
import secrets
import threading
import time
from collections import Counter
from functools import cached_property
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs, parse_qsl, unquote_plus, urlencode, urlsplit

import jwt
import requests
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

AUDIENCE, CLIENT, SECRET = "gateway", "console", "s3cret/+:"


class Key:
    """A private key of the provider."""

    def __init__(self, kid: str | None, algorithm: str = "RS256"):
        self.kid, self.algorithm = kid, algorithm
        self.private: Any = (
            rsa.generate_private_key(65537, 2048)
            if algorithm[0] in "RP"
            else ec.generate_private_key(ec.SECP256R1())
            if algorithm == "ES256"
            else ed25519.Ed25519PrivateKey.generate()
        )

    @cached_property
    def public(self) -> dict[str, Any]:
        family = jwt.algorithms.get_default_algorithms()[self.algorithm]
        described: dict[str, Any] = json.loads(family.to_jwk(self.private.public_key()))
        described |= {"use": "sig", "alg": self.algorithm} | ({"kid": self.kid} if self.kid is not None else {})
        described.pop("key_ops", None)
        return described

    def sign(self, claims: dict[str, Any], **header: Any) -> str:
        named = {} if self.kid is None else {"kid": self.kid}
        return jwt.encode(claims, self.private, self.algorithm, headers=named | header)


RSA = Key("rsa")  # made once, which takes a while


class IdentityProvider:
    def __init__(self) -> None:
        self.keys = [RSA]
        self.other_keys: list[Any] = []  # of the key set, as they are
        self.requests: Counter[str] = Counter()  # by path
        self.failing = False  # answer 503
        self.silent: threading.Event | None = None  # answer only when it is set
        self.secret = SECRET  # of the client; empty for a public one
        self.logins = 0  # that ended with an ID token
        self.id_claims: dict[str, Any] = {"sub": "alice"}  # of the next ID token
        self.id_key: Key | None = None  # that signs it; by default the first
        self.discovery: dict[str, Any] = {}  # what differs from the truth
        self._codes: dict[str, dict[str, str]] = {}
        provider = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                provider._answer(self, None)

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers.get("Content-Length", 0))).decode()
                provider._answer(self, dict(parse_qsl(body)))

            def log_message(self, *_: Any) -> None: ...

        class Server(ThreadingHTTPServer):
            def handle_error(self, *_: Any) -> None: ...  # a client that no longer waits

        self._server = Server(("127.0.0.1", 0), Handler)
        self.issuer = f"http://127.0.0.1:{self._server.server_port}"
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))

    def __enter__(self) -> IdentityProvider:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()

    @property
    def settings(self) -> dict[str, Any]:
        """The gateway's settings for this provider."""
        return {"jwt_issuer": self.issuer, "jwt_audience": AUDIENCE}

    def claims(self, **claims: Any) -> dict[str, Any]:
        """Of a good access token; None leaves one out."""
        now = int(time.time())
        whole = {"iss": self.issuer, "aud": AUDIENCE, "sub": "alice", "iat": now, "exp": now + 300} | claims
        return {name: value for name, value in whole.items() if value is not None}

    def token(self, key: Key | None = None, header: dict[str, Any] | None = None, **claims: Any) -> str:
        return (key or self.keys[0]).sign(self.claims(**claims), **(header or {}))

    def log_in(self, location: str) -> str:
        """Follow a redirect to the provider, where the user consents at once; the address that it sends the browser to."""
        answer = requests.get(location, allow_redirects=False, timeout=10)
        assert answer.status_code == 302, answer.text
        return answer.headers["Location"]

    # -- the server --------------------------------------------------------------------------------------------------------

    def _answer(self, handler: BaseHTTPRequestHandler, form: dict[str, str] | None) -> None:
        url = urlsplit(handler.path)
        self.requests[url.path] += 1
        if self.silent is not None:
            self.silent.wait(30)
        status = 404
        document: dict[str, Any] = {"error": "not_found"}
        headers = {"Content-Type": "application/json"}
        if self.failing:
            status = 503
        elif url.path == "/.well-known/openid-configuration":
            status, document = 200, self._configuration()
        elif url.path == "/jwks":
            status, document = 200, {"keys": [key.public for key in self.keys] + self.other_keys}
        elif url.path == "/redirect":
            status, headers["Location"] = 302, "/jwks"
        elif url.path == "/authorize":
            status, headers["Location"] = 302, self._authorize(parse_qs(url.query))
        elif url.path == "/token" and form is not None:
            status, document = self._exchange(form, handler.headers.get("Authorization"))
        body = json.dumps(document).encode()
        handler.send_response(status)
        for name, value in (headers | {"Content-Length": str(len(body))}).items():
            handler.send_header(name, value)
        handler.end_headers()
        handler.wfile.write(body)

    def _configuration(self) -> dict[str, Any]:
        return {
            "issuer": self.issuer,
            "jwks_uri": f"{self.issuer}/jwks",
            "authorization_endpoint": f"{self.issuer}/authorize",
            "token_endpoint": f"{self.issuer}/token",
        } | self.discovery

    def _authorize(self, query: dict[str, list[str]]) -> str:
        asked = {name: values[0] for name, values in query.items()}
        assert asked["response_type"] == "code"
        assert asked["client_id"] == CLIENT
        assert "openid" in asked["scope"].split()
        assert asked["code_challenge_method"] == "S256"
        code = secrets.token_urlsafe(16)
        self._codes[code] = asked
        return asked["redirect_uri"] + "?" + urlencode({"code": code, "state": asked["state"], "iss": self.issuer})

    def _exchange(self, form: dict[str, str], authorization: str | None) -> tuple[int, dict[str, str]]:
        asked = self._codes.pop(form.get("code", ""), None)
        if authorization is not None:
            name, _, given = base64.b64decode(authorization.removeprefix("Basic ")).decode().partition(":")
            client, secret = unquote_plus(name), unquote_plus(given)
        else:
            client, secret = form.get("client_id", ""), form.get("client_secret", "")
        if (client, secret) != (CLIENT, self.secret):
            return 401, {"error": "invalid_client"}
        digest = hashlib.sha256(form.get("code_verifier", "").encode()).digest()
        challenge = base64.urlsafe_b64encode(digest).rstrip(b"=").decode()
        if (
            asked is None
            or form.get("grant_type") != "authorization_code"
            or asked["redirect_uri"] != form.get("redirect_uri")
            or asked["code_challenge"] != challenge
        ):
            return 400, {"error": "invalid_grant"}
        self.logins += 1
        claims = {"aud": CLIENT, "nonce": asked.get("nonce")} | self.id_claims
        return 200, {"access_token": "opaque", "token_type": "Bearer", "id_token": self.token(self.id_key, **claims)}
