"""What the identity provider publishes: read over HTTP, and remembered.

The provider is asked only at addresses from the settings and from its own discovery document, never at one from a token (T62,
T68). A document is read at most once in PAUSE seconds, however many tokens ask for what it lacks. While the provider is down,
what was read before still holds."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Mapping
from time import monotonic
from typing import Any, Generic, TypeVar
from urllib.parse import urlencode

import structlog
import urllib3

from core.errors import Unavailable

log = structlog.get_logger()
T = TypeVar("T")

FRESH = 600.0  # seconds, after which a document is read again: a withdrawn key is accepted no longer
PAUSE = 30.0  # seconds between two attempts
DEADLINE = 5.0  # seconds for a whole response
MAX_BYTES = 512 * 1024  # of a response
_TIMEOUT = urllib3.Timeout(connect=2.0, read=3.0)
_WAITING = 4  # threads of a process that wait for one document; others are answered at once


def request_json(
    url: str, fields: Mapping[str, str] | None = None, headers: Mapping[str, str] | None = None
) -> tuple[int, Any]:
    """Status and JSON document of a GET, or with ``fields`` of a POST of a form. No redirect is followed. Raises Unavailable."""
    sent = {"Accept": "application/json", "User-Agent": "upload-gateway", **(headers or {})}
    body = None
    if fields is not None:
        body, sent["Content-Type"] = urlencode(fields), "application/x-www-form-urlencoded"
    try:
        with urllib3.PoolManager(retries=False, timeout=_TIMEOUT) as pool:
            method = "GET" if fields is None else "POST"
            response = pool.request(method, url, body=body, headers=sent, redirect=False, preload_content=False)
            try:
                return response.status, json.loads(_body(response))
            finally:
                response.close()
    except (urllib3.exceptions.HTTPError, OSError, ValueError, RecursionError) as error:
        log.warning("identity_provider_unavailable", url=url, error=repr(error))
        raise Unavailable("The identity provider can't be reached; try again.") from error


def _body(response: urllib3.BaseHTTPResponse) -> bytes:
    deadline, body = monotonic() + DEADLINE, b""
    while piece := response.read1(64 * 1024):
        body += piece
        if len(body) > MAX_BYTES or monotonic() > deadline:
            raise ValueError("the response is too large or too slow")
    return body


class Remembered(Generic[T]):
    """A document of the provider, shared by the threads of a process."""

    def __init__(self, read: Callable[[], T]):
        """``read`` raises Unavailable if the provider gives no valid document."""
        self._read = read
        self._value: T | None = None
        self._read_at = self._tried_at = float("-inf")
        self._reading = threading.Lock()
        self._waiting = threading.Semaphore(_WAITING)

    def get(self, *, lacks: Callable[[T], bool] = lambda _: False) -> T:
        """The document, read again if it is old or ``lacks`` what is asked for. It is the old one if the provider was asked
        just before. Raises Unavailable if there is none, or if it lacks something and reading it failed or is not over yet."""
        needed = self._value is None or lacks(self._value)
        if needed or monotonic() - self._read_at > FRESH:
            self._refresh(wait=needed)
        if self._value is None or (lacks(self._value) and (self._is_due() or self._read_at < self._tried_at)):
            raise Unavailable("The identity provider can't be reached; try again.")
        return self._value

    def _is_due(self) -> bool:
        return monotonic() - self._tried_at > PAUSE

    def _refresh(self, *, wait: bool) -> None:
        """Read it in this thread, unless another one does."""
        if not self._is_due() or not self._waiting.acquire(blocking=False):
            return
        try:
            if not self._reading.acquire(timeout=DEADLINE if wait else 0):
                return
            try:
                if self._is_due():
                    self._try()
            finally:
                self._reading.release()
        finally:
            self._waiting.release()

    def _try(self) -> None:
        try:
            self._value = self._read()
        except Unavailable:
            self._tried_at = monotonic()  # later than _read_at: it failed
        else:
            self._tried_at = self._read_at = monotonic()
