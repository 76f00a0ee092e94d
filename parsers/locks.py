"""Lock a parser's process in, so that a decoder taken over by a hostile file can do nothing but compute (Linux, T132).

seccomp allows only the system calls that parsing needs: none that starts a process or thread, sends signals, traces,
opens a socket, makes a namespace, or creates, changes or removes a file. Landlock allows reading the interpreter, its
libraries and fonts, and no other use of files or the network. Neither needs privileges, but a kernel may lack them and a
container may forbid them: ``lock`` returns the names of those that are missing.
"""

from __future__ import annotations

import ctypes
import os
import struct
import sys
from contextlib import suppress
from typing import Any

_PR_SET_PDEATHSIG, _PR_SET_DUMPABLE, _PR_SET_NO_NEW_PRIVS = 1, 4, 38
_M_ARENA_MAX = -8  # malloc.h
_SIGKILL, _EPERM, _ENOSYS = 9, 1, 38
_LINUX_CAPABILITY_VERSION_3 = 0x20080522

# architecture in seccomp's terms, number of seccomp(2)
_MACHINES = {"x86_64": (0xC000003E, 317), "aarch64": (0xC00000B7, 277)}
# Allowed system calls and their numbers on x86_64 and aarch64. Harmless calls are here even if no library makes them
# today. sched_getaffinity is left out: a library that can't count the processors starts no threads.
_ALLOWED = """
read 0 63, readv 19 65, pread64 17 67, lseek 8 62, write 1 64, close 3 57, dup 32 23,
poll 7 -, ppoll 271 73, select 23 -, pselect6 270 72,
open 2 -, openat 257 56, stat 4 -, lstat 6 -, fstat 5 80, newfstatat 262 79, statx 332 291,
access 21 -, faccessat 269 48, faccessat2 439 439, readlink 89 -, readlinkat 267 78, getdents64 217 61, getcwd 79 17,
fadvise64 221 223, fcntl 72 25,
mmap 9 222, mremap 25 216, munmap 11 215, mprotect 10 226, madvise 28 233, mincore 27 232, brk 12 214,
futex 202 98, sched_yield 24 124, membarrier 324 283, restart_syscall 219 128,
rt_sigaction 13 134, rt_sigprocmask 14 135, rt_sigreturn 15 139, sigaltstack 131 132, setitimer 38 103, getitimer 36 102,
clock_gettime 228 113, clock_getres 229 114, clock_nanosleep 230 115, nanosleep 35 101, gettimeofday 96 169, time 201 -,
getpid 39 172, gettid 186 178, getppid 110 173, getuid 102 174, geteuid 107 175, getgid 104 176, getegid 108 177,
getrusage 98 165, prlimit64 302 261, times 100 153, sysinfo 99 179, uname 63 160, getrandom 318 278,
clone 56 220, set_robust_list 273 99, rseq 334 293, exit 60 93, exit_group 231 94
"""
# Calls allowed for some values of one argument: its index, the bits compared, the values allowed.
_WRITE_FLAGS = os.O_ACCMODE | os.O_CREAT | os.O_TRUNC
_ALL_BITS = 0xFFFFFFFF
_ARGUMENTS = {
    "open": (1, _WRITE_FLAGS, (os.O_RDONLY,)),
    "openat": (2, _WRITE_FLAGS, (os.O_RDONLY,)),
    "fcntl": (1, _ALL_BITS, (0, 1, 2, 3, 1030)),  # duplicates and flags; F_SETOWN could send signals
    "prlimit64": (0, _ALL_BITS, (0,)),  # the process itself
    "clone": (0, _ALL_BITS & ~0x400000, (0x3D0F00,)),  # a thread, no process or namespace; musl adds CLONE_DETACHED
}
_CLONE3 = 435  # this and all later calls fail with ENOSYS, so that libc uses the older ones

_LOAD, _AND, _EQUAL, _AT_LEAST, _RETURN = 0x20, 0x54, 0x15, 0x35, 0x06  # BPF: LD, AND, JEQ, JGE, RET
_ALLOW = (_RETURN, 0, 0, 0x7FFF0000)
_REFUSE = (_RETURN, 0, 0, 0x50000 | _EPERM)
_UNKNOWN = (_RETURN, 0, 0, 0x50000 | _ENOSYS)

_LANDLOCK_CREATE_RULESET, _LANDLOCK_ADD_RULE, _LANDLOCK_RESTRICT_SELF = 444, 445, 446
_READ_FILE, _READ_DIR = 4, 8  # LANDLOCK_ACCESS_FS_…


