"""Attacks by code in a compromised parser: in a real child with the real locks, as the user who owns the targets."""

from __future__ import annotations

import json
import os
import platform
import re
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import suppress
from io import BytesIO
from pathlib import Path
from typing import Any

import pytest

from parsers import ParserFailed, WeakSandbox, locks
from parsers import run as runner
from parsers.reading import read
from tests.parsers.conftest import Parse, start_of
from tests.paths import ROOT

pytestmark = pytest.mark.skipif(
    sys.platform != "linux" or platform.machine() not in locks._MACHINES, reason="Linux locks parsers in"
)
LESSER_KERNEL = ROOT / "tests" / "lesser_kernel.py"
ARM = platform.machine() == "aarch64"

# Names that attacks use: `raw` makes a system call, given by its numbers on x86_64 and aarch64.
TOOLS = """
import ctypes, errno, fcntl, resource
REFUSALS = (errno.EPERM, errno.EACCES, errno.ENOSYS, errno.EXDEV)  # EXDEV: from Landlock, for links and renames
span = ctypes.c_size_t * 2
libc = ctypes.CDLL(None, use_errno=True)
def raw(x86_64, aarch64, *words):
    if libc.syscall(aarch64 if ARM else x86_64, *words) < 0:
        raise OSError(ctypes.get_errno(), "refused")
file, victim, parent = arguments["file"], arguments["victim"], os.getppid()
""".replace("ARM", str(ARM))

CHANGES = {
    "truncate": "os.truncate(file, 0)",
    "open for writing": "os.open(file, os.O_WRONLY)",
    "open for both": "os.open(file, os.O_RDWR)",
    "open and truncate": "os.open(file, os.O_RDONLY | os.O_TRUNC)",
    "openat2": "raw(437, 437, -100, file.encode(), (ctypes.c_uint64 * 3)(os.O_WRONLY, 0, 0), 24)",
    "create": "os.open(file + '.new', os.O_CREAT)",
    "create without a name": "os.open(os.path.dirname(file), os.O_TMPFILE | os.O_WRONLY)",
    "create in its own folder": "os.open('new', os.O_CREAT | os.O_WRONLY)",
    "unlink": "os.unlink(file)",
    "rename": "os.rename(file, file + '.new')",
    "link": "os.link(file, file + '.new')",
    "symlink": "os.symlink(file, file + '.new')",
    "mkdir": "os.mkdir(file + '.new')",
    "mkfifo": "os.mkfifo(file + '.new')",
    "chmod": "os.chmod(file, 0)",
    "chown": "os.chown(file, 65534, 65534)",
    "utime": "os.utime(file, (0, 0))",
    "setxattr": "os.setxattr(file, 'user.x', b'x')",
    "shared memory": "raw(29, 194, 0, 4096, 0o1666)",
    "message queue": "raw(240, 180, b'q', os.O_CREAT, 0o600, 0)",
}
BEYOND_LANDLOCK = {"chmod", "chown", "utime", "setxattr", "shared memory", "message queue"}
READS = {
    "a file": "open(file).read()",
    "settings": "open(arguments['settings']).read()",
    "passwd": "open('/etc/passwd').read()",
    "its parent's environment": "open(f'/proc/{parent}/environ').read()",
    "its parent's memory": "open(f'/proc/{parent}/mem', 'rb').read(1)",
    "its parent's memory by call": "raw(310, 270, parent, span(id(raw), 1), 1, span(1, 1), 1, 0)",
    "a file by its handle": "raw(304, 265, 0, (ctypes.c_int * 4)(8, 1), 0)",
}
OTHERS = {
    "signal": "os.kill(victim, signal.SIGKILL)",
    "signal its parent": "os.kill(parent, 0)",
    "signal all": "os.kill(-1, 0)",
    "signal a thread": "raw(234, 131, victim, victim, signal.SIGKILL)",
    "signal its own": "raw(234, 131, os.getpid(), os.getpid(), signal.SIGUSR1)",
    "queue a signal": "raw(129, 138, victim, signal.SIGKILL, ctypes.create_string_buffer(128))",
    "have input signal another": "fcntl.fcntl(0, fcntl.F_SETOWN, victim)",
    "pidfd": "raw(434, 434, victim, 0)",
    "trace": "raw(101, 117, 16, victim, 0, 0)",
    "be traced": "raw(101, 117, 0, 0, 0, 0)",
    "compare": "raw(312, 272, victim, parent, 0, 0, 0)",
    "limit its parent": "resource.prlimit(parent, resource.RLIMIT_NOFILE)",
    "processors of another": "os.sched_setaffinity(victim, {0})",
    "priority of another": "os.setpriority(os.PRIO_PROCESS, victim, 19)",
    "schedule another": "os.sched_setscheduler(victim, os.SCHED_BATCH, os.sched_param(0))",
}
STAYS = {
    "fork": "os.fork() or os._exit(0)",
    "spawn": "os.posix_spawn('/bin/true', ['true'], {})",
    "clone": "raw(56, 220, signal.SIGCHLD, 0, 0, 0, 0) or os._exit(0)",
    "clone3": "raw(435, 435, (ctypes.c_uint64 * 8)(0, 0, 0, 0, signal.SIGCHLD, 0, 0, 0), 64)",
    "exec": "os.execv('/bin/true', ['true'])",
    "exec of memory": "os.memfd_create('x')",
    "session": "os.setsid()",
    "process group": "os.setpgid(0, 0)",
    "outlive its parent": "raw(157, 167, 1, 0, 0, 0, 0)",
    "namespace of users": "raw(272, 97, 0x10000000)",
    "namespace of files": "raw(272, 97, 0x20000)",
    "another's namespace": "raw(308, 268, 0, 0)",
    "mount": "raw(165, 40, b'x', b'/tmp', b'tmpfs', 0, 0)",
    "chroot": "os.chroot('.')",
    "become another": "os.setuid(65534)",
    "io_uring": "raw(425, 425, 1, ctypes.create_string_buffer(120))",
    "bpf": "raw(321, 280, 0, ctypes.create_string_buffer(120), 120)",
    "page faults": "raw(323, 282, 0)",
    "keys": "raw(250, 219, 0, -3, 1)",
    "performance": "raw(298, 241, ctypes.create_string_buffer(120), 0, -1, -1, 0)",
    "terminal": "fcntl.ioctl(0, 0x5412, b'x')",
    "socket": "socket.socket()",
    "socket of this machine": "socket.socket(socket.AF_UNIX)",
    "pair of sockets": "socket.socketpair()",
}
ATTACKS = CHANGES | READS | OTHERS | STAYS


