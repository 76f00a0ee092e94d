"""The benchmark suite runs: it starts everything, measures, writes its files, and leaves nothing behind."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import xml.etree.ElementTree as ET
from pathlib import Path

import pytest

from tests.paths import ROOT


@pytest.mark.skipif(sys.platform != "linux", reason="it reads /proc")
def test_the_smallest_run_writes_its_figures_and_removes_its_data(tmp_path: Path) -> None:
    temporary, out = tmp_path / "temporary", tmp_path / "out"
    temporary.mkdir()
    tmp_path.chmod(0o755)
    options = ["--only=metadata,direct", "--rounds=1", "--seconds=0.2", "--rows=20", "--size=16", "--no-wrk"]
    command = [sys.executable, "-m", "benchmarks.run", *options, f"--out={out}"]
    done = subprocess.run(
        command, cwd=ROOT, env={**os.environ, "TMPDIR": str(temporary)}, capture_output=True, text=True, timeout=110
    )
    assert done.returncode == 0, done.stderr

    run = json.loads((out / "benchmarks" / "results.json").read_text())
    targets = {("metadata", to) for to in ("gateway", "bare", "flask")} | {("direct", to) for to in ("gateway", "bare")}
    assert {(row["scenario"], row["target"]) for row in run["rows"]} == targets
    for row in run["rows"]:
        assert row["errors"] == 0, done.stdout
        assert row["operations"] > 0
        assert row["per_second"][1] <= row["per_second"][0] <= row["per_second"][2]
    assert all(size > 0 for sizes in run["memory"].values() for size in sizes.values())
    text = (out / "BENCHMARKS.md").read_text()
    assert all(row["title"] in text for row in run["rows"])
    ET.parse(out / "benchmarks" / "cpu.svg")

    assert not [path for path in temporary.iterdir() if path.name.startswith("gateway-benchmark-")]
