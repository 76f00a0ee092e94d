"""Linux: what a parser's process can no longer do once it is locked, whoever's code runs in it.

seccomp leaves only the system calls that parsing needs: nothing that starts a process or thread, signals or traces
anybody, opens a socket, makes a namespace, or changes, creates, truncates or removes a file. Landlock leaves, of
every right that the kernel knows, reading the interpreter, its libraries and fonts. Neither needs a privilege, but a
kernel can lack them and a container can forbid them: so ``lock`` says what it could not have.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_SIGKILL = 9
_ENOSYS, _EPERM = 38, 1
_CAPABILITIES = 0x20080522  # _LINUX_CAPABILITY_VERSION_3
_LANDLOCK_CREATE, _LANDLOCK_ADD, _LANDLOCK_RESTRICT = 444, 445, 446
_READ = 4 | 8  # LANDLOCK_ACCESS_FS_READ_FILE and _READ_DIR

# seccomp's name of the architecture and the number of seccomp(2)
_MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
# Each call's number on x86_64 and aarch64. Libraries differ in what they use, so what can do no harm is here.
# sched_getaffinity is not: libraries that don't learn how many processors there are start no threads.
_ALLOWED = """
read 0 63, readv 19 65, pread64 17 67, lseek 8 62, write 1 64, close 3 57, dup 32 23,
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291, access 21 -, faccessat 269 48, faccessat2 439 439,
readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17, fadvise64 221 223,
mmap 9 222, mremap 25 216, munmap 11 215, mprotect 10 226, madvise 28 233, mincore 27 232, brk 12 214,
futex 202 98, sched_yield 24 124, membarrier 324 283, restart_syscall 219 128,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, setitimer 38 103, getitimer 36 102,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169, time 201 -,
getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getrusage 98 165, times 100 153, sysinfo 99 179, uname 63 160, getrandom 318 278, exit 60 93, exit_group 231 94,
set_robust_list 273 99, rseq 334 293
"""
# The same where one argument decides: which it is, the bits that are looked at, the values they may have.
_WRITES = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_ALLOWED_WITH = (
    ("open 2 -", 1, _WRITES, (os.O_RDONLY,)),
    ("openat 257 56", 2, _WRITES, (os.O_RDONLY,)),
    ("fcntl 72 25", 1, 0xFFFFFFFF, (0, 1, 2, 3, 1030)),  # duplicates and flags; F_SETOWN would send signals
    ("prlimit64 302 261", 0, 0xFFFFFFFF, (0,)),  # its own limits
)
# For the parsers that say THREADS. Any other flags, musl's CLONE_DETACHED apart, would make processes or namespaces.
_A_THREAD = ("clone 56 220", 0, 0xFFFFFFFF & ~0x400000, (0x3D0F00,))
_NEWER = 435  # clone3, and what came after it


def hide() -> None:
    """Nobody but root may read this process's memory and environment from now on (PR_SET_DUMPABLE, ptrace(2))."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def die_with(parent: int) -> None:
    """End when the parent does, or now if it did already."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def lock(*, threads: bool = False) -> list[str]:
    """Give up every power for good, but for starting ``threads``; the names of the locks that can't be had here."""
    if sys.platform != "linux":
        return ["Landlock", "seccomp"]
    libc = _libc()
    hide()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.capset(struct.pack("=Ii", _CAPABILITIES, 0), bytes(24))
    had = {"Landlock": _landlock(libc), "seccomp": _seccomp(libc, threads)}
    return [name for name, locked in had.items() if not locked]


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """A parser of nothing, for who only wants to know which locks its process got."""
    return {}, []


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _landlock(libc: ctypes.CDLL) -> bool:
    ruleset = _ruleset(libc)
    if ruleset < 0:
        return False
    here = os.path.dirname(os.path.abspath(__file__))
    core = os.path.join(os.path.dirname(here), "core")
    for path in (sys.prefix, sys.base_prefix, here, core, "/usr", "/lib", "/lib64"):
        try:
            opened = os.open(path, os.O_PATH | os.O_CLOEXEC)
        except OSError:
            continue
        libc.syscall(_LANDLOCK_ADD, ruleset, 1, struct.pack("=Qi", _READ, opened), 0)
        os.close(opened)
    locked: bool = libc.syscall(_LANDLOCK_RESTRICT, ruleset, 0) == 0
    os.close(ruleset)
    return locked


def _ruleset(libc: ctypes.CDLL) -> int:
    """One that handles all rights of files and networks and all scopes that this kernel knows; below 0 if none.

    Each is a row of bits that grows with the kernels, and a ruleset with an unknown bit is refused."""
    rights, ruleset = [0, 0, 0], -1
    for field in range(len(rights)):
        for bits in range(32, -1, -1):
            rights[field] = (1 << bits) - 1
            made = libc.syscall(_LANDLOCK_CREATE, struct.pack("=3Q", *rights), ctypes.c_size_t(24), 0)
            if made >= 0:
                if ruleset >= 0:
                    os.close(ruleset)
                ruleset = made
                break
    return ruleset


def _seccomp(libc: ctypes.CDLL, threads: bool) -> bool:
    """What is not allowed fails with EPERM, or as in an old kernel, so that libc does it in the older way."""
    machine = os.uname().machine
    if machine not in _MACHINES:
        return False
    architecture, seccomp = _MACHINES[machine]
    column = list(_MACHINES).index(machine) + 1
    load, equal, at_least, mask, give = (
        0x20,
        0x15,
        0x35,
        0x54,
        0x06,
    )  # BPF: LD, JEQ, JGE, AND, RET; of constants
    allow, refuse, unknown = 0x7FFF0000, 0x50000 | _EPERM, 0x50000 | _ENOSYS
    program = [(load, 0, 0, 4), (equal, 1, 0, architecture), (give, 0, 0, refuse), (load, 0, 0, 0)]
    for call in _ALLOWED.split(","):
        if (number := call.split()[column]) != "-":
            program += [(equal, 0, 1, int(number)), (give, 0, 0, allow)]
    for call, argument, bits, values in (*_ALLOWED_WITH, *([_A_THREAD] if threads else [])):
        if (number := call.split()[column]) != "-":
            looked = [(load, 0, 0, 16 + 8 * argument), (mask, 0, 0, bits)]  # its lower half: these are ints
            for value in values:
                looked += [(equal, 0, 1, value), (give, 0, 0, allow)]
            looked += [(give, 0, 0, refuse)]
            program += [(equal, 0, len(looked), int(number)), *looked]
    program += [(at_least, 0, 1, _NEWER), (give, 0, 0, unknown), (give, 0, 0, refuse)]
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    filter = struct.pack("@HP", len(program), ctypes.addressof(code))
    locked: bool = libc.syscall(seccomp, 1, 1, filter) == 0  # SECCOMP_SET_MODE_FILTER of all threads (TSYNC)
    return locked
