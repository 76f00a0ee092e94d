"""docker-compose.yml, the Dockerfile and the proxy's configuration, as far as that goes without a Docker engine:
the file against the Compose specification's schema, each command of it in a folder that holds what the image holds."""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shutil
import signal
import socket
import socketserver
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from settings import Settings
from tests.paths import ROOT
from tests.servers import nginx

SCHEMA_MODULE = "github.com/compose-spec/compose-go/v2@v2.9.1"  # where the specification keeps its schema
STRICT = os.environ.get("GATEWAY_TESTS_STRICT") == "1"
OURS = {name.upper() for name in Settings.model_fields}
GATEWAY_SERVICES = ("gateway", "worker", "bootstrap")
PATIENCE = 60


def missing(what: str) -> None:
    """A part that can't be had here: a failure in CI, a skip at a user's desk."""
    if STRICT:
        pytest.fail(what)
    pytest.skip(what)


@pytest.fixture(scope="module")
def compose() -> dict[str, Any]:
    loaded: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
    return loaded


def instructions() -> list[tuple[str, str]]:
    """The Dockerfile's lines as (instruction, rest), continued lines joined."""
    text = re.sub(r"\\\n\s*", "", (ROOT / "Dockerfile").read_text())
    lines = [line for line in text.splitlines() if line.strip() and not line.lstrip().startswith("#")]
    return [(word.upper(), rest.strip()) for word, _, rest in (line.strip().partition(" ") for line in lines)]


def test_it_follows_the_compose_specification(compose: dict[str, Any]) -> None:
    go = shutil.which("go")
    if go is None:
        missing("the Compose specification's schema needs go (Debian: apt install golang) to be fetched")
    done = subprocess.run(
        [str(go), "mod", "download", "-json", SCHEMA_MODULE],
        capture_output=True,
        text=True,
        cwd="/",
        timeout=100,
    )
    if done.returncode != 0:
        missing(f"{SCHEMA_MODULE} with the Compose schema could not be fetched: {done.stderr or done.stdout}")
    schema = json.loads((Path(json.loads(done.stdout)["Dir"]) / "schema" / "compose-spec.json").read_text())
    jsonschema.Draft7Validator(schema).validate(compose)  # the draft that the specification names
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.Draft7Validator(schema).validate({"services": {"gateway": {"imagee": "x"}}})


def test_references_inside_the_file_are_met(compose: dict[str, Any]) -> None:
    for name, service in compose["services"].items():
        assert set(service.get("networks", ())) <= set(compose["networks"]), name
        assert set(service.get("depends_on", ())) <= set(compose["services"]), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert (ROOT / source).exists() if source.startswith(".") else source in compose["volumes"], volume
        for other, how in service.get("depends_on", {}).items():
            if "profiles" in compose["services"][other]:
                assert how["required"] is False, f"{name} must start without {other}, which is in a profile"


def test_the_buckets_servers_take_each_others_place(compose: dict[str, Any]) -> None:
    for name in ("minio", "seaweedfs"):
        service = compose["services"][name]
        assert service["profiles"] == [name]
        assert service["networks"]["data"]["aliases"] == ["bucket"]
        assert any(port.endswith(":9000") for port in service["ports"])
    assert "http://bucket:9000" in compose["services"]["gateway"]["environment"]["S3_ENDPOINT"]
    assert compose["services"]["clamav"]["profiles"] == ["clamav"]


def test_every_variable_is_a_setting_or_explained(compose: dict[str, Any]) -> None:
    for name in GATEWAY_SERVICES:
        assert set(compose["services"][name]["environment"]) <= OURS, name
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    example = (ROOT / ".env.example").read_text()
    unexplained = {name for name in used - OURS if name not in example}
    assert unexplained <= {"FRONT_NETWORK"}
    mentioned = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", example, re.MULTILINE))
    assert mentioned <= used | {"COMPOSE_PROFILES"}


def value_of(text: str, variables: dict[str, str]) -> str:
    """Compose's interpolation, of the forms that our file uses: ${A}, ${A:-default}, ${A:?message}, also nested."""
    innermost = re.compile(r"\$\{(\w+)(?::([-?])([^${}]*))?\}")

    def replace(match: re.Match[str]) -> str:
        name, kind, rest = match.groups()
        if variables.get(name):
            return variables[name]
        assert kind != "?", f"{name}: {rest}"
        return rest or ""

    while innermost.search(text):
        text = innermost.sub(replace, text)
    return text


