"""The targets of the contract suite: pairs of backend and server, and what each server enforces.

``STORE_TABLE=1 pytest tests/storage_backends`` prints the results of each test on each target. ``EVERY_STORE_TEST=1`` also
runs tests whose needs a server is not expected to meet; the sets below were found in this way.
"""

from __future__ import annotations

import contextlib
import os
import secrets
from collections.abc import Generator, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from storage_backends import open_store
from tests.memory_store import MemoryStore
from tests.servers import BUCKET, S3Server, minio_binary, start_minio, start_weed

pytest.register_assert_rewrite("tests.storage_backends.contract", "tests.storage_backends.contract_presigned")

ABILITIES = {"Multipart", "Presigns", "PresignsParts", "Copies", "ManagesBucket", "Archives"}
CONDITIONS = {"conditional_put", "conditional_complete", "copy_conditions", "part_copy_conditions"}
CHECKSUMS = {"checksums", "checksums_kept"}
KEYS = {"backslash_keys", "byte_order"}
UPLOADS = {"upload_dates", "smallest_part", "multiparts_by_prefix", "upload_gone"}
ACCESS = {"signatures", "post_policies"}
RULES = {"cors", "lifecycle"}
KEEPING = {"versions", "object_lock"}
SPEED = {"quick_requests"}  # a thousand in a few seconds
THAWS = {"thaws"}  # has storage classes, of which some need a thaw
WORDS = ABILITIES | CONDITIONS | CHECKSUMS | KEYS | UPLOADS | ACCESS | RULES | {"no_rules"} | KEEPING | SPEED | THAWS
HAS = {
    "memory": {"Multipart", "Copies"} | CONDITIONS | CHECKSUMS | KEYS | UPLOADS | SPEED,
    # Checks neither signatures nor lengths, checksums or conditions of a copy.
    "moto": ABILITIES
    | KEYS
    | {"conditional_put", "conditional_complete", "smallest_part", "multiparts_by_prefix"}
    | THAWS,
    "seaweedfs": WORDS - KEYS - THAWS - {"no_rules"},
    # Hides `a/1` while `a` exists, lists multiparts by exact key, and has its rules in variables of the server.
    "minio": WORDS - RULES - THAWS - {"byte_order", "multiparts_by_prefix"},
}


@dataclass(frozen=True)
class Target:
    server: str
    backend: str

    def __str__(self) -> str:
        return self.server if self.backend == self.server == "memory" else f"{self.backend}-on-{self.server}"


TARGETS = [Target("memory", "memory")] + [
    Target(server, backend)
    for server in ("moto", "seaweedfs", "minio")
    for backend in ("s3", "minio")
    if server != "minio" or minio_binary()
]


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "target" not in metafunc.fixturenames:
        return
    wanted: frozenset[str] = getattr(metafunc.function, "needs", frozenset())
    assert wanted <= WORDS, f"unknown needs: {wanted - WORDS}"
    everything = "EVERY_STORE_TEST" in os.environ
    metafunc.parametrize(
        "target",
        [
            pytest.param(target, id=str(target), marks=[pytest.mark.needs_minio] if target.server == "minio" else [])
            for target in TARGETS
            if wanted <= HAS[target.server] or (everything and (target.backend != "memory" or wanted <= HAS["memory"]))
        ],
        scope="session",
    )


class Stores:
    """Starts each server once, when a test first needs it."""

    def __init__(self, directory: Path, stack: contextlib.ExitStack):
        self._directory = directory
        self._stack = stack
        self._servers: dict[str, S3Server] = {}
        self._stores: dict[Target, Any] = {}

    def server(self, name: str) -> S3Server:
        if name not in self._servers:
            start = {"moto": _start_moto, "seaweedfs": start_weed, "minio": start_minio}[name]
            server = start(self._directory / name)
            self._stack.callback(server.stop)
            self._servers[name] = server
        return self._servers[name]

    def store(self, target: Target) -> Any:
        if target not in self._stores:
            if target.backend == "memory":
                self._stores[target] = MemoryStore()
            else:
                self._stores[target] = open_store(self.server(target.server).settings(target.backend))
                self._stores[target].ensure_bucket()
        return self._stores[target]


def _start_moto(directory: Path) -> S3Server:
    from moto.server import ThreadedMotoServer

    class MotoServer(S3Server):
        def stop(self) -> None:
            moto.stop()

    moto = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
    moto.start()
    host, port = moto.get_host_and_port()
    return MotoServer(f"http://{host}:{port}", "test-access-key", "test-secret-key", BUCKET)


@pytest.fixture(scope="session")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stores]:
    with contextlib.ExitStack() as stack:
        yield Stores(tmp_path_factory.mktemp("servers"), stack)


@pytest.fixture
def prefix() -> str:
    return f"t/{secrets.token_hex(6)}/"


@pytest.fixture
def store(stores: Stores, target: Target, prefix: str, request: pytest.FixtureRequest) -> Iterator[Any]:
    store = stores.store(target)
    yield store
    left = [info.key for info in store.list_objects("t/")]
    pending = list(store.list_multiparts("t/"))
    for key in left:
        store.delete(key)
    for ref in pending:
        store.abort_multipart(ref)
    if request.node.stash.get(_PASSED, False):
        assert not left, f"objects left behind: {left}"
        assert not pending, f"uploads left behind: {pending}"


_PASSED = pytest.StashKey[bool]()
_OUTCOMES: dict[str, dict[str, set[str]]] = {}


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    if report.when == "call":
        item.stash[_PASSED] = report.passed
    return report


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    name, bracket, parameters = report.nodeid.rpartition("::")[2].partition("[")
    target = next((str(target) for target in TARGETS if parameters.startswith(str(target))), None)
    if bracket and target and (report.when == "call" or report.failed):
        _OUTCOMES.setdefault(name, {}).setdefault(target, set()).add(report.outcome)


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if "STORE_TABLE" not in os.environ or not _OUTCOMES:
        return
    columns = [str(target) for target in TARGETS]
    width = max(map(len, _OUTCOMES))
    terminalreporter.section("stores: + holds, - does not, . not asked of it")
    terminalreporter.write_line(" " * width + "  " + "  ".join(columns))
    for name, found in _OUTCOMES.items():
        marks = ["." if not found.get(column) else "+" if found[column] == {"passed"} else "-" for column in columns]
        cells = "  ".join(mark.center(len(column)) for mark, column in zip(marks, columns, strict=True))
        terminalreporter.write_line(f"{name:<{width}}  {cells}")
