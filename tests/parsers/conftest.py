from __future__ import annotations

import io
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from parsers import run as runner
from parsers.run import Answer, Limits

Parse = Callable[..., Answer]


def start_of(folder: Path, code: str, *, head: str = "", before: str = "") -> str:
    """Write a parser named ``probe`` whose ``parse(data, arguments)`` has this body; returns the code that starts its child.

    ``head``: code of the module; ``before``: code that the child runs first."""
    module = f"import os, signal, socket, subprocess, sys, time\n{head}\ndef parse(data, arguments):\n"
    (folder / "probe.py").write_text(module + textwrap.indent(textwrap.dedent(code), "    "))
    return (
        "import sys; sys.path.insert(0, sys.argv.pop()); import parsers\n"
        f"parsers.__path__.append({str(folder)!r})\n{before}\n"
        "from parsers.child import main; main()"
    )


@pytest.fixture
def parse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Parse:
    """Run a parser with this code. ``locked=False`` simulates a machine without locks."""

    def parse_with(
        code: str,
        data: bytes = b"",
        arguments: dict[str, Any] | None = None,
        *,
        head: str = "",
        before: str = "",
        locked: bool = True,
        strict: bool = False,
        **limits: Any,
    ) -> Answer:
        if not locked:
            before = "from parsers import locks; locks.lock = lambda **_: ['all']"
        monkeypatch.setattr(runner, "_START", start_of(tmp_path, code, head=head, before=before))
        return runner.run("probe", io.BytesIO(data), arguments or {}, limits=Limits(**limits), strict=strict)

    return parse_with
