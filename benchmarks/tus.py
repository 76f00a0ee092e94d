"""Measures speed and memory of resumable uploads through this gateway, through @tus/server with @tus/s3-store, and to the
bare bucket, alternately on one SeaweedFS.

    python -m benchmarks.tus [--rounds 3] [--size 256] [--seconds 900]

It needs Linux (memory is read from /proc), node and npm. All servers listen on loopback and are removed afterwards."""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import urllib3

from embedded import postgres
from embedded.child import Child, free_port, last_lines
from storage_backends import open_store
from storage_backends.base import Part
from storage_backends.presign import Presigner
from tests.servers import start_weed

ROOT = Path(__file__).resolve().parents[1]
MIB = 1024 * 1024
CHUNK = 8 * MIB
KEY = "benchmark-admin-key"
HTTP = urllib3.PoolManager(retries=False, timeout=300)


class Target(Protocol):
    name: str
    pid: int | None

    def one(self, content: memoryview) -> None:
        """Upload it in one request."""

    def chunks(self, content: memoryview) -> None:
        """Upload it in requests of CHUNK bytes, one after the other."""


@dataclass
class TusTarget:
    name: str
    pid: int | None
    endpoint: str
    headers: dict[str, str]

    def one(self, content: memoryview) -> None:
        self._upload(content, len(content))

    def chunks(self, content: memoryview) -> None:
        self._upload(content, CHUNK)

    def _upload(self, content: memoryview, step: int) -> None:
        base = {**self.headers, "Tus-Resumable": "1.0.0"}
        created = HTTP.request("POST", self.endpoint, headers={**base, "Upload-Length": str(len(content))})
        assert created.status == 201, created.data
        url = created.headers["Location"]
        for at in range(0, len(content), step):
            piece = content[at : at + step]
            headers = {
                **base,
                "Content-Type": "application/offset+octet-stream",
                "Upload-Offset": str(at),
                "Content-Length": str(len(piece)),
            }
            answer = HTTP.request("PATCH", url, body=piece, headers=headers)  # type: ignore[arg-type]
            assert answer.status == 204, answer.data
            assert int(answer.headers["Upload-Offset"]) == at + len(piece)


@dataclass
class BucketTarget:
    presigner: Presigner
    store: Any
    name: str = "the bare bucket"
    pid: int | None = None

    def one(self, content: memoryview) -> None:
        self._put(self.presigner.url("PUT", "bare", expires_in=3600), content)

    def chunks(self, content: memoryview) -> None:
        ref = self.store.create_multipart("bare", content_type="application/octet-stream")
        parts = []
        for number, at in enumerate(range(0, len(content), CHUNK), 1):
            piece = content[at : at + CHUNK]
            query = {"partNumber": str(number), "uploadId": ref.upload_id}
            url = self.presigner.url("PUT", "bare", expires_in=3600, query=query)
            parts.append(Part(number, len(piece), self._put(url, piece).strip('"')))
        self.store.complete_multipart(ref, parts)

    @staticmethod
    def _put(url: str, body: memoryview) -> str:
        answer = HTTP.request("PUT", url, body=body, headers={"Content-Length": str(len(body))})  # type: ignore[arg-type]
        assert answer.status == 200, answer.data
        return answer.headers["ETag"]


# -- what is measured --------------------------------------------------------------------------------------------------


def family(pid: int) -> list[int]:
    """The process and its descendants."""
    found = [pid]
    for children in Path(f"/proc/{pid}/task").glob("*/children"):
        with contextlib.suppress(OSError):
            found += [member for child in children.read_text().split() for member in family(int(child))]
    return found


