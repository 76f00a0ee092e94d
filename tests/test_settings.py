"""What settings refuse, above all in production."""

from __future__ import annotations

import os
import re
import secrets
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from pydantic import SecretStr, ValidationError

from commands import Call, run
from settings import Settings, database_url, secret_keys, storage_settings
from tests.paths import ROOT

GOOD = {
    "environment": "production",
    "s3_secret_key": secrets.token_urlsafe(24),
    "secret_key": f"{secrets.token_hex(32)}, {secrets.token_hex(32)}",
    "admin_api_key": secrets.token_hex(32),
    "database_url": f"postgresql://gw:{secrets.token_urlsafe(24)}@postgres:5432/gw",
}
WEAK = ("x7Q", "minioadmin", "change-me-before-production", "a" * 64, "My-Password-0000-aZ91")
UNSAFE: dict[str, tuple[str, ...]] = {
    "s3_secret_key": WEAK,
    "secret_key": (*WEAK, f"{GOOD['secret_key']},aZ91"),
    "admin_api_key": WEAK,
    "s3_metrics_token": WEAK,
    "database_url": (*(f"postgresql://gw:{secret}@postgres/gw" for secret in WEAK), "host=postgres password=Zq81"),
    "migration_database_url": ("postgresql://owner:x7Q@postgres/gw",),
    "cors_origins": ("*", "null", "https://*.example.com", "example.com", "https://a.example/path", "file://"),
    "flask_debug": ("1", "true"),
    "s3_archive_class": ("glacier\r\nx: y",),
}


def production(**changes: str) -> Settings:
    values: dict[str, Any] = {**GOOD, **changes}
    return Settings(_env_file=None, **values)


@pytest.mark.parametrize(("name", "value"), [(name, value) for name in UNSAFE for value in UNSAFE[name]])
def test_T38_T67_T144_production_refuses_unsafe_values_by_name(name: str, value: str) -> None:
    production()
    with pytest.raises(ValidationError) as refused:
        production(**{name: value})
    assert [problem["loc"] for problem in refused.value.errors()] == [(name,)]


@pytest.mark.parametrize(
    ("address", "accepted"),
    [
        ("postgresql://gw@postgres/gw", False),
        ("postgresql:///gw?host=/run/postgresql", True),
        ("postgresql://gw@postgres/gw?sslcert=/gw.crt", True),
    ],
)
def test_T144_a_database_on_the_network_needs_a_secret(address: str, accepted: bool) -> None:
    if accepted:
        production(database_url=address)
    else:
        with pytest.raises(ValidationError, match="password"):
            production(database_url=address)


@pytest.mark.parametrize("password", ["pass@aZ91", "aZ91/word", "two aZ91", "//aZ91"])
def test_T140_an_address_that_would_log_its_password_is_refused(password: str) -> None:
    for address in (f"postgresql://gw:{password}@localhost/gw", f"postgresql//gw:{password}@localhost/gw"):
        with pytest.raises(ValidationError, match="percent-encoded") as refused:
            Settings(_env_file=None, database_url=address)
        assert "aZ91" not in str(refused.value)


@pytest.mark.parametrize("address", ["postgresql://gw:{}@db/gw", "host=db user=gw password={}"])
def test_T140_a_database_password_is_a_known_secret_however_it_is_given(address: str) -> None:
    password = "se[cret#Zq81xW"
    assert password in Settings(_env_file=None, database_url=address.format(password)).secrets


@pytest.mark.parametrize(
    ("name", "read"), [("s3_secret_key", storage_settings), ("secret_key", secret_keys), ("database_url", database_url)]
)
def test_T144_missing_secrets_are_named(name: str, read: Callable[[Settings], object]) -> None:
    given = {"s3_endpoint": "http://bucket:9000", "s3_access_key": "gateway"}
    read(production(**given))
    with pytest.raises(SystemExit, match=name.upper()):
        read(production(**given, **{name: None}))  # type: ignore[arg-type]


def test_T67_every_credential_is_checked_in_production_and_hidden_in_logs() -> None:
    names = {name for name, field in Settings.model_fields.items() if "SecretStr" in str(field.annotation)}
    addresses = {"database_url", "migration_database_url", "rate_limits_url"}
    [strong] = [
        validator.info.fields
        for name, validator in Settings.__pydantic_decorators__.field_validators.items()
        if name == "_strong"
    ]
    assert names - addresses == set(strong)
    token = secrets.token_urlsafe(24)
    for name in strong:
        given = {name: token} | ({"backup_s3_access_key": "k"} if name == "backup_s3_secret_key" else {})
        assert token in Settings(_env_file=None, **given).secrets, name  # type: ignore[arg-type]


def test_the_readme_names_every_setting() -> None:
    readme, identities = ((ROOT / name).read_text() for name in ("README.md", "docs/identities.md"))
    table = readme.partition("| variable |")[2].partition("\n\n")[0]
    named = set(re.findall(r"`([A-Z][A-Z0-9_]+)`", table))
    named |= {name for name in re.findall(r"`([A-Z][A-Z0-9_]+)`", identities) if name.startswith("JWT_")}
    assert {name.upper() for name in Settings.model_fields} - named == {"FLASK_DEBUG"}  # Flask's own


def test_a_wrong_rule_of_the_archive_is_named() -> None:
    with pytest.raises(ValidationError, match="days=1 colour=red"):
        production(archive_rules="days=7; days=1 colour=red")


def test_T144_commands_name_unsafe_settings_and_never_show_them(tmp_path: Path) -> None:
    values = {name: values[-1] for name, values in UNSAFE.items()}
    environ = {name.upper(): value for name, value in {**values, "environment": "production"}.items()}
    done = subprocess.run(
        [sys.executable, str(ROOT / "app.py"), "bootstrap"],
        env={"PATH": os.environ["PATH"], **environ},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=60,
    )
    assert done.returncode == 2
    said = done.stdout + done.stderr
    assert sorted(line.partition(":")[0].lower() for line in said.splitlines()) == sorted(values)
    assert not any(value in said for name, value in values.items() if name != "flask_debug")


def test_T38_the_gateways_own_page_is_always_among_the_origins() -> None:
    settings = Settings(
        _env_file=None, public_url="https://files.example/path", cors_origins="https://a.example, http://b"
    )
    assert Call(settings).origins() == ("https://a.example", "http://b", "https://files.example")


def test_a_refused_bucket_is_reported_in_one_line(
    settings: Settings, capsys: pytest.CaptureFixture[str], database_url: str
) -> None:
    assert run(["bootstrap"], settings.model_copy(update={"s3_secret_key": SecretStr("another")})) == 1
    [line] = [line for line in capsys.readouterr().err.splitlines() if line.startswith("bootstrap:")]
    assert "403" in line


def test_a_reader_that_ends_early_is_no_error() -> None:
    environ = {**os.environ, "DATABASE_URL": "postgresql://gw:x@127.0.0.1/gw", "S3_ENDPOINT": "http://127.0.0.1:1"}
    command = subprocess.Popen(
        [sys.executable, "app.py", "env"], cwd=ROOT, env=environ, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    assert command.stdout is not None
    command.stdout.close()
    command.stdout = None
    _, said = command.communicate()
    assert (command.returncode, said) == (0, b"")
