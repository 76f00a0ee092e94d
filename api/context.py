"""What a view needs beside its input: the services, the settings of the HTTP layer, and who asks."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app, g

from core.errors import NotAuthenticated
from core.principal import Principal
from services import Services

EXTENSION = "gateway"


@dataclass(frozen=True, slots=True)
class HttpSettings:
    base_url: str  # the address clients use, without a slash at the end
    public_url_set: bool = True  # base_url was told, not guessed from HOST and PORT
    trusted_proxies: tuple[str, ...] = ()  # addresses and networks whose X-Forwarded-* are believed
    cors_origins: tuple[str, ...] = ()  # exact origins, "https://app.example.com"
    max_file_size: int = 50 * 1024**3  # bytes
    max_files_per_request: int = 200
    max_bodies_in_flight: int = 24  # uploads through this process for one owner at a time


@dataclass(frozen=True, slots=True)
class Gateway:
    services: Services
    http: HttpSettings


def gateway() -> Gateway:
    return cast(Gateway, current_app.extensions[EXTENSION])


def services() -> Services:
    return gateway().services


def http() -> HttpSettings:
    return gateway().http


def principal() -> Principal:
    """Who asks. Raises NotAuthenticated on the few routes that are open to everybody and were called by anybody."""
    caller = caller_or_none()
    if caller is None:
        raise NotAuthenticated()
    return caller


def caller_or_none() -> Principal | None:
    return cast("Principal | None", g.get("principal"))


def request_id() -> str | None:
    return cast("str | None", g.get("request_id"))
