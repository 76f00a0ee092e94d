"""The child's side of parsers/run.py: give up every power, then parse.

Before the first untrusted byte is read, the process limits its memory, CPU time, files and descriptors, and
where the kernel allows it can no longer gain privileges, open a socket, start a program, signal or trace others
(seccomp), or read files outside the interpreter's and its own folder (Landlock), so that a decoder with a hole
in it can't fetch the gateway's credentials from /proc. A kernel or a sandbox that lacks one of these changes
nothing else: the resource limits and the empty environment hold everywhere.
"""

from __future__ import annotations

import contextlib
import ctypes
import importlib
import io
import json
import os
import platform
import resource
import struct
import sys
from typing import Any

from parsers import ParserFailed, Unsupported
from parsers.ranged import RangedFile


def main() -> None:
    """``argv``: the parser's name, its arguments and the limits as JSON, our parent's process id."""
    name, arguments, limits, parent = (
        sys.argv[1],
        json.loads(sys.argv[2]),
        json.loads(sys.argv[3]),
        int(sys.argv[4]),
    )
    answer = os.dup(1)
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what a library prints is no part of the answer
    _limit(limits)
    with contextlib.suppress(OSError, AttributeError):  # not Linux
        _die_with(parent)
    module = importlib.import_module(f"parsers.{name}")  # before the locks: imports read many files
    os.umask(0o077)
    with contextlib.suppress(OSError, AttributeError):
        _lock_down()
    values, blobs = _parse(module, arguments, _input(module, limits, answer))
    said = {**values, "blobs": [len(blob) for blob in blobs]}
    body = json.dumps(said, allow_nan=False, ensure_ascii=False).encode(errors="surrogatepass")
    with os.fdopen(answer, "wb") as out:
        out.write(struct.pack(">I", len(body)) + body)
        out.writelines(blobs)


def _input(module: Any, limits: dict[str, int], answer: int) -> Any:
    """The file's bytes; for a parser that ``SEEKS`` a file, which may be the parent's."""
    if size := limits.get("ranged"):
        file = RangedFile(size, limits["max_input"], sys.stdin.buffer, answer)
        return io.BufferedReader(file, 64 * 1024)
    data = sys.stdin.buffer.read()
    return io.BytesIO(data) if getattr(module, "SEEKS", False) else data


def _parse(module: Any, arguments: dict[str, Any], given: Any) -> tuple[dict[str, Any], list[bytes]]:
    # Only our own words go into the answer: a library's message can hold addresses and paths (THREATS T35).
    try:
        values, blobs = module.parse(given, arguments)
    except Unsupported as error:
        return {"unsupported": error.reason}, []
    except ParserFailed as error:
        return {"failed": error.reason}, []
    except MemoryError:
        return {"failed": "The file needs too much memory"}, []
    except Exception as error:
        return {"failed": f"The file can't be read ({type(error).__name__})"}, []
    return {"values": values}, blobs


def _limit(limits: dict[str, int]) -> None:
    for name, soft, hard in (
        ("CORE", 0, 0),
        ("AS", limits["memory"], limits["memory"]),
        ("CPU", limits["cpu_seconds"], limits["cpu_seconds"] + 1),
        ("FSIZE", limits["file_size"], limits["file_size"]),
        ("NOFILE", limits["open_files"], limits["open_files"]),
    ):
        with contextlib.suppress(ValueError, OSError, AttributeError):  # macOS refuses some of them
            resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (soft, hard))


# Linux only: no network, no other programs, no other files -------------------------------------------------------

_PR_SET_PDEATHSIG, _PR_SET_SECCOMP, _PR_SET_NO_NEW_PRIVS = 1, 22, 38
_SIGKILL = 9
# seccomp's name of the architecture, then the numbers of: socket, connect, execve, execveat, ptrace,
# process_vm_readv, process_vm_writev, kill, tkill, pidfd_open, io_uring_setup, bpf, unshare, mount
_SYSTEM_CALLS = {
    "x86_64": (0xC000003E, (41, 42, 59, 322, 101, 310, 311, 62, 200, 434, 425, 321, 272, 165)),
    "aarch64": (0xC00000B7, (198, 203, 221, 281, 117, 270, 271, 129, 130, 434, 425, 280, 97, 40)),
}
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_FS_EXECUTE, _FS_READ_FILE, _FS_READ_DIR = 1, 4, 8
_FS_ALL = (1 << 13) - 1  # every right of Landlock's first version


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _die_with(parent: int) -> None:
    _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:  # it died before the line above
        sys.exit(1)


def _lock_down() -> None:
    libc = _libc()
    if libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0:
        _landlock(libc)
        _seccomp(libc)


def _landlock(libc: ctypes.CDLL) -> None:
    """Read the interpreter's and the system's libraries and fonts, write the own folder, nothing else."""
    handled = ctypes.c_uint64(_FS_ALL)
    ruleset = libc.syscall(_LANDLOCK_CREATE, ctypes.byref(handled), ctypes.c_size_t(8), 0)
    if ruleset < 0:
        return  # no Landlock in this kernel, or not enabled
    here = os.path.dirname(os.path.abspath(__file__))
    core = os.path.join(os.path.dirname(here), "core")
    read = _FS_EXECUTE | _FS_READ_FILE | _FS_READ_DIR
    rules = [(path, read) for path in (sys.prefix, sys.base_prefix, here, core, "/usr", "/lib", "/lib64")]
    rules.append((os.getcwd(), _FS_ALL))
    for path, rights in rules:
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        rule = ctypes.create_string_buffer(struct.pack("=Qi", rights, opened))
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, rule, 0)
        os.close(opened)
    libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0)
    os.close(ruleset)


def _seccomp(libc: ctypes.CDLL) -> None:
    """Answer the forbidden system calls with EPERM, and those of other architectures too."""
    if platform.machine() not in _SYSTEM_CALLS:
        return
    architecture, forbidden = _SYSTEM_CALLS[platform.machine()]
    load, equal, at_least, give = 0x20, 0x15, 0x35, 0x06  # BPF: LD|W|ABS, JMP|JEQ|K, JMP|JGE|K, RET|K
    allow, refuse = 0x7FFF0000, 0x00050000 | 1  # SECCOMP_RET_ALLOW, SECCOMP_RET_ERRNO | EPERM
    count = len(forbidden)
    program = [
        (load, 0, 0, 4),
        (equal, 0, count + 3, architecture),
        (load, 0, 0, 0),
        (at_least, count + 1, 0, 1 << 30),
    ]
    program += [(equal, count - i, 0, number) for i, number in enumerate(forbidden)]
    program += [(give, 0, 0, allow), (give, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    header = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc.prctl(_PR_SET_SECCOMP, 2, header, 0, 0)