def hide() -> None:
    """Forbid all users but root to read this process's memory and environment (PR_SET_DUMPABLE, ptrace(2))."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_DUMPABLE, 0, 0, 0, 0)


def share_arenas() -> None:
    """Let threads share two of glibc's arenas, each of which keeps what is freed in it."""
    with suppress(AttributeError):  # another libc
        _libc().mallopt(_M_ARENA_MAX, 2)


def die_with(parent: int) -> None:
    """End when the parent process ends, or now if it has ended already."""
    if sys.platform == "linux":
        _libc().prctl(_PR_SET_PDEATHSIG, _SIGKILL, 0, 0, 0)
    if os.getppid() != parent:
        sys.exit(1)


def lock(*, threads: bool = False) -> list[str]:
    """Lock this process in for good. ``threads``: it may start threads. Returns the names of the locks that failed."""
    if sys.platform != "linux":
        return ["Landlock", "seccomp"]
    libc = _libc()
    hide()
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    libc.capset(struct.pack("=Ii", _LINUX_CAPABILITY_VERSION_3, 0), bytes(24))
    locked = {"Landlock": _landlock(libc), "seccomp": _seccomp(libc, threads)}
    return [name for name in locked if not locked[name]]


def parse(data: bytes, arguments: dict[str, Any]) -> tuple[dict[str, Any], list[bytes]]:
    """A parser that does nothing: ``parsers.run.missing_locks`` starts it to learn which locks are missing."""
    return {}, []


def _libc() -> ctypes.CDLL:
    return ctypes.CDLL(None, use_errno=True)


def _landlock(libc: ctypes.CDLL) -> bool:
    ruleset = _create_ruleset(libc)
    if ruleset < 0:
        return False
    package = os.path.dirname(os.path.abspath(__file__))
    core = os.path.join(os.path.dirname(package), "core")
    for path in (sys.prefix, sys.base_prefix, package, core, "/usr", "/lib", "/lib64"):
        with suppress(OSError):
            folder = os.open(path, os.O_PATH | os.O_CLOEXEC)
            libc.syscall(_LANDLOCK_ADD_RULE, ruleset, 1, struct.pack("=Qi", _READ_FILE | _READ_DIR, folder), 0)
            os.close(folder)
    locked: bool = libc.syscall(_LANDLOCK_RESTRICT_SELF, ruleset, 0) == 0
    os.close(ruleset)
    return locked


def _create_ruleset(libc: ctypes.CDLL) -> int:
    """A ruleset that forbids every access to files and networks, and every scope, that this kernel knows; -1 if none.

    Each newer kernel knows more bits of the three fields, and a kernel refuses bits that it does not know. So the known
    bits are found by trying."""
    fields, ruleset = [0, 0, 0], -1
    for at in range(3):
        for bits in range(32, -1, -1):
            fields[at] = (1 << bits) - 1
            made = libc.syscall(_LANDLOCK_CREATE_RULESET, struct.pack("=3Q", *fields), ctypes.c_size_t(24), 0)
            if made >= 0:
                if ruleset >= 0:
                    os.close(ruleset)
                ruleset = made
                break
    return ruleset


def _seccomp(libc: ctypes.CDLL, threads: bool) -> bool:
    machine = os.uname().machine
    if machine not in _MACHINES:
        return False
    program = _program(machine, threads)
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *step) for step in program))
    sock_fprog = struct.pack("@HP", len(program), ctypes.addressof(code))
    mode, flags = 1, 1  # SECCOMP_SET_MODE_FILTER, SECCOMP_FILTER_FLAG_TSYNC: all threads
    locked: bool = libc.syscall(_MACHINES[machine][1], mode, flags, sock_fprog) == 0
    return locked


def _program(machine: str, threads: bool) -> list[tuple[int, int, int, int]]:
    """The seccomp filter as BPF: steps of code, jump if true, jump if false, constant (struct seccomp_data)."""
    program = [(_LOAD, 0, 0, 4), (_EQUAL, 1, 0, _MACHINES[machine][0]), _REFUSE, (_LOAD, 0, 0, 0)]
    for name, *numbers in map(str.split, _ALLOWED.split(",")):
        number = dict(zip(_MACHINES, numbers, strict=True))[machine]
        if number == "-" or (name == "clone" and not threads):
            continue
        rule = [_ALLOW]
        if name in _ARGUMENTS:
            argument, bits, values = _ARGUMENTS[name]
            rule = [(_LOAD, 0, 0, 16 + 8 * argument), (_AND, 0, 0, bits)]  # the lower half: all of them are ints
            for value in values:
                rule += [(_EQUAL, 0, 1, value), _ALLOW]
            rule.append(_REFUSE)
        program += [(_EQUAL, 0, len(rule), int(number)), *rule]
    return [*program, (_AT_LEAST, 0, 1, _CLONE3), _UNKNOWN, _REFUSE]
