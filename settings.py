"""All settings, with units and defaults. app.py alone creates ``Settings``, and passes each part what it needs."""

from __future__ import annotations

import re
import tomllib
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, Self
from urllib.parse import unquote, urlsplit

from pydantic import DirectoryPath, Field, SecretStr, ValidationInfo, field_validator, model_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from core import archive_rules
from core.addresses import is_confidential
from storage_backends import StorageSettings

CommaSeparated = Annotated[tuple[str, ...], NoDecode]  # "a, b, c" in the environment
# With public keys only: a secret shared with the provider could make tokens, and a public key could pass for one.
JwtAlgorithm = Literal["RS256", "RS384", "RS512", "PS256", "PS384", "PS512", "ES256", "ES384", "ES512", "EdDSA"]

_AMOUNT = r"^([1-9]?[0-9]%|[0-9]{1,18})$"
_RATE = r"^[1-9][0-9]{0,8}/(second|minute|hour|day)$"

MIB = 1024 * 1024
GIB = 1024 * MIB
_ORIGIN = re.compile(r"https?://[A-Za-z0-9.\-\[\]:]+")
_PERIODS = ("last", "hourly", "daily", "weekly", "monthly", "yearly")
_WELL_KNOWN = re.compile(r"change.?me|default|example|minioadmin|password|secret|1234567", re.IGNORECASE)


def version() -> str:
    """The gateway's version, which pyproject.toml alone names."""
    project: dict[str, str] = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["project"]
    return project["version"]