def memory(pid: int, field: str) -> int:
    """VmRSS or VmHWM (the peak since it was last reset), in bytes."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith(field + ":"):
            return int(line.split()[1]) * 1024
    return 0


def cpu(pids: list[int]) -> float:
    """Seconds of processor time that these processes have used."""
    ticks = 0
    for pid in pids:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
        ticks += int(fields[11]) + int(fields[12])
    return ticks / os.sysconf("SC_CLK_TCK")


@dataclass(frozen=True)
class Measured:
    seconds: float
    peak: int  # bytes, of the process that had the most
    grown: int  # bytes, peak above what it had before
    cpu: float  # seconds


def measure(target: Target, mode: str, content: memoryview) -> Measured:
    pids = family(target.pid) if target.pid else []
    for pid in pids:
        with contextlib.suppress(PermissionError):  # only root may, of a gateway that hides its memory
            Path(f"/proc/{pid}/clear_refs").write_text("5")  # resets VmHWM
    before = {pid: memory(pid, "VmRSS") for pid in pids}
    used, begun = cpu(pids), time.monotonic()
    getattr(target, mode)(content)
    seconds = time.monotonic() - begun
    peaks = {pid: memory(pid, "VmHWM") for pid in pids}
    return Measured(
        seconds,
        max(peaks.values(), default=0),
        max((peaks[pid] - before[pid] for pid in pids), default=0),
        cpu(pids) - used,
    )


# -- what is started ---------------------------------------------------------------------------------------------------


@contextlib.contextmanager
def server(command: list[str], directory: Path, environ: dict[str, str], url: str) -> Iterator[int]:
    """Start a server and wait until ``url`` answers; gives its process id. Raises RuntimeError if it ends before."""
    child = Child.start(
        command[-1], command, cwd=directory, environ={**os.environ, **environ}, log=directory / "server.log"
    )
    try:
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            with contextlib.suppress(urllib3.exceptions.HTTPError):
                if HTTP.request("GET", url, timeout=5).status < 500:
                    break
            if not child.running:
                raise RuntimeError(last_lines(child.log, 20))
            time.sleep(0.1)
        yield child.process.pid
    finally:
        child.stop()


@contextlib.contextmanager
def targets(directory: Path) -> Iterator[list[Target]]:
    npm, node = shutil.which("npm"), shutil.which("node")
    if npm is None or node is None:
        raise SystemExit("node and npm are needed for @tus/server")
    packages = directory / "packages"
    shutil.copytree(Path(__file__).parent / "tus_server", packages)
    subprocess.run([npm, "ci", "--ignore-scripts"], cwd=packages, check=True, capture_output=True, timeout=300)
    (directory / "gateway").mkdir()
    (directory / "weed").mkdir()
    with contextlib.ExitStack() as parts:
        database = postgres.start(directory / "postgres", fsync=False)
        parts.callback(database.stop)
        bucket = start_weed(directory / "weed")
        parts.callback(bucket.stop)
        s3 = {
            "S3_ENDPOINT": bucket.endpoint,
            "S3_ACCESS_KEY": bucket.access_key,
            "S3_SECRET_KEY": bucket.secret_key,
            "S3_BUCKET": bucket.bucket,
        }
        ports = [free_port(), free_port()]
        gateway = {
            **s3,
            "PORT": str(ports[0]),
            "DATABASE_URL": database.url,
            "DATA_DIR": str(directory / "var"),
            "ADMIN_API_KEY": KEY,
            "RATE_LIMITS": "off",
        }
        app = [sys.executable, str(ROOT / "app.py")]
        subprocess.run(
            [*app, "bootstrap"], cwd=directory, env={**os.environ, **gateway}, check=True, capture_output=True
        )
        url = f"http://127.0.0.1:{ports[0]}"
        ours = parts.enter_context(server([*app, "serve"], directory / "gateway", gateway, f"{url}/readyz"))
        reference = f"http://127.0.0.1:{ports[1]}"
        theirs = parts.enter_context(
            server([node, "server.mjs"], packages, {**s3, "PORT": str(ports[1])}, f"{reference}/files")
        )
        presigner = Presigner(
            bucket.endpoint,
            region="us-east-1",
            bucket=bucket.bucket,
            access_key=bucket.access_key,
            secret_key=bucket.secret_key,
        )
        yield [
            TusTarget("this gateway", ours, f"{url}/api/tus", {"Authorization": f"Bearer {KEY}"}),
            TusTarget("@tus/server", theirs, f"{reference}/files", {}),
            BucketTarget(presigner, open_store(bucket.settings())),
        ]


def run(rounds: int, size: int, seconds: float) -> None:
    content = memoryview(hashlib.shake_256(b"benchmark").digest(size * MIB))
    results: dict[tuple[str, str], list[Measured]] = {}
    with tempfile.TemporaryDirectory(prefix="gateway-benchmark-") as folder:
        Path(folder).chmod(0o755)  # PostgreSQL runs as another user when this is root
        with targets(Path(folder)) as compared:
            bucket = next(target.store for target in compared if isinstance(target, BucketTarget))
            deadline = time.monotonic() + seconds
            for target in compared:
                target.one(content[: 16 * MIB])  # connections, caches, code: not measured
            for number in range(rounds):
                for mode in ("one", "chunks"):
                    for target in compared[number % 3 :] + compared[: number % 3]:
                        if time.monotonic() > deadline:
                            break
                        results.setdefault((target.name, mode), []).append(measure(target, mode, content))
                        for info in list(bucket.list_objects("")):
                            bucket.delete(info.key)
    report(results, size)


def report(results: dict[tuple[str, str], list[Measured]], size: int) -> None:
    titles = {"one": "one PATCH", "chunks": f"chunks of {CHUNK // MIB} MiB"}
    print(f"{size} MiB; medians; peak and growth are of the process that had the most\n")
    print("| | way | MiB/s (lowest-highest) | x bucket's time | peak RSS | grew by | CPU s | times |")
    print("| --- | --- | --- | --- | --- | --- | --- | --- |")
    for (name, mode), measured in sorted(results.items(), key=lambda item: (item[0][1], item[0][0])):
        bare = statistics.median(m.seconds for m in results.get(("the bare bucket", mode), measured))
        taken = sorted(m.seconds for m in measured)
        median = statistics.median(taken)
        memory = (
            f"{statistics.median(m.peak for m in measured) / MIB:.0f} MiB"
            f" | {statistics.median(m.grown for m in measured) / MIB:.0f} MiB"
            f" | {statistics.median(m.cpu for m in measured):.2f}"
            if measured[0].peak
            else "| |"
        )
        print(
            f"| {name} | {titles[mode]} | {size / median:.0f} ({size / taken[-1]:.0f}-{size / taken[0]:.0f})"
            f" | {median / bare:.2f} | {memory} | {len(measured)} |"
        )


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n\n")[0])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--size", type=int, default=256, help="MiB")
    parser.add_argument("--seconds", type=float, default=900, help="no further upload is begun after this time")
    args = parser.parse_args()
    run(args.rounds, args.size, args.seconds)
