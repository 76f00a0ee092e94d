from __future__ import annotations

import re

import pytest

from tests.paths import ROOT

# Releases before these have known faults that this gateway would be exposed to.
FLOORS = {"pillow": (13, 0, 0), "werkzeug": (3, 1, 6), "flask": (3, 1, 3), "pyjwt": (2, 15, 0)}


@pytest.mark.parametrize("lock", sorted(path.name for path in ROOT.glob("requirements*.txt")))
def test_T126_every_package_is_pinned_by_hash(lock: str) -> None:
    lines = (ROOT / lock).read_text().replace("\\\n", " ").splitlines()
    pins = [line for line in lines if line.strip() and not line.lstrip().startswith("#")]
    assert pins
    assert [
        line for line in pins if not re.match(r"[\w.-]+(\[[\w,-]+\])?==[\w.+!-]+ .*--hash=sha256:[0-9a-f]{64}", line)
    ] == []


def test_T126_no_package_is_older_than_its_last_serious_fault() -> None:
    pins = dict(
        re.findall(r"^([\w.-]+)(?:\[[\w,-]+\])?==([\d.]+)", (ROOT / "requirements.txt").read_text(), re.MULTILINE)
    )
    assert {name: pins[name] for name, floor in FLOORS.items() if tuple(map(int, pins[name].split("."))) < floor} == {}