class Settings(BaseSettings):
    """Read from environment variables of the same names in capitals, and from ``.env``.

    ValidationError, without the values, for what is malformed or, in production, unsafe (T67, T144)."""

    model_config = SettingsConfigDict(
        env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True, hide_input_in_errors=True
    )

    # The server
    environment: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"  # the image sets 0.0.0.0
    port: int = Field(default=8080, ge=1, le=65535)
    public_url: str | None = None  # the address that clients use; default http://HOST:PORT
    flask_debug: bool = False  # Flask's own setting; refused in production
    ops_access: Literal["public", "admin"] = (
        "public"  # who sees /metrics, the details of /readyz, /docs and /openapi.json
    )
    metrics_token: SecretStr | None = None  # a credential for these alone, for Prometheus
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    access_log: Literal["on", "off"] = "on"  # a line for each request, whatever the log level
    web_workers: int = Field(default=2, ge=1, le=64)  # processes
    web_threads: int = Field(default=32, ge=2, le=256)  # per process; a slow upload uses one, a quarter is reserved
    trusted_proxies: CommaSeparated = ()  # addresses and networks whose X-Forwarded-* are trusted
    cors_origins: CommaSeparated = ()  # pages on these origins may call the gateway and the bucket

    # The worker
    worker_concurrency: int = Field(default=2, ge=1, le=64)  # concurrent jobs of each queue; also --concurrency
    worker_lease: int = Field(default=30, ge=3, le=3_600)  # seconds without a heartbeat until others take its jobs
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)  # unset: the server shows its metrics

    # Database and bucket
    data_dir: Path = Path("./var")
    database_url: SecretStr | None = None  # unset: an embedded PostgreSQL in DATA_DIR
    # The role that owns the tables, for migrations and `audit prune` only; unset: that of DATABASE_URL
    migration_database_url: SecretStr | None = None
    audit_months: int = Field(default=12, ge=0)  # whole months of events that `audit prune` keeps; 0: all
    storage_backend: Literal["s3", "minio"] = "s3"
    s3_endpoint: str | None = None  # unset: an embedded SeaweedFS in DATA_DIR
    s3_public_endpoint: str | None = None  # the bucket's address for browsers; default S3_ENDPOINT
    # What tells the space in the bucket: a folder on its server's disk, else its metrics (MinIO, SeaweedFS), else a size
    s3_local_path: DirectoryPath | None = None
    s3_metrics_url: str | None = None
    s3_metrics_token: SecretStr | None = None
    s3_capacity: int | None = Field(default=None, ge=1)  # bytes
    # Free space, in bytes or percent of the total: below the first /readyz and metrics warn, the second is kept free of uploads
    capacity_warning: str = Field(default="10%", pattern=_AMOUNT)
    capacity_full: str = Field(default=str(GIB), pattern=_AMOUNT)
    s3_region: str = "us-east-1"
    s3_bucket: str = "uploads"
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    # Use a bucket whose object lock keeps what is deleted: its bytes are then deleted when their lock ends.
    allow_object_lock: Literal["on", "off"] = "off"
    # Signs links, cursors, tickets and logins. Several, comma-separated, newest first: what an older one signed stays valid.
    secret_key: SecretStr | None = None  # each of 32 characters or more; unset: made once, in DATA_DIR
    admin_api_key: SecretStr | None = None  # the first admin key; unset: one is created and shown once

    # Uploads
    max_file_size: int = Field(default=50 * GIB, ge=1)  # bytes
    max_files_per_request: int = Field(default=200, ge=1, le=10_000)
    allowed_types: CommaSeparated = ()  # extensions, MIME types, image/*; empty: all that is not denied
    denied_types: CommaSeparated = ()
    quota_bytes: int | None = Field(default=None, ge=0)  # for each owner, the trash included
    quota_files: int | None = Field(default=None, ge=0)  # the same in files, unfinished uploads included
    session_quota_bytes: int | None = Field(default=None, ge=0)  # for each upload session
    session_quota_files: int | None = Field(default=None, ge=0)
    upload_ttl: int = Field(default=86_400, ge=60)  # seconds that an unfinished upload lives
    upload_url_ttl: int = Field(default=3_600, ge=60, le=3_600)  # seconds; presigned parts and puts
    max_open_uploads: int = Field(default=1_000, ge=1)  # unfinished uploads of one owner
    # Concurrent uploads of one owner in one web process. Whatever this says, an owner gets at most half of the process's
    # slots and an address three quarters; others wait for about 12 s.
    max_bodies_in_flight: int = Field(default=24, ge=1)
    trash_days: int = Field(default=30, ge=0)  # until what is in the trash is purged; 0: at the janitor's next run
    compression: Literal["on", "off"] = "on"  # store files with zstd if that saves a tenth; off: no further files

    # Rules as "days=180 type=video; days=365", each with owner=, folder=, type=, min_size= (core/archive_rules.py)
    archive_rules: str | None = None  # unset: nothing is archived by itself
    s3_archive_class: str | None = Field(default=None, pattern="^[A-Z0-9_]+$")  # unset: the bucket's default

    # Downloads and previews
    download_mode: Literal["redirect", "proxy"] = "redirect"
    download_url_ttl: int = Field(default=900, ge=1, le=604_800)  # seconds; presigned downloads, and links by default
    download_url_max_ttl: int = Field(default=86_400, ge=1, le=604_800)  # seconds; a link's longest lifetime
    max_zip_files: int = Field(default=10_000, ge=1)
    max_zip_bytes: int = Field(default=50 * GIB, ge=1)
    preview_concurrency: int = Field(default=2, ge=1, le=64)  # of one web process; for one owner it is 1
    # In production files are parsed only if the kernel has Landlock and seccomp, which sandbox parsers. "on": always.
    allow_weak_sandbox: Literal["on", "off"] = "off"

    # Virus scans
    clamd_url: str | None = None  # tcp://host:port or unix:///path; unset: no scans
    scan_max_size: int = Field(default=100 * MIB, ge=1)  # bytes; at most clamd's StreamMaxLength (its default)
    scan_timeout: int = Field(default=180, ge=1)  # seconds without a response; above clamd's MaxScanTime (120)
    scan_concurrency: int = Field(default=2, ge=1)  # of one worker process; below clamd's MaxThreads
    # Files that can't be scanned: too large, encrypted, beyond the scanner's limits.
    scan_unscannable: Literal["reject", "accept"] = "reject"
    rescan_days: int = Field(default=7, ge=0)  # scan everything again with new signatures; 0: only by command

    # Reading stored bytes back (services/upkeep/scrub.py)
    scrub_days: int = Field(default=30, ge=0, le=3_650)  # in which each object is read once; 0: only on request
    scrub_rate: int = Field(default=20 * MIB, ge=MIB // 16)  # bytes per second

    # JWTs of your identity provider (services/access/identity_provider.py). A claim inside another is named outer.inner.
    jwt_issuer: str | None = None  # exactly as in its discovery document; with one of the next two
    jwt_audience: str | None = None  # unset: JWTs are no credentials
    oidc_client_id: str | None = None  # unset: no login through the provider
    oidc_client_secret: SecretStr | None = None  # unset: a public client, which PKCE protects
    jwt_jwks_url: str | None = None  # the provider's keys; unset: as its discovery document says
    jwt_algorithms: Annotated[tuple[JwtAlgorithm, ...], NoDecode, Field(min_length=1)] = ("RS256", "ES256", "EdDSA")
    jwt_owner_claim: str = "sub"
    jwt_role_claim: str | None = None  # unset: no JWT makes an admin
    jwt_admin_role: str = "admin"  # in the role claim, a list or text
    jwt_scope_claim: str | None = None  # read, write, delete, admin; unset: all that the role allows
    jwt_quota_claim: str | None = None  # bytes; unset, or not in the token: QUOTA_BYTES
    jwt_files_claim: str | None = None  # number of files
    jwt_leeway: int = Field(default=30, ge=0, le=300)  # seconds that the provider's clock may differ

    # Sessions of people who sign in with a browser
    session_ttl: int = Field(default=43_200, ge=60, le=2_592_000)  # seconds; then they must sign in again
    session_idle_ttl: int = Field(default=7_200, ge=120, le=2_592_000)  # seconds without a request
    max_sessions: int = Field(default=20, ge=1, le=1_000)  # of one owner; a further one ends the oldest

    # Rate limits: requests of one owner, of all its upload tokens together, or of one address without a credential
    rate_limits: Literal["on", "off"] = "on"
    # Where all processes count: redis://… (Redis or Valkey), memory:// (one web process only); unset: the database.
    rate_limits_url: SecretStr | None = None
    rate_limit_uploads: str = Field(default="60000/minute", pattern=_RATE)  # uploads begun, by any protocol
    rate_limit_logins: str = Field(default="60/minute", pattern=_RATE)  # of one address
    rate_limit_failures: str = Field(default="100/minute", pattern=_RATE)  # of one address: invalid credentials
    rate_limit_previews: str = Field(default="30000/minute", pattern=_RATE)
    rate_limit_search: str = Field(default="12000/minute", pattern=_RATE)  # and suggestions
    rate_limit_archives: str = Field(default="60/minute", pattern=_RATE)  # ZIP downloads
    rate_limit_batches: str = Field(default="600/minute", pattern=_RATE)  # changes of many files
    rate_limit_tokens: str = Field(default="600/minute", pattern=_RATE)  # upload tokens created
    rate_limit_idempotency_keys: str = Field(default="100000/day", pattern=_RATE)  # their answers are kept for a day

    # Backups (services/recovery/repository.py)
    backup_to: str | None = None  # a folder or s3://bucket/prefix, for the schedule and /api/admin/backups
    backup_schedule: str | None = None  # cron in UTC, as 30 2 * * *; unset: only by command
    backup_keep: str | None = None  # daily=7,weekly=5,monthly=12: prune after each scheduled backup; unset: keep all
    backup_recipients: CommaSeparated = ()  # age public keys; empty: backups are not encrypted
    backup_identity_file: Path | None = None  # age identities, to read encrypted backups; making them needs none
    backup_s3_endpoint: str | None = None  # of s3://bucket/prefix; these four default to those of the gateway's bucket
    backup_s3_region: str | None = None
    backup_s3_access_key: str | None = None
    backup_s3_secret_key: SecretStr | None = None

    @field_validator(
        "trusted_proxies",
        "cors_origins",
        "allowed_types",
        "denied_types",
        "jwt_algorithms",
        "backup_recipients",
        mode="before",
    )
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(item.strip() for item in value.split(",") if item.strip()) if isinstance(value, str) else value

    @field_validator("public_url", "s3_endpoint", "s3_public_endpoint", "s3_metrics_url", "backup_s3_endpoint")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @field_validator("jwt_issuer", "jwt_jwks_url")
    @classmethod
    def _confidential(cls, value: str | None) -> str | None:
        if value is not None and not is_confidential(value):
            raise ValueError("must begin with https://, or http:// and an address of this machine")
        return value

    @model_validator(mode="after")
    def _one_provider(self) -> Self:
        used = [self.jwt_audience, self.oidc_client_id]
        if self.jwt_issuer is None and any([*used, self.jwt_jwks_url]):
            raise ValueError("JWT_AUDIENCE, JWT_JWKS_URL and OIDC_CLIENT_ID need JWT_ISSUER")
        if self.jwt_issuer is not None and not any(used):
            raise ValueError("JWT_ISSUER needs JWT_AUDIENCE, OIDC_CLIENT_ID or both")
        return self

    @field_validator("backup_schedule")
    @classmethod
    def _cron(cls, value: str | None) -> str | None:
        if value is not None:
            from croniter import croniter  # here: only who schedules backups needs it

            if len(value.split()) != 5 or not croniter.is_valid(value):
                raise ValueError("must be cron with five fields, in UTC, as 30 2 * * *")
        return value

    @field_validator("backup_keep")
    @classmethod
    def _keep(cls, value: str | None) -> str | None:
        if value is not None:
            keep_rules(value)
        return value

    @model_validator(mode="after")
    def _backup_place(self) -> Self:
        if self.backup_schedule is not None and self.backup_to is None:
            raise ValueError("BACKUP_SCHEDULE needs BACKUP_TO")
        if (self.backup_s3_access_key is None) != (self.backup_s3_secret_key is None):
            raise ValueError("BACKUP_S3_ACCESS_KEY and BACKUP_S3_SECRET_KEY go together")
        return self

    @field_validator("clamd_url")
    @classmethod
    def _scanner(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"tcp://[^/:]+:\d{1,5}|unix://(/.+)", value):
            raise ValueError("must be tcp://host:port or unix:///path")
        return value

    @field_validator("archive_rules")
    @classmethod
    def _rules(cls, value: str | None) -> str | None:
        archive_rules.parse(value or "")  # raises ValueError
        return value

    @field_validator("cors_origins")
    @classmethod
    def _origins(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        """Exact ones: no wildcard, no pattern, never ``null`` (T38)."""
        if not all(map(_ORIGIN.fullmatch, value)):
            raise ValueError("takes exact origins such as https://app.example.com")
        return value

    @field_validator("flask_debug")
    @classmethod
    def _no_debugging(cls, value: bool, info: ValidationInfo) -> bool:
        if value and info.data.get("environment") == "production":
            raise ValueError("must not be set in production")
        return value

    @field_validator("secret_key")
    @classmethod
    def _long(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None and min(map(len, _keys(value)), default=0) < 32:
            raise ValueError("each key must have 32 characters or more, as of: openssl rand -hex 32")
        return value

    @field_validator(
        "secret_key",
        "admin_api_key",
        "metrics_token",
        "oidc_client_secret",
        "s3_secret_key",
        "s3_metrics_token",
        "backup_s3_secret_key",
    )
    @classmethod
    def _strong(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is not None and info.data.get("environment") == "production":
            for secret in _keys(value):
                _require_strong(secret)
        return value

    @field_validator("database_url", "migration_database_url")
    @classmethod
    def _database(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        if value is None:
            return None
        from psycopg import ProgrammingError  # here: it takes 10 MiB
        from psycopg.conninfo import conninfo_to_dict

        try:
            given = {name: str(text) for name, text in conninfo_to_dict(value.get_secret_value()).items()}
        except ProgrammingError:  # its text contains the address
            given = {"port": "none"}
        host, port = given.get("host", "/"), given.get("port", "5432")
        # Parts of a password that contains @ or / would pass for these, and errors show them.
        if "@" in host + given.get("dbname", "") or not port.replace(",", "").isdigit():
            raise ValueError("must be like postgresql://user:password@host:5432/database, percent-encoded")
        if info.data.get("environment") == "production":
            if "password" in given:
                _require_strong(given["password"])
            elif not host.startswith("/") and given.keys().isdisjoint({"passfile", "sslcert"}):
                raise ValueError("must have a password in production")
        return value

    @property
    def secrets(self) -> set[str]:
        """The values that no log may contain."""
        given = [value for _, value in self if isinstance(value, SecretStr)]
        values = {secret for value in given for secret in [value.get_secret_value(), *_keys(value)]}
        values |= {_database_password(url) for url in (self.database_url, self.migration_database_url) if url}
        if self.rate_limits_url is not None:
            values.add(unquote(urlsplit(self.rate_limits_url.get_secret_value()).password or ""))
        return {value for value in values if len(value) >= 8}

    @property
    def is_complete(self) -> bool:
        """Whether a process needs no server that `python app.py` starts."""
        return None not in (self.database_url, self.s3_endpoint)

    @field_validator("rate_limits_url")
    @classmethod
    def _counts(cls, value: SecretStr | None, info: ValidationInfo) -> SecretStr | None:
        url = "" if value is None else value.get_secret_value()
        if value is not None and not re.match(r"rediss?://|memory://$", url):
            raise ValueError("must be redis://host:port/number, rediss://… or memory://")
        if url == "memory://" and info.data.get("web_workers") != 1:
            raise ValueError("memory:// needs WEB_WORKERS=1: processes don't share their memory")
        return value

    @property
    def strict_sandbox(self) -> bool:
        """Whether files are parsed in a complete sandbox only."""
        return self.environment == "production" and self.allow_weak_sandbox == "off"

    @property
    def base_url(self) -> str:
        """The gateway's address in links, without a slash at the end."""
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 compared, not bound
        return self.public_url or f"http://{host}:{self.port}"


def storage_settings(settings: Settings) -> StorageSettings:
    """How to reach the bucket. Raises SystemExit if a setting is missing."""
    if settings.s3_endpoint is None or settings.s3_access_key is None or settings.s3_secret_key is None:
        raise SystemExit(
            "Set S3_ENDPOINT, S3_ACCESS_KEY and S3_SECRET_KEY, or run `python app.py` for an embedded S3 server."
        )
    return StorageSettings(
        backend=settings.storage_backend,
        endpoint=settings.s3_endpoint,
        public_endpoint=settings.s3_public_endpoint or settings.s3_endpoint,
        region=settings.s3_region,
        bucket=settings.s3_bucket,
        access_key=settings.s3_access_key,
        secret_key=settings.s3_secret_key.get_secret_value(),
        connections=settings.web_threads,
        local_path=settings.s3_local_path,
        metrics_url=settings.s3_metrics_url,
        metrics_token=settings.s3_metrics_token.get_secret_value() if settings.s3_metrics_token else None,
    )


def backup_storage_settings(settings: Settings) -> StorageSettings:
    """How to reach buckets of backups. Raises SystemExit if a setting is missing."""
    ours = storage_settings(settings)
    secret = settings.backup_s3_secret_key
    endpoint = settings.backup_s3_endpoint or ours.endpoint
    return replace(
        ours,
        endpoint=endpoint,
        public_endpoint=endpoint,
        region=settings.backup_s3_region or ours.region,
        access_key=settings.backup_s3_access_key or ours.access_key,
        secret_key=secret.get_secret_value() if secret else ours.secret_key,
        local_path=None,
    )


def keep_rules(text: str) -> dict[str, int]:
    """How many snapshots to keep of which periods, from ``daily=7,weekly=5``. Raises ValueError."""
    rules: dict[str, int] = {}
    for rule in text.split(","):
        period, _, number = rule.strip().partition("=")
        if period not in _PERIODS or not re.fullmatch(r"[0-9]{1,4}", number):
            raise ValueError(f"must be like daily=7,weekly=5,monthly=12; the periods are {', '.join(_PERIODS)}")
        rules[period] = int(number)
    if not any(rules.values()):
        raise ValueError("must keep something")
    return rules


def secret_keys(settings: Settings) -> list[str]:
    """The values of SECRET_KEY, newest first. Raises SystemExit if it is not set."""
    if settings.secret_key is None:
        raise SystemExit("Set SECRET_KEY (openssl rand -hex 32), or run `python app.py`, which makes one.")
    return _keys(settings.secret_key)


def _require_strong(secret: str) -> None:
    """Raises ValueError for a secret that can be guessed."""
    if len(secret) < 16 or len(set(secret)) < 8 or _WELL_KNOWN.search(secret):
        raise ValueError("is too short or too simple for production; make one: openssl rand -hex 32")


def _database_password(url: SecretStr) -> str:
    from psycopg.conninfo import conninfo_to_dict  # here: it takes 10 MiB

    return str(conninfo_to_dict(url.get_secret_value()).get("password", ""))


def _keys(value: SecretStr) -> list[str]:
    return [key.strip() for key in value.get_secret_value().split(",") if key.strip()]


def database_url(settings: Settings) -> str:
    """The database's address. Raises SystemExit if it is not set."""
    if settings.database_url is None:
        raise SystemExit("Set DATABASE_URL, or run `python app.py` for an embedded PostgreSQL.")
    return settings.database_url.get_secret_value()


def migration_database_url(settings: Settings) -> str:
    """The database's address for the role that owns the tables. Raises SystemExit if it is not set."""
    url = settings.migration_database_url
    return database_url(settings) if url is None else url.get_secret_value()
