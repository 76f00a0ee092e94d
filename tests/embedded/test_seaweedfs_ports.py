"""Requests without credentials, such as those of web pages, to the ports of the embedded S3 server."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import re
import socket
import ssl
import time
import tomllib
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import requests

from embedded import seaweedfs
from embedded.seaweedfs import GRPC_ABOVE, SeaweedFS
from storage_backends import open_store
from tests.listening import listening
from tests.servers import BUCKET, S3Server

KEY, BYTES = "files/2026/11/0199.txt", b"kept for its owner"
FOREIGN = {"Origin": "http://evil.test"}
# Public: the data folder, the disk space, and how much is stored.
OPEN = {("volume", "/status")}


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("ports")


@pytest.fixture(scope="module")
def server(base: Path) -> Iterator[SeaweedFS]:
    running = seaweedfs.start(base)
    store(running).ensure_bucket()
    store(running).put(KEY, BYTES, content_type="text/plain")
    listening(running.child.process.pid, at_least=2 * len(seaweedfs.PORTS))  # a closed port would prove nothing
    yield running
    running.kill()


def store(server: SeaweedFS) -> Any:
    return open_store(S3Server(server.endpoint, server.access_key, server.secret_key, BUCKET).settings())


def unchanged(server: SeaweedFS) -> bool:
    with store(server).open(KEY) as reader:
        return reader.read() == BYTES and [info.key for info in store(server).list_objects("")] == [KEY]


def fid(server: SeaweedFS, base: Path) -> str:
    """The object's location in the volumes, read from the filer with its key."""
    secret = tomllib.loads((base / "security.toml").read_text())["jwt"]["filer_signing"]["read"]["key"]
    claims = {"exp": int(time.time()) + 60}
    signed = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, claims))
    token = f"{signed}.{_base64(hmac.digest(secret.encode(), signed.encode(), hashlib.sha256))}"
    entry = requests.get(
        f"http://127.0.0.1:{server.ports['filer']}/buckets/{BUCKET}/{KEY}?metadata=true",
        headers={"Authorization": f"Bearer {token}"},
        timeout=10,
    )
    assert entry.status_code == 200, "the key does not work, so the test would prove nothing"
    found = re.search(r'"file_id":\s*"([^"]+)"', entry.text)
    assert found, entry.text
    return found.group(1)


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()


def test_T131_only_the_expected_ports_are_open_and_on_loopback(server: SeaweedFS) -> None:
    ports = [port + above for port in server.ports.values() for above in (0, GRPC_ABOVE)]
    assert listening(server.child.process.pid) == {f"0100007F:{port:04X}" for port in ports}


