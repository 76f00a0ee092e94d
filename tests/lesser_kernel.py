"""``python lesser_kernel.py landlock|seccomp|nothing COMMAND…``: run a command as on a kernel without one of the two.

Capabilities are always dropped, as in the image: with all of them, the kernel hides no process of root from another."""

from __future__ import annotations

import ctypes
import os
import platform
import struct
import sys

SECCOMP = {"x86_64": 317, "aarch64": 277}
_PR_SET_SECCOMP, _PR_CAPBSET_DROP, _PR_SET_NO_NEW_PRIVS = 22, 24, 38


def main(lacking: str, *command: str) -> None:
    libc = ctypes.CDLL(None, use_errno=True)
    calls = {"landlock": (444, 445, 446), "seccomp": (SECCOMP[platform.machine()],), "nothing": ()}[lacking]
    for capability in range(64):
        libc.prctl(_PR_CAPBSET_DROP, capability, 0, 0, 0)  # root would get them back from the new program
    # Load the call's number; where it is one of these, ENOSYS; else allow.
    program = [(0x20, 0, 0, 0)]
    for call in calls:
        program += [(0x15, 0, 1, call), (0x06, 0, 0, 0x50000 | 38)]
    program.append((0x06, 0, 0, 0x7FFF0000))
    code = ctypes.create_string_buffer(b"".join(struct.pack("=HBBI", *line) for line in program))
    filter = ctypes.create_string_buffer(struct.pack("@HP", len(program), ctypes.addressof(code)))
    libc.prctl(_PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0)
    if libc.prctl(_PR_SET_SECCOMP, 2, filter, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "seccomp")
    os.execvp(command[0], command)


if __name__ == "__main__":
    main(*sys.argv[1:])
