"""Which locks this kernel, or the container, denies to the processes that parse untrusted files (parsers/locks.py).

In production nothing is parsed without all of them (``strict``), unless ALLOW_WEAK_SANDBOX is on."""

from __future__ import annotations

from parsers.sandbox import missing
from services.upkeep.doctor import Check, Failed, NotTried, check

_LOCKS = {
    "Landlock": "A decoder taken over by a hostile file could read all that the gateway's user may read.",
    "seccomp": "A decoder taken over by a hostile file could start programs, signal processes and use the network.",
}
_REFUSED = " No worker starts and no preview is made, unless ALLOW_WEAK_SANDBOX=on."


def examine(*, strict: bool) -> list[Check]:
    """One check for each lock."""
    found = missing()

    def attempt(lock: str) -> str:
        if lock in found:
            raise (Failed if strict else NotTried)("this kernel, or the container, does not offer it")
        return "parsers are locked in"

    return [
        check(f"sandbox: {lock}", lambda lock=lock: attempt(lock), consequence + (_REFUSED if strict else ""))  # type: ignore[misc]
        for lock, consequence in _LOCKS.items()
    ]
