"""JWTs of the operator's identity provider (OpenID Connect): whose they are, and what they may do.

Issuer, audience and algorithms are fixed by the settings, and keys come from the provider's key set alone: ``jku``, ``x5u``,
``jwk`` and ``x5c`` of a token are never looked at, and ``kid`` only chooses among those keys (T62, RFC 8725). No algorithm with
a shared secret can be configured, so a public key can't pass for a secret.

Owners of JWTs and of API keys are one namespace: a JWT whose owner is ``alice`` and a key of ``alice`` see the same files. A JWT
can't be revoked; it ends when it expires."""

from __future__ import annotations

import re
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any, NoReturn

import jwt
import structlog

from core.addresses import is_confidential
from core.errors import NotAuthenticated, Unavailable
from core.principal import SCOPES, Principal, Quota
from services.access.provider_documents import Remembered, request_json

log = structlog.get_logger()

Claims = Mapping[str, Any]
Keys = dict[tuple[str | None, str], jwt.PyJWK]  # by kid and algorithm

_TYPES = ("jwt", "at+jwt")  # at+jwt: an access token (RFC 9068). Other types are for other uses.
_MAX_INT64 = 2**63 - 1
_NOT_STORABLE = re.compile("[\0\ud800-\udfff]")  # JSON allows lone surrogates; PostgreSQL has no place for them


@dataclass(frozen=True, slots=True)
class ProviderSettings:
    """The provider, and which of its claims mean what. A claim inside another is named ``outer.inner``."""

    issuer: str
    audience: str | None  # None: JWTs are no credentials
    algorithms: tuple[str, ...]
    jwks_url: str | None = None  # None: as the discovery document says
    owner_claim: str = "sub"
    role_claim: str | None = None  # None: nobody is an admin
    admin_role: str = "admin"
    scope_claim: str | None = None  # None: all scopes
    bytes_claim: str | None = None
    files_claim: str | None = None
    leeway: int = 30  # seconds that clocks may differ


