"""Child processes that never outlive their parent, and small helpers for the embedded servers.

Each child runs in a session of its own, so Ctrl-C in a terminal reaches the supervisor alone, which stops the children in its
order. On Linux the kernel signals a child when its parent dies, even by ``kill -9``; elsewhere the next start finds the
leftover by its process id and ends it (``end_leftover``).
"""

from __future__ import annotations

import ctypes
import json
import os
import secrets
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from core.errors import Unavailable

MAX_LOG = 8 * 1024 * 1024  # bytes; a larger log is deleted at the next start
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class EmbeddedError(Unavailable):
    """A part could not be started or is not running. The message is for the person at the terminal."""


@dataclass(frozen=True, slots=True)
class Child:
    """A started process."""

    name: str
    process: subprocess.Popen[bytes]
    log: Path | None
    stop_signal: int
    stop_timeout: float  # seconds

    @classmethod
    def start(
        cls,
        name: str,
        command: Sequence[str],
        *,
        environ: Mapping[str, str] | None = None,
        log: Path | None = None,
        owner: tuple[int, int] | None = None,
        stop_signal: int = signal.SIGTERM,
        stop_timeout: float = 15,
        umask: int = -1,
        cwd: Path | None = None,
    ) -> Child:
        """Start ``command`` as ``owner`` (uid, gid). Its output goes to ``log``, or where ours goes.

        Raises EmbeddedError if the program can't be executed."""
        parent = os.getpid()

        def die_with_parent() -> None:  # between fork and exec, after the change of user, which would undo it
            assert _libc is not None
            _libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
            if os.getppid() != parent:  # it died before prctl
                os._exit(1)

        output = None
        if log is not None:
            if log.exists() and log.stat().st_size > MAX_LOG:
                log.unlink()
            output = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)
        try:
            process = subprocess.Popen(
                command,
                env=dict(environ) if environ is not None else None,
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                start_new_session=True,
                umask=umask,
                cwd=cwd,
                preexec_fn=die_with_parent if _libc is not None else None,
                **as_user(owner),
            )
        except (OSError, subprocess.SubprocessError) as error:
            raise EmbeddedError(f"{name} could not be started: {error}") from error
        finally:
            if output is not None:
                os.close(output)
        return cls(name, process, log, stop_signal, stop_timeout)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def stop(self) -> None:
        """Send the stop signal, and kill the process if it does not end in time. Waits for its end."""
        if self.running:
            self.process.send_signal(self.stop_signal)
            try:
                self.process.wait(self.stop_timeout)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End the process at once, for tests that no longer need its data."""
        self.process.kill()
        self.process.wait()


def as_user(owner: tuple[int, int] | None) -> dict[str, Any]:
    """Popen's arguments for running as ``owner``, without further groups."""
    return {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}


def command_line(pid: int) -> str:
    """The process's command line, or '' if there is no such process."""
    try:
        if sys.platform == "linux":
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        return subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        return ""


def end_leftover(
    pid: int, *, command: Sequence[str], stop_signal: int = signal.SIGTERM, stop_timeout: float = 15
) -> None:
    """End a process that an earlier, killed parent left behind.

    Process ids are reused, so each string of ``command`` must be in its command line."""

    def is_ours() -> bool:
        line = command_line(pid)
        return bool(line) and all(part in line for part in command)

    if not is_ours():
        return
    os.kill(pid, stop_signal)
    deadline = time.monotonic() + stop_timeout
    while is_ours():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)


def wait_until_ready(child: Child, is_ready: Callable[[], bool], *, timeout: float) -> bool:
    """Poll until ``is_ready``; False if the child ended before. Raises EmbeddedError after ``timeout`` seconds."""
    deadline = time.monotonic() + timeout
    while child.running:
        if is_ready():
            return True
        if time.monotonic() > deadline:
            raise EmbeddedError(
                f"{child.name} did not answer within {timeout:.0f} seconds; see {child.log or 'above'}."
            )
        time.sleep(0.05)
    return False


def private_directory(path: Path) -> Path:
    """Create a directory that only its owner can enter; parents get the usual mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file atomically; only its owner can read it, at any moment."""
    _written(path, text).replace(path)


def _written(path: Path, text: str) -> Path:
    """A temporary file beside ``path``."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    return temporary


def kept_secret(path: Path) -> str:
    """The secret in this file, which is created on first use, by one of several processes."""
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = _written(path, secrets.token_urlsafe(24))
        with suppress(FileExistsError):
            path.hardlink_to(temporary)
        temporary.unlink()
    return path.read_text().strip()


def read_json(path: Path) -> Any:
    """The file's content, or None if it is absent or cut short."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server can listen there. With SO_REUSEADDR, since TIME_WAIT of closed connections is no obstacle."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, also_above: int = 0, taken: Sequence[int] = ()) -> int:
    """A free port on loopback, below the kernel's range for clients (from 32768 on Linux).

    ``port + also_above`` is free too (SeaweedFS: the gRPC port is the HTTP port + 10000)."""
    for _ in range(500):
        port = 11_000 + secrets.randbelow(11_000)
        used = {port, port + also_above}
        if used.isdisjoint(taken) and all(map(port_is_free, used)):
            return port
    raise EmbeddedError("No free port was found on 127.0.0.1 between 11000 and 22000.")


def last_lines(log: Path | None, count: int = 5) -> str:
    """The end of a log, for an error message; "" if there is none."""
    if log is None:
        return ""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""
