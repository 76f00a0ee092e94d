"""Requests to the bucket that we sign ourselves, over one urllib3 pool.

Both SDKs hash a payload once more before sending it over plain http, and neither sends all headers that the gateway
needs. A request to a URL that we presigned has neither problem. Every answer that is an error, and every failure on the
wire, leaves here as one of ``base``'s errors.
"""

from __future__ import annotations

import os
import socket
import threading
from collections.abc import Iterable, Mapping
from typing import Any, cast

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
STALL_TIMEOUT = 10.0  # seconds without one byte moving, and from a request's last byte to its answer
COPY_PATIENCE = 600.0  # seconds: a copy says nothing until it is done, which for 5 GiB takes minutes
URL_LIFE = 900  # seconds; the URL is used at once, this covers a clock that is a little off
ERROR_BODY = 64 * 1024  # bytes of an error document that are read
UNSENT = 128 * 1024  # bytes that may wait in the kernel: an answer is due soon after the last byte was handed to it


def ca_bundle() -> str:
    """The certificates that every connection to the bucket trusts, the SDKs' included."""
    return os.environ.get("SSL_CERT_FILE") or certifi.where()


class _PatientHTTP(HTTPConnection):
    """urllib3 keeps the connect timeout while it sends a body, and one ``sendall`` counts it over the whole chunk: a
    slow line would be cut after five seconds. Once connected, a stall is what ends it."""

    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        super().endheaders(*args, **kwargs)
        _await_the_line(self.sock)


class _PatientHTTPS(HTTPSConnection):
    def endheaders(self, *args: Any, **kwargs: Any) -> None:
        super().endheaders(*args, **kwargs)
        _await_the_line(self.sock)


def _await_the_line(sock: socket.socket) -> None:
    sock.settimeout(STALL_TIMEOUT)
    if hasattr(socket, "TCP_NOTSENT_LOWAT"):
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT)


class _PatientHTTPPool(HTTPConnectionPool):
    ConnectionCls = _PatientHTTP


class _PatientHTTPSPool(HTTPSConnectionPool):
    ConnectionCls = _PatientHTTPS


def new_pool(connections: int) -> urllib3.PoolManager:
    pool = urllib3.PoolManager(
        num_pools=2,
        maxsize=connections,
        retries=False,
        ca_certs=ca_bundle(),
        timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT, read=STALL_TIMEOUT),
    )
    pool.pool_classes_by_scheme = {"http": _PatientHTTPPool, "https": _PatientHTTPSPool}
    return pool


def translate_wire(operation: str, error: HTTPError) -> StorageError:
    """A failure on the wire: before the request was out it did not happen, after that nobody knows."""
    if isinstance(error, ConnectTimeoutError | NewConnectionError | SSLError):
        return StorageUnavailable(f"{operation}: {error}", silent=not isinstance(error, SSLError))
    while_sending = any(isinstance(cause, TimeoutError) for cause in error.args)
    return OutcomeUnknown(f"{operation}: {error}", silent=while_sending or isinstance(error, HTTPTimeout))


class SignedHttp:
    """Sends signed requests. Threads share it; after a fork the child opens connections of its own."""

    def __init__(self, presigner: Presigner, connections: int):
        self._presigner = presigner
        self._connections = connections
        self._lock = threading.Lock()
        self._made: tuple[int, urllib3.PoolManager] | None = None

    @property
    def pool(self) -> urllib3.PoolManager:
        """This process's pool; the minio SDK sends over it too."""
        made = self._made
        if made is None or made[0] != os.getpid():
            with self._lock:
                made = self._made
                if made is None or made[0] != os.getpid():
                    made = self._made = (os.getpid(), new_pool(self._connections))
        return made[1]

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
        stall: float | None = None,
        in_headers: bool = False,
    ) -> urllib3.BaseHTTPResponse:
        """One request, not repeated. With ``stream`` the caller reads the body and must release or close the answer.
        ``in_headers`` signs there instead of in the URL, as the SDKs do; the body is bytes then."""
        if in_headers:
            assert isinstance(body, bytes)
            url, signed = self._presigner.headers(method, key, body, signed or {})
        else:
            url = self._presigner.url(method, key, expires_in=URL_LIFE, query=query, headers=signed)
        origin, stall = self._presigner.origin, stall or STALL_TIMEOUT
        try:
            # Through the connection pool with a bare path: PoolManager would resolve dots in keys after we signed them.
            response = self.pool.connection_from_url(origin).urlopen(
                method,
                url[len(origin) :],
                body=cast(bytes, body),
                headers={**(signed or {}), **(unsigned or {})},
                redirect=False,
                assert_same_host=False,
                preload_content=False,
                decode_content=False,
                timeout=urllib3.Timeout(connect=min(CONNECT_TIMEOUT, stall), read=stall),
            )
            if response.status < 300 and stream:
                return response
            if response.status < 300:
                response.read(cache_content=True)
                response.release_conn()
                return response
            document = response.read(ERROR_BODY)
            if response.length_remaining != 0:
                response.close()  # what is left of it is not worth the connection
            response.release_conn()
        except HTTPError as error:
            raise translate_wire(operation, error) from error
        raise error_in(operation, response.status, response.headers, document)


def error_in(operation: str, status: int, headers: Mapping[str, str], document: bytes) -> StorageError:
    return faults.translate(
        operation,
        status,
        faults.xml_text(document, "Code"),
        faults.xml_text(document, "Message"),
        headers.get("x-amz-request-id") or faults.xml_text(document, "RequestId"),
    )