def attempts(attacks: dict[str, str]) -> str:
    """A parser that returns the attacks that were not refused, or failed for another reason."""
    code = TOOLS + "succeeded = []\n"
    for name, attack in attacks.items():
        code += f"try:\n    {attack}\n    succeeded.append({name!r})\n"
        code += (
            f"except OSError as error:\n    error.errno in REFUSALS or succeeded.append({name!r} + f', {{error}}')\n"
        )
    return code + "return {'succeeded': succeeded}, []"


@pytest.fixture
def targets(tmp_path: Path) -> Iterator[dict[str, Any]]:
    """A file and a process of this user; both must be unchanged after the test."""
    file = tmp_path / "outside" / "precious"
    file.parent.mkdir()
    file.write_text("precious")
    before = file.stat()
    victim = subprocess.Popen(["sleep", "300"])
    try:
        yield {"file": str(file), "victim": victim.pid, "settings": str(ROOT / "pyproject.toml")}
        after = file.stat()
        assert file.read_text() == "precious"
        assert (after.st_mtime, after.st_mode, after.st_uid) == (before.st_mtime, before.st_mode, before.st_uid)
        assert list(file.parent.iterdir()) == [file]
        assert victim.poll() is None
    finally:
        victim.kill()
        victim.wait()


@pytest.mark.parametrize("name", ATTACKS)
def test_T132_attack_is_refused(parse: Parse, targets: dict[str, Any], name: str) -> None:
    assert parse(attempts({name: ATTACKS[name]}), arguments=targets).values == {"succeeded": []}


def test_T132_threads_only_for_parsers_that_need_them(parse: Parse, targets: dict[str, Any]) -> None:
    code = "import threading; threading.Thread(target=time.time).start(); return {}, []"
    with pytest.raises(ParserFailed, match="RuntimeError"):
        parse(code)
    parse(code, head="THREADS = True")
    others = attempts({name: attack for name, attack in STAYS.items() if name != "clone3"})
    assert parse(others, head="THREADS = True", arguments=targets).values == {"succeeded": []}


def test_T132_the_child_has_no_capabilities(parse: Parse) -> None:
    """A child of root owns root's files, but can only read them."""
    code = "from parsers import locks; locks._seccomp = lambda *_: True; locks._landlock = lambda *_: True"
    told = parse("return {'status': open('/proc/self/status').read()}, []", before=code).values["status"]
    assert set(re.findall(r"^Cap(?:Inh|Prm|Eff|Amb):\t(\w+)$", told, re.M)) == {"0" * 16}


