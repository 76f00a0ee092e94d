"""Framing of responses, and which connections are used again."""

from __future__ import annotations

import socket
import ssl
import threading
import time
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from datetime import UTC, datetime, timedelta
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from storage_backends.http_client import BadResponse, NotConnected, Pool, Response
from tests.servers import free_port

OK = b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok"


@contextmanager
def serving(
    *answers: bytes, certificate: Path | None = None, trusted: Path | None = None
) -> Iterator[tuple[Pool, list[int]]]:
    """A pool of one server, and the number of requests on each of its connections. The server closes the connection after the
    last answer. With a ``certificate`` it uses TLS."""
    requests: list[int] = []
    left = list(answers)
    tls = None
    if certificate is not None:
        tls = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        tls.load_cert_chain(certificate)

    def serve() -> None:
        with suppress(OSError):
            while left:
                connection, _ = listener.accept()
                if tls is not None:
                    connection = tls.wrap_socket(connection, server_side=True)
                requests.append(0)
                with connection, connection.makefile("rb") as stream:
                    while left and stream.readline():
                        while stream.readline().strip():
                            pass
                        requests[-1] += 1
                        connection.sendall(left.pop(0))

    with socket.create_server(("127.0.0.1", 0)) as listener:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        ca_bundle = None if trusted is None else str(trusted)
        yield Pool("127.0.0.1", listener.getsockname()[1], size=4, ca_bundle=ca_bundle), requests


def certificate_for(name: str, file: Path) -> Path:
    """A file with a self-signed certificate for an address, and its key."""
    key, now = ec.generate_private_key(ec.SECP256R1()), datetime.now(UTC)
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, name)])
    certificate = (
        x509.CertificateBuilder(subject, subject, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - timedelta(days=1))
        .not_valid_after(now + timedelta(days=1))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(ip_address(name))]), critical=False)
        .sign(key, hashes.SHA256())
    )
    pem = serialization.Encoding.PEM
    private = key.private_bytes(pem, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    file.write_bytes(private + certificate.public_bytes(pem))
    return file


def ask(pool: Pool, method: str = "GET", **headers: str) -> Response:
    return pool.request(method, "/", headers={"Host": "h", **headers}, connect_timeout=10, send_timeout=10, timeout=10)


@pytest.mark.parametrize(
    ("answer", "body"),
    [
        (OK, b"ok"),
        (b"HTTP/1.1 100 Continue\r\n\r\n" + OK, b"ok"),
        (b"HTTP/1.1 204 No Content\r\n\r\n", b""),
        (
            b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3;x=y\r\nabc\r\nA\r\n0123456789\r\n0\r\nT: t\r\n\r\n",
            b"abc0123456789",
        ),
        (b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n", b""),
    ],
)
def test_a_connection_is_used_again_after_a_whole_response(answer: bytes, body: bytes) -> None:
    with serving(answer, answer, OK) as (pool, requests):
        assert ask(pool).read() == body
        response = ask(pool)
        assert b"".join(iter(lambda: response.read(2), b"")) == body
        assert ask(pool).read() == b"ok"
        assert requests == [3]


@pytest.mark.parametrize(
    "answer",
    [
        OK + b"HTTP/1.1 200 OK\r\nContent-Length: 6\r\n\r\nforged",  # more than was asked for
        b"HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 2\r\n\r\nok",
        b"HTTP/1.0 200 OK\r\nContent-Length: 2\r\n\r\nok",
    ],
)
def test_other_connections_are_not_used_again(answer: bytes) -> None:
    with serving(answer, OK) as (pool, requests):
        assert ask(pool).read() == b"ok"
        assert ask(pool).read() == b"ok"
        assert requests == [1, 1]


def test_the_body_of_a_head_response_is_not_read_as_the_next_response() -> None:
    with serving(
        b"HTTP/1.1 200 OK\r\nContent-Length: 40\r\n\r\nHTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nno", OK
    ) as (pool, _):
        assert ask(pool, "HEAD").headers["content-length"] == "40"
        assert ask(pool).read() == b"ok"


def test_a_response_that_was_not_read_ends_its_connection() -> None:
    with serving(OK, OK) as (pool, requests):
        ask(pool).close()
        assert ask(pool).read() == b"ok"
        assert requests == [1, 1]


def test_a_body_without_a_length_ends_with_the_connection() -> None:
    with serving(b"HTTP/1.1 200 OK\r\n\r\nall of it") as (pool, _):
        assert ask(pool).read() == b"all of it"


@pytest.mark.parametrize(
    "answer",
    [
        b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\nok",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n-2\r\nok\r\n",
        b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n2\r\nok\r\n",
        b"HTTP/1.1 2x0 OK\r\n\r\n",
        b"SSH-2.0-OpenSSH\r\n\r\n",
        b"HTTP/1.1 200 OK\r\n" + b"A: b\r\n" * 20_000,
    ],
)
def test_bad_responses_raise(answer: bytes) -> None:
    with serving(answer) as (pool, _), pytest.raises(BadResponse), closing(ask(pool)) as response:
        response.read()


def test_a_header_with_a_line_break_is_not_sent() -> None:
    with serving(OK) as (pool, requests), pytest.raises(ValueError, match="line break"):
        ask(pool, Type="a\r\nX-Evil: b")
    assert requests == []


def test_a_server_that_reads_slowly_does_not_stall() -> None:
    """The whole body takes longer than the timeout, which is for a connection on which no byte moves."""
    body = bytes(1024 * 1024)
    with socket.socket() as listener:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 64 * 1024)
        listener.bind(("127.0.0.1", 0))
        listener.listen()

        def serve() -> None:
            connection, _ = listener.accept()
            with connection, connection.makefile("rb") as stream:
                while stream.readline().strip():
                    pass
                for _ in range(0, len(body), 64 * 1024):
                    time.sleep(0.2)
                    stream.read(64 * 1024)
                connection.sendall(OK)

        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        pool, headers = Pool(*listener.getsockname(), size=1), {"Host": "h", "Content-Length": str(len(body))}
        response = pool.request("PUT", "/", headers=headers, body=body, connect_timeout=10, send_timeout=1, timeout=60)
        assert response.read() == b"ok"
        thread.join(60)


def test_without_a_server_there_is_no_connection() -> None:
    with pytest.raises(NotConnected):
        ask(Pool("127.0.0.1", free_port(), size=1))


def test_a_connection_with_tls_is_used_again(tmp_path: Path) -> None:
    certificate = certificate_for("127.0.0.1", tmp_path / "own.pem")
    with serving(OK, OK, OK, certificate=certificate, trusted=certificate) as (pool, requests):
        assert [ask(pool).read() for _ in range(3)] == [b"ok"] * 3
        assert requests == [3]


@pytest.mark.parametrize("address", ["127.0.0.1", "127.0.0.2"], ids=["another authority", "another name"])
def test_nothing_is_sent_to_a_server_that_is_not_trusted(address: str, tmp_path: Path) -> None:
    certificate = certificate_for(address, tmp_path / "own.pem")
    trusted = certificate if address == "127.0.0.2" else certificate_for("127.0.0.1", tmp_path / "other.pem")
    with serving(OK, certificate=certificate, trusted=trusted) as (pool, requests):
        with pytest.raises(NotConnected) as refused:
            ask(pool)
        assert isinstance(refused.value.__cause__, ssl.SSLCertVerificationError)
        assert requests == []
