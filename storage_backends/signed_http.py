"""Requests to the bucket that the gateway signs itself, over one pool of connections.

Both SDKs hash a payload again before they send it over plain http, and neither sends all headers that the gateway needs.
A request to a presigned URL has neither problem. Error responses and network failures are raised as ``base``'s errors.
"""

from __future__ import annotations

import os
import ssl
import threading
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar
from urllib.parse import urlsplit

import certifi

from storage_backends import faults
from storage_backends.base import OutcomeUnknown, StorageError, StorageUnavailable
from storage_backends.http_client import Body, NotConnected, Pool, Response
from storage_backends.presign import DEFAULT_PORTS, Presigner

CONNECT_TIMEOUT = 5.0  # seconds
STALL_TIMEOUT = 10.0  # seconds without a byte moving, and from a request's last byte to the response
URL_LIFETIME = 900  # seconds; the URL is used at once, so this only has to cover clock skew
ERROR_BODY = 64 * 1024  # bytes of an error document that are read

T = TypeVar("T")


def ca_bundle() -> str:
    """The certificates that every connection to the bucket trusts, the SDKs' included."""
    return os.environ.get("SSL_CERT_FILE") or certifi.where()


class PerProcess(Generic[T]):
    """A client that each process makes on first use, because connections must not be shared over a fork."""

    def __init__(self, make: Callable[[], T]):
        self._make = make
        self._lock = threading.Lock()
        self._made: tuple[int, T] | None = None  # the process's id, and its client

    def __call__(self) -> T:
        """This process's client."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                made = self._made
                if made is None or made[0] != os.getpid():
                    made = self._made = (os.getpid(), self._make())
        return made[1]


class SignedHttp:
    """Sends signed requests; threads share it."""

    def __init__(self, presigner: Presigner, connections: int):
        self._presigner = presigner
        parts = urlsplit(presigner.origin)
        host, port = str(parts.hostname), parts.port or DEFAULT_PORTS[parts.scheme]
        certificates = ca_bundle() if parts.scheme == "https" else None
        self.pool = PerProcess(lambda: Pool(host, port, size=connections, ca_bundle=certificates))
        self._last = threading.local()  # the bucket's id of this thread's last request

    def begin_call(self) -> None:
        """Forget the last request of this thread."""
        self._last.request_id = None

    def last_request_id(self) -> str | None:
        """The bucket's id of this thread's last request since ``begin_call``; None if there was no answer."""
        return getattr(self._last, "request_id", None)

    def send(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        signed: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
        body: Body | None = None,
        stream: bool = False,
        timeout: float | None = None,
        in_headers: bool = False,
    ) -> Response:
        """Send one request, without retries. ``signed`` has the body's length. With ``stream`` the caller reads the body or
        closes the response. ``in_headers`` signs in the headers instead of the URL, as the SDKs do; the body is bytes then."""
        if in_headers:
            assert isinstance(body, bytes)
            url, signed = self._presigner.headers(method, key, body, signed or {}, query=query)
        else:
            url = self._presigner.url(method, key, expires_in=URL_LIFETIME, query=query, headers=signed)
            signed = {"Host": self._presigner.host, **(signed or {})}
        timeout = timeout or STALL_TIMEOUT
        try:
            response = self.pool().request(
                method,
                url[len(self._presigner.origin) :],
                headers={**signed, **(unsigned or {})},
                body=body,
                connect_timeout=min(CONNECT_TIMEOUT, timeout),
                send_timeout=STALL_TIMEOUT,
                timeout=timeout,
            )
            self._last.request_id = response.headers.get("x-amz-request-id")
            if response.status < 300 and stream:
                return response
            try:
                if response.status < 300:
                    response.data = response.read()
                    return response
                document = b""
                while len(document) < ERROR_BODY and (piece := response.read(ERROR_BODY)):
                    document += piece
            finally:
                response.close()
        except NotConnected as error:
            unreachable = not isinstance(error.__cause__, ssl.SSLError)
            raise StorageUnavailable(f"{operation}: {error}", no_answer=unreachable) from error
        except OSError as error:
            raise OutcomeUnknown(f"{operation}: {error}", no_answer=isinstance(error, TimeoutError)) from error
        if method == "HEAD" and response.status == 404:  # which has no document
            document = b"<Code>NoSuchKey</Code>"
        raise error_in(operation, response.status, response.headers, document)


def error_in(operation: str, status: int, headers: Mapping[str, str], document: bytes) -> StorageError:
    """The error in an S3 response."""
    return faults.translate(
        operation,
        status,
        faults.xml_text(document, "Code"),
        faults.xml_text(document, "Message"),
        headers.get("x-amz-request-id") or faults.xml_text(document, "RequestId"),
    )
