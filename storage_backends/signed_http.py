"""Requests to the bucket that the gateway signs itself, over one urllib3 pool.

Both SDKs hash a payload again before they send it over plain http, and neither sends all headers that the gateway needs.
A request to a presigned URL has neither problem. Error responses and network failures are raised as ``base``'s errors.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Generic, TypeVar, cast

import certifi
import urllib3
from urllib3.connection import HTTPConnection, HTTPSConnection
from urllib3.connectionpool import HTTPConnectionPool, HTTPSConnectionPool
from urllib3.exceptions import ConnectTimeoutError, HTTPError, NewConnectionError, SSLError
from urllib3.exceptions import TimeoutError as HTTPTimeout

from storage_backends import faults
from storage_backends.base import OutcomeUnknown, StorageError, StorageUnavailable
from storage_backends.presign import Presigner

CONNECT_TIMEOUT = 5.0  # seconds
STALL_TIMEOUT = 10.0  # seconds without a byte moving, and from a request's last byte to the response
URL_LIFETIME = 900  # seconds; the URL is used at once, so this only has to cover clock skew
ERROR_BODY = 64 * 1024  # bytes of an error document that are read
UNSENT = 128 * 1024  # bytes in the kernel's send buffer: the response is due soon after the last byte is handed to it

T = TypeVar("T")


def ca_bundle() -> str:
    """The certificates that every connection to the bucket trusts, the SDKs' included."""
    return os.environ.get("SSL_CERT_FILE") or certifi.where()


class _StallTimeout:
    sock: socket.socket

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        """From here on the stall timeout holds. urllib3 keeps the connect timeout while it sends a body, and one ``sendall``
        counts it over a whole chunk: a slow connection would be cut after five seconds."""
        super().endheaders(*args, **kwargs)  # type: ignore[misc]
        self.sock.settimeout(STALL_TIMEOUT)
        if hasattr(socket, "TCP_NOTSENT_LOWAT"):
            self.sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


class _HTTPConnection(_StallTimeout, HTTPConnection):
    pass


class _HTTPSConnection(_StallTimeout, HTTPSConnection):
    pass


class _HTTPPool(HTTPConnectionPool):
    ConnectionCls = _HTTPConnection


class _HTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _HTTPSConnection


def new_pool(connections: int) -> urllib3.PoolManager:
    """A pool of up to ``connections`` connections to the bucket, without retries."""
    pool = urllib3.PoolManager(
        num_pools=2,
        maxsize=connections,
        retries=False,
        ca_certs=ca_bundle(),
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=STALL_TIMEOUT),
    )
    pool.pool_classes_by_scheme = {"http": _HTTPPool, "https": _HTTPSPool}
    return pool


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


def network_error(operation: str, error: HTTPError) -> StorageError:
    """The error for a network failure: without a connection the request had no effect, later its outcome is unknown."""
    if isinstance(error, ConnectTimeoutError | NewConnectionError | SSLError):
        return StorageUnavailable(f"{operation}: {error}", no_answer=not isinstance(error, SSLError))
    while_sending = any(isinstance(cause, TimeoutError) for cause in error.args)
    return OutcomeUnknown(f"{operation}: {error}", no_answer=while_sending or isinstance(error, HTTPTimeout))


class SignedHttp:
    """Sends signed requests; threads share it."""

    def __init__(self, presigner: Presigner, connections: int):
        self._presigner = presigner
        self.pool = PerProcess(lambda: new_pool(connections))  # the minio SDK uses it too

    def send(
        self,
        operation: str,
        method: str,
        key: str,
        *,
        query: Mapping[str, str] | None = None,
        signed: Mapping[str, str] | None = None,
        unsigned: Mapping[str, str] | None = None,
        body: bytes | Iterable[bytes | memoryview] | None = None,
        stream: bool = False,
        timeout: float | None = None,
        in_headers: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """Send one request, without retries. With ``stream`` the caller reads the body and must release or close the
        response. ``in_headers`` signs in the headers instead of in the URL, as the SDKs do; the body is bytes then."""
        if in_headers:
            assert isinstance(body, bytes)
            url, signed = self._presigner.headers(method, key, body, signed or {})
        else:
            url = self._presigner.url(method, key, expires_in=URL_LIFETIME, query=query, headers=signed)
        origin, timeout = self._presigner.origin, timeout or STALL_TIMEOUT
        try:
            # Not through PoolManager, which would resolve dots in keys after they were signed.
            response = (
                self.pool()
                .connection_from_url(origin)
                .urlopen(
                    method,
                    url[len(origin) :],
                    body=cast(bytes, body),
                    headers={**(signed or {}), **(unsigned or {})},
                    redirect=False,
                    assert_same_host=False,
                    preload_content=False,
                    decode_content=False,
                    timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, timeout), read=timeout),
                )
            )
            if response.status < 300:
                if not stream:
                    response.read(cache_content=True)
                    response.release_conn()
                return response
            document = response.read(ERROR_BODY)
            if method == "HEAD" and response.status == 404:  # which has no document
                document = b"<Code>NoSuchKey</Code>"
            if response.length_remaining != 0:
                response.close()  # reading the rest would cost more than a new connection
            response.release_conn()
        except HTTPError as error:
            raise network_error(operation, error) from error
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
