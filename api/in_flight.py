"""What takes long has few places in the server: they are asked for here, before anything is done or read. Who finds none waits
outside of the server's threads: its request is begun again later. Servers other than ours have none of this."""

from __future__ import annotations

from typing import Any

from flask import request

from api import proxies
from api.context import caller_or_none, http
from core.errors import TooMany


def take_body_place() -> None:
    """For reading an upload's body. Raises TooMany where none comes free."""
    server = _server()
    if server is not None and not server.place("body", *_whose(), most=http().max_bodies_in_flight):
        raise TooMany("Too many uploads at once; wait for one to end.", retry_after=5)


def take_stream_place() -> None:
    """For sending bytes from the bucket. Raises TooMany where none comes free."""
    server = _server()
    if server is not None and not server.place("stream", *_whose()):
        raise TooMany("Too many downloads at once; wait for one to end.", retry_after=5)


def await_body() -> None:
    """Before a small body is read as a whole. Raises TooMany where too many do not come."""
    server = _server()
    if server is not None and not server.whole_body(*_whose()):
        raise TooMany("Too many requests at once whose bodies have not come.", retry_after=5)


def _server() -> Any:
    """web_clients.py's Connection; None on another server."""
    return request.environ.get("gateway.connection")


def _whose() -> tuple[str, str | None]:
    """Address and owner."""
    caller = caller_or_none()
    return proxies.client(), None if caller is None else caller.owner_id