@pytest.mark.filterwarnings("ignore:Unverified HTTPS request")
def test_T131_ports_refuse_requests_without_credentials(server: SeaweedFS, base: Path) -> None:
    """Neither web pages nor programs get in. Only the paths in ``OPEN`` answer."""
    place = f"/buckets/{BUCKET}/{KEY}"
    stored_at = fid(server, base)
    tus = {"Tus-Resumable": "1.0.0", "Upload-Length": "4"}
    none: dict[str, str] = {}
    attempts: dict[str, list[tuple[str, str, dict[str, str]]]] = {
        "s3": [("GET", path, none) for path in ("/", f"/{BUCKET}", f"/{BUCKET}/{KEY}", "/metrics")]
        + [(method, f"/{BUCKET}/{KEY}", none) for method in ("PUT", "DELETE", "POST")]
        + [("POST", "/?Action=ListUsers&Version=2010-05-08", none), ("DELETE", f"/{BUCKET}", none)],
        "filer": [
            ("GET", path, none)
            for path in ("/", "/buckets/", f"/buckets/{BUCKET}/", place, f"{place}?metadata=true", "/etc/", "/metrics")
        ]
        + [(method, place, none) for method in ("PUT", "POST", "DELETE")]
        + [("DELETE", f"/buckets/{BUCKET}?recursive=true", none), ("POST", f"{place}?mv.from={place}", none)]
        + [("POST", f"/.tus/buckets/{BUCKET}/files/evil.txt", tus), ("HEAD", "/.tus/.uploads/x", tus)],
        "volume": [
            ("GET", path, none) for path in (f"/{stored_at}", "/status", "/stats/disk", "/ui/index.html", "/metrics")
        ]
        + [(method, f"/{stored_at}", none) for method in ("PUT", "POST", "DELETE")],
        "master": [
            ("GET", path, none)
            for path in (
                "/",
                "/dir/status",
                "/dir/assign",
                "/dir/lookup?volumeId=1",
                "/vol/status",
                "/vol/grow?count=1",
                "/vol/vacuum",
                f"/col/delete?collection={BUCKET}",
                f"/{stored_at}",
                "/cluster/status",
                "/metrics",
            )
        ]
        + [("POST", "/submit", none), ("POST", f"/col/delete?collection={BUCKET}", none)],
        "admin": [
            ("GET", path, none) for path in ("/", "/health", "/metrics", "/api/s3/buckets", "/static/css/admin.css")
        ]
        + [("POST", "/api/s3/buckets", none), ("DELETE", f"/api/s3/buckets/{BUCKET}", none)],
    }
    assert attempts.keys() == server.ports.keys()
    for name, requests_of_it in attempts.items():
        for method, path, headers in requests_of_it:
            for scheme in ("http", "https"):
                try:
                    answer = requests.request(
                        method,
                        f"{scheme}://127.0.0.1:{server.ports[name]}{path}",
                        headers={**FOREIGN, **headers},
                        data=b"evil" if method in ("PUT", "POST") else None,
                        timeout=10,
                        verify=False,
                        allow_redirects=False,
                    )
                except requests.RequestException:  # no TLS, no client certificate, or closed during the answer
                    continue
                known = (name, path) in OPEN and "Access-Control-Allow-Origin" not in answer.headers
                assert answer.status_code >= 400 or known, (name, method, path, answer.status_code, answer.text[:200])
                assert BYTES not in answer.content
    assert unchanged(server)


@pytest.mark.parametrize("name", seaweedfs.PORTS)
def test_T131_grpc_is_closed_without_our_certificate(server: SeaweedFS, base: Path, name: str) -> None:
    address = ("127.0.0.1", server.ports[name] + GRPC_ABOVE)
    with socket.create_connection(address, timeout=10) as plain:
        plain.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes(9))
        assert b"\0\0" not in plain.recv(64)[:2], "it speaks HTTP/2 without TLS"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    context.set_alpn_protocols(["h2"])
    with pytest.raises(OSError), _spoken_with(context, address) as nobody:
        nobody.recv(64)
    context.load_cert_chain(base / "certificate.pem", base / "certificate-key.pem")
    with _spoken_with(context, address) as us:
        assert us.recv(64), "the port must be open with the certificate, so that the refusal above proves something"


@contextmanager
def _spoken_with(context: ssl.SSLContext, address: tuple[str, int]) -> Iterator[ssl.SSLSocket]:
    """A TLS connection with an HTTP/2 preface; TLS 1.3 rejects a client at its first read."""
    with socket.create_connection(address, timeout=10) as plain, context.wrap_socket(plain) as client:
        client.sendall(b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, 4, 0, 0, 0, 0, 0]))
        yield client


def test_T131_secrets_and_sockets_are_private_to_the_user(server: SeaweedFS, base: Path) -> None:
    private = [base / name for name in ("security.toml", "certificate-key.pem", "secret-key")]
    sockets = [
        path
        for port in server.ports.values()
        for number in (port, port + GRPC_ABOVE)
        for path in Path("/tmp").glob(f"seaweedfs-*-{number}.sock")
        if path.stat().st_mtime >= (base / "server.pid").stat().st_mtime - 1  # not left by another server
    ]
    assert sockets
    for path in private + sockets:
        assert path.stat().st_mode & 0o077 == 0, path
