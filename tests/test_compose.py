"""docker-compose.yml, the Dockerfile and the files for hosted CI, as far as they can be tested without a Docker engine."""

from __future__ import annotations

import json
import os
import re
import secrets
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import check_jsonschema
import psycopg
import pytest
import yaml
from click.testing import CliRunner

from embedded.child import free_port
from embedded.seaweedfs import GRPC_ABOVE, answers_us, weed_binary
from services.upkeep.doctor.bucket import examine
from settings import Settings
from storage_backends import open_store
from storage_backends.base import StorageRefused
from tests.listening import listening
from tests.paths import ROOT
from tests.servers import SIGNING_KEY, S3Server, minio_binary, start_minio

COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
DOCKERFILE = (ROOT / "Dockerfile").read_text()
IN_IMAGE = re.findall(r"^!(.+)$", (ROOT / ".dockerignore").read_text(), re.MULTILINE)
ENVIRONMENT: dict[str, str] = COMPOSE["services"]["gateway"]["environment"]
TIMEOUT = 60
ACCOUNTS = (["admin", "user", "svcacct", "add", "gateway", "gateway"], ["admin", "accesskey", "create", "gateway"])


@pytest.mark.parametrize(
    ("schema", "file"),
    [
        ("compose-spec", "docker-compose.yml"),
        ("github-workflows", ".github/workflows/ci.yml"),
        ("dependabot", ".github/dependabot.yml"),
    ],
)
def test_the_compose_file_matches_its_schema(schema: str, file: str) -> None:
    # In this process: each new one would import for two seconds.
    done = CliRunner().invoke(check_jsonschema.main, ["--builtin-schema", f"vendor.{schema}", str(ROOT / file)])
    assert done.exit_code == 0, done.output


def test_everything_that_services_reference_exists() -> None:
    services = COMPOSE["services"]
    for name, service in services.items():
        assert set(service.get("networks", ())) <= set(COMPOSE["networks"]), name
        for volume in service.get("volumes", ()):
            source = volume.partition(":")[0]
            assert source in COMPOSE["volumes"] or (source.startswith(".") and (ROOT / source).exists()), volume
        for other, condition in service.get("depends_on", {}).items():
            same = services[other].get("profiles") in (None, service.get("profiles"))
            assert same or condition["required"] is False, f"{name} needs {other}"
    for name in ("minio", "seaweedfs"):  # one or the other
        assert services[name]["networks"]["bucket"]["aliases"] == ["bucket"]
        assert any(port.endswith(":9000") for port in services[name]["ports"])
    assert "http://bucket:9000" in ENVIRONMENT["S3_ENDPOINT"]
    assert {name: s["profiles"] for name, s in services.items() if "profiles" in s} == {
        **{name: [name] for name in ("minio", "seaweedfs", "clamav")},
        "minio-setup": ["minio"],
    }


def test_every_variable_is_a_setting_or_explained() -> None:
    settings = {name.upper() for name in Settings.model_fields}
    others = {"OTEL_EXPORTER_OTLP_ENDPOINT"}  # of the SDK
    assert set(ENVIRONMENT) - settings == others
    used = set(re.findall(r"\$\{(\w+)", (ROOT / "docker-compose.yml").read_text()))
    explained = set(re.findall(r"^#?([A-Z][A-Z0-9_]+)=", (ROOT / ".env.example").read_text(), re.MULTILINE))
    assert used - settings - explained - others == {"FRONT_NETWORK"}
    assert explained - used == {"COMPOSE_PROFILES"}
    required = {name for text in ENVIRONMENT.values() for name in re.findall(r"\{(\w+):\?.*see \.env\.example", text)}
    assert required == {"DATABASE_PASSWORD", "S3_ACCESS_KEY", "S3_SECRET_KEY", "SECRET_KEY"}


def test_T125_only_bootstrap_can_change_the_audit_log() -> None:
    environments = {name: service.get("environment", {}) for name, service in COMPOSE["services"].items()}
    assert [name for name, given in environments.items() if "POSTGRES_PASSWORD" in str(given)] == [
        "bootstrap",
        "postgres",
    ]
    assert environments["bootstrap"]["DATABASE_URL"] == ENVIRONMENT["DATABASE_URL"]


def test_T141_metrics_and_documentation_are_closed() -> None:
    assert ENVIRONMENT["OPS_ACCESS"] == "${OPS_ACCESS:-admin}"


def test_T142_ports_are_on_loopback_unless_asked_and_resources_are_limited() -> None:
    for name, service in COMPOSE["services"].items():
        assert all(port.startswith("${BIND_ADDRESS:-127.0.0.1}:") for port in service.get("ports", ())), name
        assert service["pids_limit"] and service["mem_limit"], name
        assert "no-new-privileges:true" in service["security_opt"], name