def test_without_the_secrets_it_says_what_to_do(compose: dict[str, Any]) -> None:
    with pytest.raises(AssertionError, match=r"see \.env\.example"):
        value_of(compose["services"]["gateway"]["environment"]["DATABASE_URL"], {})
    settings: dict[str, Any] = {
        name: value_of(text, {"POSTGRES_PASSWORD": "a", "S3_ACCESS_KEY": "b", "S3_SECRET_KEY": "c"})
        for name, text in compose["services"]["gateway"]["environment"].items()
    }
    assert settings["DATABASE_URL"] == "postgresql://gw:a@postgres:5432/gw"
    assert settings["S3_PUBLIC_ENDPOINT"] == "http://localhost:9000"
    assert settings["PUBLIC_URL"] == "http://localhost:8080"
    Settings(_env_file=None, **{name.lower(): value for name, value in settings.items() if value})


def test_the_image_is_small_drains_and_is_not_root() -> None:
    found = dict(instructions())  # the last of each kind, which is the final stage's
    assert found["USER"].partition(":")[0] not in ("", "0", "root")
    assert found["STOPSIGNAL"] == "SIGTERM"
    assert "/healthz" in found["HEALTHCHECK"]
    assert found["FROM"].endswith("-slim")
    text = (ROOT / "Dockerfile").read_text()
    assert "requirements-embedded" not in text
    assert "requirements-dev" not in text


def copied() -> list[str]:
    """What the final stage copies from the project."""
    words = [rest.split() for word, rest in instructions() if word == "COPY" and not rest.startswith("--from")]
    return [source.rstrip("/") for sources in words for source in sources[:-1] if source != "requirements.txt"]


