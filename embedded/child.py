"""A child process that never outlives its parent, and the small things that both embedded servers need beside it.

Every child runs in a session of its own, so that Ctrl-C in a terminal reaches the supervisor alone and the order of
stopping is the supervisor's. On Linux the kernel signals the child when its parent dies in any way, ``kill -9``
included; elsewhere the next start finds the left-over by its recorded process id and ends it (``end_leftover``).
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
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from core.errors import Unavailable

LOG_KEPT = 8 * 1024 * 1024  # bytes; a longer log is begun anew at the next start
_PR_SET_PDEATHSIG = 1  # linux/prctl.h
_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


class EmbeddedError(Unavailable):
    """A part could not be started or is not running. The text is one sentence for the person at the terminal."""


class Child:
    """A started process; ``stop`` asks it with its own signal first and kills it only when it doesn't end in time."""

    def __init__(
        self, name: str, process: subprocess.Popen[bytes], *, log: Path | None, stop_signal: int, patience: float
    ):
        self.name, self.process, self.log = name, process, log
        self._stop_signal, self._patience = stop_signal, patience

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
        patience: float = 15,
        umask: int = -1,
        cwd: Path | None = None,
    ) -> Child:
        """Start ``command``; its output goes to ``log`` or, without one, where ours goes. ``patience`` is in seconds.

        ``owner`` is the (uid, gid) to run as. Raises EmbeddedError where the program can't be executed."""
        parent = os.getpid()

        def die_with_parent() -> None:  # runs between fork and exec, after a change of user, which undoes it
            assert _libc is not None
            _libc.prctl(_PR_SET_PDEATHSIG, stop_signal, 0, 0, 0)
            if os.getppid() != parent:  # it died before we asked
                os._exit(1)

        output = None
        if log is not None:
            if log.exists() and log.stat().st_size > LOG_KEPT:
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
        return cls(name, process, log=log, stop_signal=stop_signal, patience=patience)

    @property
    def running(self) -> bool:
        """Whether the process has not ended."""
        return self.process.poll() is None

    def stop(self) -> None:
        """End it and wait for that; a second call does nothing."""
        if self.running:
            self.process.send_signal(self._stop_signal)
            try:
                self.process.wait(self._patience)
            except subprocess.TimeoutExpired:
                self.process.kill()
        self.process.wait()

    def kill(self) -> None:
        """End it at once, as a power cut would: for tests whose data nobody reads again."""
        self.process.kill()
        self.process.wait()


def as_user(owner: tuple[int, int] | None) -> dict[str, Any]:
    """Popen's arguments for running as another (uid, gid), in no further group; none for our own."""
    return {} if owner is None else {"user": owner[0], "group": owner[1], "extra_groups": []}


def command_line(pid: int) -> str:
    """The words that the process was started with, or '' where there is no such process."""
    try:
        if sys.platform == "linux":
            return Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode("utf-8", "replace")
        return subprocess.run(
            ["ps", "-ww", "-o", "command=", "-p", str(pid)], capture_output=True, text=True, check=False
        ).stdout
    except OSError:
        return ""


def end_leftover(pid: int, *, words: Sequence[str], stop_signal: int = signal.SIGTERM, patience: float = 15) -> bool:
    """End a process that an earlier, killed parent left behind; False where ``pid`` is by now something else.

    A process id alone proves nothing (they are reused): each of ``words`` must stand in its command line."""

    def is_ours() -> bool:
        line = command_line(pid)
        return bool(line) and all(word in line for word in words)

    if not is_ours():
        return False
    os.kill(pid, stop_signal)
    deadline = time.monotonic() + patience
    while is_ours():
        if time.monotonic() > deadline:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.05)
    return True


def private_directory(path: Path) -> Path:
    """Make a directory that only its owner enters; parents are made with the usual mode."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.mkdir(mode=0o700, exist_ok=True)
    return path


def write_private(path: Path, text: str) -> None:
    """Replace a file as a whole, readable by its owner only, from its first byte on."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    temporary.unlink(missing_ok=True)
    with os.fdopen(os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    temporary.replace(path)


def kept_secret(path: Path) -> str:
    """The secret in this file, made at the first call."""
    if not path.exists():
        write_private(path, secrets.token_urlsafe(24))
    return path.read_text().strip()


def read_json(path: Path) -> Any:
    """What the file holds, or None where it is absent or was cut short."""
    try:
        return json.loads(path.read_text())
    except (FileNotFoundError, ValueError):
        return None


def port_is_free(port: int, host: str = "127.0.0.1") -> bool:
    """Whether a server could listen there now. SO_REUSEADDR, since a closed connection's TIME_WAIT is no obstacle."""
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with socket.socket(family, socket.SOCK_STREAM) as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((host, port))
        except OSError:
            return False
    return True


def free_port(*, also_above: int = 0, taken: Sequence[int] = ()) -> int:
    """A free port on loopback below the range that the kernel hands out to clients (from 32768 on Linux).

    With ``also_above`` the port that much higher is free too (SeaweedFS: gRPC is the HTTP port + 10000)."""
    for _ in range(500):
        port = 11_000 + secrets.randbelow(11_000)
        used = {port, port + also_above}
        if used.isdisjoint(taken) and all(port_is_free(each) for each in used):
            return port
    raise EmbeddedError("No free port was found on 127.0.0.1 between 11000 and 22000.")


def last_lines(log: Path | None, count: int = 5) -> str:
    """The end of a log, for an error message; nothing where there is none."""
    if log is None:
        return ""
    try:
        return "\n".join(log.read_text(errors="replace").splitlines()[-count:])
    except FileNotFoundError:
        return ""
