"""What a view needs beside its input: the services, the settings, and the caller."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

from flask import current_app, g

from core.errors import NotAuthenticated
from core.principal import Principal
from services import Services
from settings import Settings

EXTENSION = "gateway"


@dataclass(frozen=True, slots=True)
class Gateway:
    """What ``app.extensions`` holds."""

    services: Services
    settings: Settings


def services() -> Services:
    """The services of this application."""
    return cast(Gateway, current_app.extensions[EXTENSION]).services


def settings() -> Settings:
    """The settings of this application."""
    return cast(Gateway, current_app.extensions[EXTENSION]).settings


def principal() -> Principal:
    """The caller. Raises NotAuthenticated if a route that is open to all was called without a credential."""
    caller = caller_or_none()
    if caller is None:
        raise NotAuthenticated()
    return caller


def caller_or_none() -> Principal | None:
    """The caller; None without a credential."""
    return cast("Principal | None", g.get("principal"))


def request_id() -> str | None:
    """The id of the request, as logs and responses name it."""
    return cast("str | None", g.get("request_id"))