class IdentityProvider:
    """Verifies JWTs with the provider's keys."""

    def __init__(self, settings: ProviderSettings):
        self._settings = settings
        self._discovery = Remembered(self._read_discovery)
        self._keys = Remembered(self._read_keys)

    def accepts(self, credential: str) -> bool:
        """Whether a credential has the form of a JWT, which begins with ``{"``; no key of ours does."""
        return self._settings.audience is not None and credential.startswith("eyJ")

    def authenticate(self, token: str) -> Principal:
        """The principal of a JWT. Raises NotAuthenticated, or Unavailable if it names a key that only the provider knows."""
        claims = self.verify(token, self._settings.audience or "")
        left = int(claims["exp"]) + self._settings.leeway - int(time.time())
        principal = replace(self.principal(claims), seconds_left=left)
        if self._settings.scope_claim is None:
            return principal
        scopes = SCOPES & set(_words(_claim(claims, self._settings.scope_claim)))
        return replace(principal, scopes=scopes)

    def verify(self, token: str, audience: str) -> Claims:
        """The claims of a JWT for this audience. Raises as ``authenticate``."""
        kid, algorithm = self._key_name(token)
        key = self._keys.get(lacks=lambda keys: (kid, algorithm) not in keys).get((kid, algorithm))
        if key is None:
            refuse("the provider has no such key")
        try:
            claims: Claims = jwt.decode(
                token,
                key,
                algorithms=[algorithm],
                audience=audience,
                issuer=self._settings.issuer,
                leeway=self._settings.leeway,
                options={"require": ["exp", "iss", "aud"], "enforce_minimum_key_length": True},
            )
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            refuse(f"{type(error).__name__}: {error}")
        return claims

    def _key_name(self, token: str) -> tuple[str | None, str]:
        """Kid and algorithm in the header of a token that may be acceptable."""
        try:
            header = jwt.get_unverified_header(token)
        except (jwt.PyJWTError, ValueError, RecursionError) as error:
            refuse(f"{type(error).__name__}: {error}")
        algorithm, kind = header.get("alg"), str(header.get("typ", "JWT")).lower().removeprefix("application/")
        if algorithm not in self._settings.algorithms or kind not in _TYPES or "crit" in header:
            refuse("its algorithm, type or a critical header is not accepted")
        return header.get("kid"), algorithm

    def principal(self, claims: Claims) -> Principal:
        """Who the claims name, with all scopes. Raises NotAuthenticated if one of them is not valid."""
        settings = self._settings
        owner = _claim(claims, settings.owner_claim)
        if not isinstance(owner, str) or not 1 <= len(owner) <= 255 or _NOT_STORABLE.search(owner):
            refuse(f"{settings.owner_claim} is no owner")
        is_admin = settings.role_claim is not None and settings.admin_role in _words(
            _claim(claims, settings.role_claim)
        )
        limits = Quota(_limit(claims, settings.bytes_claim), _limit(claims, settings.files_claim))
        return Principal(
            owner, role="admin" if is_admin else "user", credential="jwt", quota=limits if limits != Quota() else None
        )

    def endpoint(self, name: str) -> str:
        """An address from the discovery document. Raises Unavailable."""
        address = self._discovery.get().get(name)
        if not isinstance(address, str) or not is_confidential(address):
            log.warning("identity_provider_misconfigured", missing=name)
            raise Unavailable("The identity provider can't be reached; try again.")
        return address

    def is_issuer(self, issuer: str | None) -> bool:
        """Whether a redirect is the provider's by its ``iss``, which only some providers send. Raises Unavailable."""
        if issuer is None:
            return not self._discovery.get().get("authorization_response_iss_parameter_supported")
        return issuer == self._settings.issuer

    def accepts_basic(self) -> bool:
        """Whether clients send their secret in an Authorization header, as is the default. Raises Unavailable."""
        return "client_secret_basic" in self._discovery.get().get(
            "token_endpoint_auth_methods_supported", ["client_secret_basic"]
        )

    def _read_discovery(self) -> Claims:
        status, document = request_json(f"{self._settings.issuer.rstrip('/')}/.well-known/openid-configuration")
        if status != 200 or not isinstance(document, dict) or document.get("issuer") != self._settings.issuer:
            log.warning("identity_provider_misconfigured", issuer=self._settings.issuer, status=status)
            raise Unavailable("The identity provider can't be reached; try again.")
        return document

    def _read_keys(self) -> Keys:
        status, document = request_json(self._settings.jwks_url or self.endpoint("jwks_uri"))
        found = document.get("keys") if status == 200 and isinstance(document, dict) else None
        if not isinstance(found, list):
            log.warning("identity_provider_has_no_keys", status=status)
            raise Unavailable("The identity provider can't be reached; try again.")
        keys: Keys = {}
        for described in found:
            if not isinstance(described, dict) or described.get("use", "sig") != "sig":
                continue
            kid = described.get("kid")
            for algorithm in self._settings.algorithms:
                if described.get("alg", algorithm) == algorithm and (key := _key(described, algorithm)) is not None:
                    keys[kid if isinstance(kid, str) else None, algorithm] = key
                    if len(found) == 1:  # then a token need not name it
                        keys[None, algorithm] = key
        return keys


def refuse(reason: str) -> NoReturn:
    """Raise NotAuthenticated. Only the log has the reason."""
    log.info("credential_refused", reason=reason[:200])
    raise NotAuthenticated()


def _key(described: dict[str, Any], algorithm: str) -> jwt.PyJWK | None:
    """A key of the provider; None if it is not for this algorithm."""
    try:
        return jwt.PyJWK(described, algorithm)
    except (jwt.PyJWTError, ValueError, TypeError, KeyError, AttributeError):
        return None


def _claim(claims: Claims, name: str) -> Any:
    """A claim by its name, or inside another: names may have dots themselves."""
    if name in claims:
        return claims[name]
    outer, dot, inner = name.partition(".")
    nested = claims.get(outer)
    return _claim(nested, inner) if dot and isinstance(nested, dict) else None


def _words(value: Any) -> list[str]:
    """A list of texts, or words in one text."""
    if isinstance(value, str):
        return value.split()
    return [word for word in value if isinstance(word, str)] if isinstance(value, list) else []


def _limit(claims: Claims, name: str | None) -> int | None:
    value = None if name is None else _claim(claims, name)
    if value is None:
        return None
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        refuse(f"{name} is no number of bytes or files")
    return min(value, _MAX_INT64)
