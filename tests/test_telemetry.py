"""Sums of metrics over several processes."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

from tests.paths import ROOT

COUNT = """
import sys, telemetry
from pathlib import Path
telemetry.share_metrics(Path(sys.argv[1]))
telemetry.metrics().job("check_file", "ok", 0.1)
sys.stdout.write(telemetry.metrics().exposition().decode())
sys.stdout.flush()
sys.stdin.read()
"""


def start(folder: Path) -> subprocess.Popen[bytes]:
    return subprocess.Popen(
        [sys.executable, "-c", COUNT, str(folder)], cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE
    )


def counted(process: subprocess.Popen[bytes]) -> float:
    assert process.stdout is not None
    for line in process.stdout:
        if line.startswith(b"gateway_job_seconds_count"):
            return float(line.split()[-1])
    raise AssertionError("it counted nothing")


def test_processes_share_counters_and_a_new_run_starts_at_zero(tmp_path: Path) -> None:
    first = start(tmp_path)
    assert counted(first) == 1
    second = start(tmp_path)
    assert counted(second) == 2
    second.communicate()
    third = start(tmp_path)
    assert counted(third) == 3  # counts of the ended second process remain
    for process in (first, third):
        process.communicate()
    last = start(tmp_path)
    assert counted(last) == 1
    last.communicate()