def test_T142_images_are_named_by_digest() -> None:
    images = {service["image"] for service in COMPOSE["services"].values()}
    assert {image for image in images if not re.search(r":\S+@sha256:[0-9a-f]{64}}?$", image)} == {"upload-gateway"}


def test_T142_T48_only_the_gateway_reaches_database_and_bucket() -> None:
    def neighbours(network: str) -> set[str]:
        return {name for name, service in COMPOSE["services"].items() if network in service["networks"]}

    gateway = {name for name, service in COMPOSE["services"].items() if service["image"] == "upload-gateway"}
    assert gateway == {"gateway", "worker", "bootstrap"}
    assert neighbours("front") == {"proxy", "gateway"}  # all of it is trusted to name the client's address
    assert neighbours("bucket") == gateway | {"minio", "minio-setup", "seaweedfs"}
    assert neighbours("data") == gateway | {"postgres", "clamav"}
    assert COMPOSE["networks"]["data"] == {"internal": True}


@pytest.mark.needs_minio
@pytest.mark.skipif(not (minio_binary() and shutil.which("mc")), reason="needs MinIO's server and client on PATH")
def test_T142_T48_minios_user_for_the_gateway_has_one_bucket_and_its_page_may_use_it(tmp_path: Path) -> None:
    server, setup = start_minio(tmp_path / "minio"), COMPOSE["services"]["minio-setup"]
    given = {
        "MC_HOST_root": server.endpoint.replace("://", f"://{server.access_key}:{server.secret_key}@"),
        "S3_BUCKET": "one",
        "S3_ACCESS_KEY": "gateway",
        "S3_SECRET_KEY": "gateway-secret",
        "PUBLIC_URL": "https://files.example/path",
        "CORS_ORIGINS": "https://a.example , https://b.example",
    }
    assert set(given) == set(setup["environment"])
    environ = {**os.environ, **given, "MC_CONFIG_DIR": str(tmp_path / "mc")}
    try:
        for _ in range(2):
            script = ROOT / setup["volumes"][0].partition(":")[0]
            subprocess.run(["sh", str(script)], env=environ, check=True, timeout=TIMEOUT)
        ours = replace(server.settings(), bucket="one", access_key="gateway", secret_key="gateway-secret")
        store: Any = open_store(ours)
        assert store.ensure_bucket() is False
        origins = ["https://a.example", "https://b.example", "https://files.example"]
        assert [(check.name, check.detail) for check in examine(store, origins=origins) if check.ok is not True] == []
        assert list(store.list_multiparts("")) == []
        with pytest.raises(StorageRefused):
            open_store(replace(ours, bucket="another")).ensure_bucket()  # type: ignore[attr-defined]
        environ["MC_HOST_gateway"] = server.endpoint.replace("://", "://gateway:gateway-secret@")
        for forbidden in (["mb", "gateway/another"], ["admin", "info", "gateway"], *ACCOUNTS):
            assert subprocess.run(["mc", *forbidden], env=environ, timeout=TIMEOUT).returncode != 0
    finally:
        server.stop()


def test_T142_T48_seaweedfs_opens_only_s3_and_its_user_has_one_bucket(tmp_path: Path) -> None:
    service = COMPOSE["services"]["seaweedfs"]
    ports = {name: free_port(also_above=GRPC_ABOVE) for name in ("s3", "master", "filer", "volume")}
    options = [*service["command"], *(f"-{name}.port={port}" for name, port in ports.items()), f"-dir={tmp_path}"]
    script = (ROOT / service["volumes"][1].partition(":")[0]).read_text().replace("/tmp/s3.json", f"{tmp_path}/s3.json")
    given = {"S3_BUCKET": "one", "S3_ACCESS_KEY": "gateway", "S3_SECRET_KEY": "s3-key"}
    assert set(given) <= set(service["environment"])
    environ = {**os.environ, **given, "PATH": f"{weed_binary().parent}:{os.environ['PATH']}"}
    endpoint = f"http://127.0.0.1:{ports['s3']}"
    with (tmp_path / "log").open("wb") as log:
        weed = subprocess.Popen(["sh", "-c", script, "sh", *options], env=environ, stdout=log, stderr=log)
    try:
        deadline = time.monotonic() + TIMEOUT
        while not answers_us(endpoint, "gateway", "s3-key"):
            assert weed.poll() is None and time.monotonic() < deadline, (tmp_path / "log").read_text()[-2000:]
            time.sleep(0.1)
        found = listening(weed.pid, at_least=2 * len(ports))
        opened = {int(address.rpartition(":")[2], 16) for address in found if address[:8] != "0100007F"}
        assert opened == {ports["s3"], ports["s3"] + GRPC_ABOVE}
        ours = S3Server(endpoint, "gateway", "s3-key", "one").settings()
        store: Any = open_store(ours)
        store.ensure_bucket()
        store.set_cors(["https://a.example"])
        checks = examine(store, origins=["https://a.example"])
        assert [(check.name, check.detail) for check in checks if check.ok is not True] == []
        with pytest.raises(StorageRefused):
            open_store(replace(ours, bucket="another")).ensure_bucket()  # type: ignore[attr-defined]
    finally:
        weed.kill()
        weed.wait()


