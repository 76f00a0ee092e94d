"""Limits on concurrent long requests: a view takes a slot before it does or reads anything.

A request waits for its slot outside of the server's threads, and then starts again (web_clients.py). Other servers than ours
have no slots."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar, cast

from flask import g, request

from api.context import caller_or_none, settings
from core.errors import TooMany

T = TypeVar("T")


def once(make: Callable[[], T]) -> T:
    """What ``make`` returns, called once however often the request starts again."""
    connection = _connection()
    if connection is None:
        return make()
    if connection.kept is None:
        connection.kept = make()
    return cast(T, connection.kept)


def acquire_body_slot() -> None:
    """Take a slot for reading an upload's body. Raises TooMany if none comes free."""
    connection = _connection()
    if connection is not None and not connection.acquire_slot(
        "body", *_caller(), limit=settings().max_bodies_in_flight
    ):
        raise TooMany("Too many concurrent uploads; wait for one to end.", retry_after=5)


def acquire_stream_slot() -> None:
    """Take a slot for sending bytes from the bucket. Raises TooMany if none comes free."""
    connection = _connection()
    if connection is not None and not connection.acquire_slot("stream", *_caller()):
        raise TooMany("Too many concurrent downloads; wait for one to end.", retry_after=5)


def buffer_body() -> None:
    """Receive a small body as a whole. Raises TooMany if too many other bodies have not arrived."""
    connection = _connection()
    if connection is not None and not connection.buffer_body(*_caller()):
        raise TooMany("Too many concurrent requests whose bodies have not arrived.", retry_after=5)


def _connection() -> Any:
    """The request's web_clients.Connection; None on another server."""
    return request.environ.get("gateway.connection")


def _caller() -> tuple[str, str | None]:
    """Address and owner."""
    caller = caller_or_none()
    return g.address, None if caller is None else caller.owner_id