def test_what_is_copied_exists_and_is_let_through() -> None:
    let_through = {line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")}
    assert {*copied(), "requirements.txt"} == let_through
    for source in copied():
        assert (ROOT / source).exists(), source


@pytest.fixture
def image(tmp_path: Path) -> Path:
    """A folder with what the image has in /app and nothing else."""
    folder = tmp_path / "app"
    folder.mkdir()
    for source in copied():
        if (ROOT / source).is_dir():
            shutil.copytree(ROOT / source, folder / source, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / source, folder)
    return folder


def test_each_services_command_runs_in_a_bare_folder(
    compose: dict[str, Any], image: Path, tmp_path: Path, postgres_server: Any, s3_server: Any
) -> None:
    """bootstrap, then worker and gateway beside each other, as compose starts them; on a database of their own."""
    import psycopg

    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute("drop database if exists compose")
        connection.execute(
            "create database compose template template0 locale_provider builtin builtin_locale 'C.UTF-8' encoding utf8"
        )
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = str(probe.getsockname()[1])
    given = {
        "POSTGRES_PASSWORD": "x",
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
        "S3_ENDPOINT": s3_server.endpoint,
        "S3_PUBLIC_ENDPOINT": s3_server.endpoint,
        "S3_BUCKET": "compose-test",
    }
    image_environ = dict(re.findall(r"(\w+)=(\S+)", next(r for w, r in reversed(instructions()) if w == "ENV")))
    services = {name: compose["services"][name] for name in GATEWAY_SERVICES}
    environ = {
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        **{name: value for name, value in image_environ.items() if name != "PATH"},
        **{name: value_of(text, given) for name, text in services["gateway"]["environment"].items()},
        "PORT": port,
        "DATABASE_URL": postgres_server.admin_url.rsplit("/", 1)[0] + "/compose",
    }
    assert environ["HOST"] == "0.0.0.0"
    entrypoint = json.loads(next(rest for word, rest in instructions() if word == "ENTRYPOINT"))
    assert entrypoint == ["python", "app.py"]

    def command(name: str) -> list[str]:
        return [sys.executable, *entrypoint[1:], *services[name]["command"]]

    for _ in range(2):  # the second time nothing is left to do
        done = subprocess.run(
            command("bootstrap"), env=environ, cwd=image, capture_output=True, text=True, timeout=PATIENCE
        )
        assert done.returncode == 0, done.stderr
    running = {name: subprocess.Popen(command(name), env=environ, cwd=image) for name in ("worker", "gateway")}
    try:
        check = json.loads(next(r for w, r in instructions() if w == "HEALTHCHECK").partition("CMD ")[2])
        check = [sys.executable, *check[1:]]
        deadline = time.monotonic() + PATIENCE
        while subprocess.run(check, env=environ, cwd=image, capture_output=True).returncode != 0:
            assert running["gateway"].poll() is None, "the gateway ended"
            assert time.monotonic() < deadline, "the health check never passed"
            time.sleep(0.2)
        with psycopg.connect(environ["DATABASE_URL"], autocommit=True) as connection:
            while connection.execute("select count(*) from procrastinate_workers").fetchone() == (0,):
                assert time.monotonic() < deadline, "the worker never began"
                time.sleep(0.2)
        assert all(process.poll() is None for process in running.values())
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        assert {name: process.wait(PATIENCE) for name, process in running.items()} == {
            "worker": 0,
            "gateway": 0,
        }
        assert subprocess.run(check, env=environ, cwd=image, capture_output=True).returncode != 0
    finally:
        for process in running.values():
            process.kill()
            process.wait()


class Upstream(socketserver.ThreadingTCPServer):
    """Stands where the gateway would and keeps what reaches it, as it comes."""

    daemon_threads = allow_reuse_address = True

    def __init__(self) -> None:
        self.received, self.arrived = bytearray(), threading.Condition()
        super().__init__(("127.0.0.1", 0), Answers)

    def wait_for(self, words: bytes) -> None:
        with self.arrived:
            assert self.arrived.wait_for(lambda: words in self.received, timeout=PATIENCE), bytes(self.received[:2000])


class Answers(socketserver.BaseRequestHandler):
    def handle(self) -> None:
        server = self.server
        assert isinstance(server, Upstream)
        while data := self.request.recv(65536):
            with server.arrived:
                server.received += data
                server.arrived.notify_all()
            if data.endswith(b"0\r\n\r\n"):
                self.request.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nok")


@pytest.fixture
def proxy(tmp_path: Path) -> Iterator[tuple[int, Upstream]]:
    """nginx with the project's configuration, before an upstream of the test's."""
    with contextlib.ExitStack() as stack:
        upstream = stack.enter_context(Upstream())
        thread = threading.Thread(target=upstream.serve_forever)
        thread.start()
        stack.callback(thread.join)
        stack.callback(upstream.shutdown)
        try:
            port = stack.enter_context(nginx(tmp_path, upstream.server_address[1]))
        except FileNotFoundError as error:
            missing(str(error))
        yield port, upstream


def test_the_proxy_passes_a_body_on_as_it_comes(proxy: tuple[int, Upstream]) -> None:
    port, upstream = proxy
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(
            b"PUT /api/upload/x HTTP/1.1\r\nHost: files.test:8080\r\nX-Forwarded-For: 6.6.6.6\r\n"
            b"X-Forwarded-Proto: https\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nfirst\r\n"
        )
        upstream.wait_for(b"first")  # before the rest was sent
        piece = b"10000\r\n" + bytes(65536) + b"\r\n"
        for _ in range(48):  # 3 MiB, above nginx's own limit for a body
            client.sendall(piece)
        client.sendall(b"4\r\nlast\r\n0\r\n\r\n")
        upstream.wait_for(b"last")
        assert client.recv(65536).startswith(b"HTTP/1.1 200")
    head = bytes(upstream.received).partition(b"\r\n\r\n")[0].decode()
    assert "X-Forwarded-For: 127.0.0.1\r\n" in head
    assert "6.6.6.6" not in head
    assert "X-Forwarded-Proto: http\r\n" in head
    assert "Host: files.test:8080" in head


def test_the_proxys_own_errors_are_problem_documents(proxy: tuple[int, Upstream]) -> None:
    port, upstream = proxy
    with socket.create_connection(("127.0.0.1", port), timeout=PATIENCE) as client:
        client.sendall(b"GET / HTTP/1.1\r\nHost: a\r\nHost: b\r\n\r\n")
        answer = http.client.HTTPResponse(client)
        answer.begin()
        assert answer.status == 400
        assert answer.headers["Content-Type"] == "application/problem+json"
        assert json.loads(answer.read())["request_id"] == answer.headers["X-Request-ID"]
    upstream.server_close()  # the gateway is gone
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=PATIENCE)
    connection.request("GET", "/")
    answer = connection.getresponse()
    assert answer.status == 503
    assert answer.headers["Retry-After"]
    assert answer.headers["Content-Type"] == "application/problem+json"
    assert json.loads(answer.read())["code"] == "unavailable"
    connection.close()