def test_the_image_is_small_and_not_root() -> None:
    final = DOCKERFILE.rpartition("\nFROM ")[2]
    assert re.match(r"python:\S+-slim@sha256:[0-9a-f]{64}\n", final) and re.search(
        r"^USER [1-9]\d*:", final, re.MULTILINE
    )
    assert not re.search("requirements-(embedded|dev)", DOCKERFILE)
    copied = " ".join(re.findall(r"^COPY (?!--)(.+) \S+$", DOCKERFILE, re.MULTILINE)).split()
    assert sorted(name.rstrip("/") for name in copied) == sorted(IN_IMAGE)


def test_the_services_run_with_only_the_files_of_the_image(
    tmp_path: Path, postgres_server: Any, s3_server: S3Server
) -> None:
    """Runs bootstrap, then worker and gateway at the same time, as Compose does: with a role in PostgreSQL that bootstrap
    creates, and that owns nothing."""
    image = tmp_path / "app"
    image.mkdir()
    for name in IN_IMAGE:
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, image / name, ignore=shutil.ignore_patterns("__pycache__"))
        else:
            shutil.copy(ROOT / name, image)
    with psycopg.connect(postgres_server.admin_url, autocommit=True) as connection:
        connection.execute("drop database if exists compose")
        connection.execute(
            "create database compose template template0 locale_provider builtin builtin_locale 'C.UTF-8' encoding utf8"
        )
    owner = postgres_server.admin_url.rsplit("/", 1)[0] + "/compose"
    environ = {
        **{name: "" for name, text in ENVIRONMENT.items() if text == f"${{{name}:-}}"},  # an optional setting, not set
        "PATH": os.environ["PATH"],
        "HOME": str(tmp_path),
        "DATA_DIR": "/tmp",
        "HOST": "0.0.0.0",
        "ENVIRONMENT": "production",
        "PORT": str(free_port()),
        "DATABASE_URL": re.sub("//.*@", f"//compose:{secrets.token_hex(24)}@", owner),
        "S3_ENDPOINT": s3_server.endpoint,
        "S3_ACCESS_KEY": s3_server.access_key,
        "S3_SECRET_KEY": s3_server.secret_key,
        "SECRET_KEY": SIGNING_KEY,
        "S3_BUCKET": "compose-test",
    }
    assert 'ENTRYPOINT ["python", "app.py"]' in DOCKERFILE
    commands = {
        name: [sys.executable, "app.py", *COMPOSE["services"][name]["command"]]
        for name in ("bootstrap", "worker", "gateway")
    }
    for _ in range(2):  # a second run changes nothing
        migrating = {**environ, "MIGRATION_DATABASE_URL": owner}
        subprocess.run(commands["bootstrap"], env=migrating, cwd=image, check=True, timeout=TIMEOUT)
    running = {name: subprocess.Popen(commands[name], env=environ, cwd=image) for name in ("worker", "gateway")}
    [healthcheck] = re.findall(r"^HEALTHCHECK (?:.*\\\n)* *CMD (\[.*\])$", DOCKERFILE, re.MULTILINE)

    def healthy() -> bool:
        check = [sys.executable, *json.loads(healthcheck)[1:]]
        return subprocess.run(check, env=environ, cwd=image, capture_output=True).returncode == 0

    try:
        deadline = time.monotonic() + TIMEOUT
        with psycopg.connect(environ["DATABASE_URL"], autocommit=True) as connection:
            while not healthy() or connection.execute("select from procrastinate_workers").rowcount == 0:
                assert all(process.poll() is None for process in running.values())
                assert time.monotonic() < deadline
                time.sleep(0.2)
        for process in running.values():
            process.send_signal(signal.SIGTERM)
        assert {name: process.wait(TIMEOUT) for name, process in running.items()} == {"worker": 0, "gateway": 0}
        assert not healthy()
    finally:
        for process in running.values():
            process.kill()
            process.wait()
