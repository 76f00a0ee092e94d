"""Every setting once, with its unit, default and reason. app.py alone builds ``Settings`` and hands out the pieces."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import DirectoryPath, Field, SecretStr, field_validator
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

Words = Annotated[tuple[str, ...], NoDecode]  # written as "a, b, c" in the environment

MIB = 1024 * 1024
GIB = 1024 * MIB


def version() -> str:
    """The gateway's version, which pyproject.toml alone names."""
    project: dict[str, str] = tomllib.loads(Path(__file__).with_name("pyproject.toml").read_text())["project"]
    return project["version"]


class Settings(BaseSettings):
    """Read from environment variables of the same names in capitals, and from ``.env``."""

    model_config = SettingsConfigDict(env_file=".env", extra="ignore", frozen=True, env_ignore_empty=True)

    # The server
    environment: Literal["development", "production"] = "development"
    host: str = "127.0.0.1"  # the image sets 0.0.0.0
    port: int = Field(default=8080, ge=1, le=65535)
    public_url: str | None = None  # the address clients use; default http://HOST:PORT
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    web_workers: int = Field(default=2, ge=1, le=64)  # processes
    web_threads: int = Field(default=32, ge=2, le=256)  # per process; a slow upload holds one, a quarter is kept free
    # Of `worker`, which can also be told by --concurrency and --queues.
    worker_concurrency: int = Field(default=2, ge=1, le=64)  # jobs of each queue at one time
    worker_lease: int = Field(default=30, ge=3, le=3_600)  # seconds of silence after which its jobs go to others
    worker_metrics_port: int | None = Field(default=None, ge=1, le=65535)  # unset: counted with the server's
    trusted_proxies: Words = ()  # addresses and networks whose X-Forwarded-* are believed
    cors_origins: Words = ()  # pages on these origins may call the gateway and the bucket

    # Where things are
    data_dir: Path = Path("./var")
    database_url: SecretStr | None = None  # unset: an embedded PostgreSQL under DATA_DIR
    storage_backend: Literal["s3", "minio"] = "s3"
    s3_endpoint: str | None = None  # unset: an embedded SeaweedFS under DATA_DIR
    s3_public_endpoint: str | None = None  # the bucket's address for browsers; default S3_ENDPOINT
    s3_local_path: DirectoryPath | None = (
        None  # on the disk of a bucket's server in this machine: tells when it is full
    )
    s3_region: str = "us-east-1"
    s3_bucket: str = "uploads"
    s3_access_key: str | None = None
    s3_secret_key: SecretStr | None = None
    admin_api_key: SecretStr | None = None  # the first admin key; unset: made and shown once

    # What may be uploaded
    max_file_size: int = Field(default=50 * GIB, ge=1)  # bytes
    max_files_per_request: int = Field(default=200, ge=1, le=10_000)
    allowed_types: Words = ()  # extensions, MIME types, image/*; empty: all that is not denied
    denied_types: Words = ()
    quota_bytes: int | None = Field(default=None, ge=0)  # for each owner
    upload_ttl: int = Field(default=86_400, ge=60)  # seconds that an unfinished upload lives
    max_open_uploads: int = Field(default=1_000, ge=1)  # unfinished uploads of one owner
    # Uploads through one web process for one owner at a time, if it has so many places: an owner never gets more than half of
    # them, an address never more than three quarters. Who finds none waits about 12 s.
    max_bodies_in_flight: int = Field(default=24, ge=1)

    # How files are handed out
    download_mode: Literal["redirect", "proxy"] = "redirect"
    download_url_ttl: int = Field(
        default=900, ge=1, le=604_800
    )  # seconds; the longest life of a presigned download, and that of a link where none is asked for
    download_url_max_ttl: int = Field(default=86_400, ge=1, le=604_800)  # of a link of the gateway
    upload_url_ttl: int = Field(default=3_600, ge=60, le=3_600)  # seconds; presigned parts and puts
    max_zip_files: int = Field(default=10_000, ge=1)
    max_zip_bytes: int = Field(default=50 * GIB, ge=1)
    # Previews made inside requests of one web process at a time; for one owner, one at a time.
    preview_concurrency: int = Field(default=2, ge=1, le=64)
    # Parse files in production also where the kernel lacks Landlock or seccomp, which lock parsers in.
    allow_weak_sandbox: Literal["on", "off"] = "off"
    trash_days: int = Field(default=30, ge=0)
    compression: Literal["on", "off"] = (
        "on"  # store with zstd what shrinks by a tenth; off: what is compressed stays so
    )

    # Later ways in and checks
    rate_limits: Literal["on", "off"] = "on"
    clamd_url: str | None = None  # tcp://host:port or unix:///path; unset: no virus scans
    scan_max_size: int = Field(default=100 * MIB, ge=1)  # bytes; not above clamd's StreamMaxLength (its default)
    scan_timeout: int = Field(default=180, ge=1)  # seconds of clamd's silence; above its MaxScanTime (120)
    scan_concurrency: int = Field(default=2, ge=1)  # scans at one time by one worker process; below clamd's MaxThreads
    # What becomes of files that the scanner can't look into: too large, encrypted, beyond its limits.
    scan_unscannable: Literal["reject", "accept"] = "reject"
    rescan_days: int = Field(
        default=7, ge=0
    )  # everything is scanned again so often, with new signatures; 0: by command
    jwt_issuer: str | None = None
    jwt_audience: str | None = None
    jwt_jwks_url: str | None = None

    @field_validator("trusted_proxies", "cors_origins", "allowed_types", "denied_types", mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        return tuple(word.strip() for word in value.split(",") if word.strip()) if isinstance(value, str) else value

    @field_validator("public_url", "s3_endpoint", "s3_public_endpoint")
    @classmethod
    def _address(cls, value: str | None) -> str | None:
        if value is not None and not value.startswith(("http://", "https://")):
            raise ValueError("must begin with http:// or https://")
        return value.rstrip("/") if value else None

    @field_validator("clamd_url")
    @classmethod
    def _scanner(cls, value: str | None) -> str | None:
        if value is not None and not re.fullmatch(r"tcp://[^/:]+:\d{1,5}|unix://(/.+)", value):
            raise ValueError("must be tcp://host:port or unix:///path")
        return value

    @property
    def strict_sandbox(self) -> bool:
        """Whether files are parsed only behind every lock."""
        return self.environment == "production" and self.allow_weak_sandbox == "off"

    @property
    def base_url(self) -> str:
        """The gateway's address in links, without a slash at the end."""
        host = "localhost" if self.host in ("0.0.0.0", "::") else self.host  # noqa: S104 compared, not bound
        return self.public_url or f"http://{host}:{self.port}"