def test_T132_arguments_and_environment_do_not_name_the_file(parse: Parse) -> None:
    """Every user of the machine can read a process's arguments."""
    seen = []

    class Source(BytesIO):
        def read(self, size: int | None = -1, /) -> bytes:
            for line in Path("/proc").glob("[0-9]*/cmdline"):
                with suppress(OSError):
                    if b"parsers.child" in (words := line.read_bytes()):
                        seen.append(words + (line.parent / "environ").read_bytes())
            return super().read(size)

    read(Source(b"text"), "text/plain", name="secret-plan.txt", want=frozenset({"text"}))
    assert seen
    assert not [words for words in seen if b"secret-plan" in words]


# -- with one lock missing ---------------------------------------------------------------------------------------------


def without(lock: str, folder: Path, attacks: dict[str, str], targets: dict[str, Any]) -> tuple[list[str], set[str]]:
    """The locks reported as missing, and the attacks that succeed against a gateway process with secrets."""
    script = (
        "import json, sys; from io import BytesIO; from parsers import locks, run as runner; locks.hide()\n"
        f"runner._START = {start_of(folder, attempts(attacks))!r}\n"
        "values = runner.run('probe', BytesIO(), json.loads(sys.argv[1])).values\n"
        f"runner._START = {runner._START!r}\n"
        "print(json.dumps([runner.missing_locks(), values['succeeded']]))"
    )
    done = subprocess.run(
        [sys.executable, str(LESSER_KERNEL), lock, sys.executable, "-c", script, json.dumps(targets)],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "S3_SECRET_KEY": "secret"},
    )
    assert done.returncode == 0, done.stderr
    missing, succeeded = json.loads(done.stdout)
    return missing, set(succeeded)


def test_T132_without_landlock_only_reading_files_succeeds(tmp_path: Path, targets: dict[str, Any]) -> None:
    missing, succeeded = without("landlock", tmp_path, ATTACKS, targets)
    assert missing == ["Landlock"]
    assert succeeded == {"a file", "settings", "passwd"}


@pytest.mark.skipif(
    sys.platform == "linux" and locks._libc().syscall(444, None, 0, 1) < 6, reason="Landlock scopes signals from 6 on"
)
def test_T132_without_seccomp_landlock_refuses_all_that_it_covers(tmp_path: Path, targets: dict[str, Any]) -> None:
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as abstract:
        abstract.bind(f"\0gateway-{os.getpid()}")
        abstract.listen()
        attacks = {
            **{name: attack for name, attack in CHANGES.items() if name not in BEYOND_LANDLOCK},
            **READS,
            **{name: OTHERS[name] for name in ("signal", "signal its parent", "signal a thread", "trace")},
            "connect": f"socket.create_connection({server.getsockname()!r})",
            "listen": "socket.create_server(('127.0.0.1', 0))",
            "abstract socket": f"socket.socket(socket.AF_UNIX).connect({abstract.getsockname()!r})",
        }
        missing, succeeded = without("seccomp", tmp_path, attacks, targets)
    assert missing == ["seccomp"]
    assert succeeded == set()


def test_T132_a_strict_run_without_a_lock_raises_weak_sandbox(parse: Parse, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(WeakSandbox) as weak:
        parse("return {}, []", locked=False, strict=True)
    assert weak.value.missing == ("all",)


def test_T132_this_kernel_has_all_locks() -> None:
    """Without them the tests above would prove little."""
    assert runner.missing_locks() == ()


# -- the table of system calls -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("header", "column", "pattern"),
    [
        ("x86_64-linux-gnu/asm/unistd_64.h", 1, r"#define __NR_(\w+) (\d+)"),
        ("asm-generic/unistd.h", 2, r"#define __NR(?:3264)?_(\w+)\s+(\d+)"),
    ],
)
def test_T132_system_call_numbers_match_the_kernel_headers(header: str, column: int, pattern: str) -> None:
    path = Path("/usr/include") / header
    if not path.exists():
        pytest.skip("the kernel's headers are not installed")
    numbers = dict(re.findall(pattern, path.read_text()))
    numbers.setdefault("newfstatat", numbers.get("fstatat"))
    rows = [row.split() for row in locks._ALLOWED.split(",")]
    assert set(locks._ARGUMENTS) <= {row[0] for row in rows}
    assert [row for row in rows if row[column] != numbers.get(row[0], "-")] == []
