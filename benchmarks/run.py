"""Measures the gateway beside the same work without it: ``make bench``, ``make bench-quick``, ``make bench-growth``.

    python -m benchmarks.run [--quick | --growth] [--only NAME,NAME] [--out DIRECTORY]
    python -m benchmarks.run --only metadata,upload-raw --checkout OLD --against NEW     # two versions, alternately

Each scenario runs in rounds, in which all targets take turns; the median of the rounds counts. The figures to compare are
processor milliseconds for an operation and ratios within one run; requests a second are this machine's."""

from __future__ import annotations

import argparse
import os
import signal
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

from benchmarks import harness, load, report
from benchmarks.harness import MIB, ROOT, Measured, Stack
from benchmarks.load import Load
from benchmarks.report import Report, Row
from benchmarks.scenarios import SCENARIOS, Context, Scenario

GROWTH = ("upload-raw", "metadata", "list", "list-deep", "url", "search-words", "search-filter")
ROWS = (1_000, 100_000, 1_000_000)
CONNECTIONS = (1, 16, 64, 256)


class Suite:
    """One run: what it starts, and what it has found so far."""

    def __init__(self, args: argparse.Namespace, parts: ExitStack, directory: Path):
        self.args, self.parts, self.directory = args, parts, directory
        self.content = memoryview(os.urandom(args.size * MIB))
        self.deadline = time.monotonic() + args.minutes * 60
        self.wrk = load.has_wrk() and not args.no_wrk
        self.report = Report(options=vars(args))
        checkouts = [Path(path).resolve() for path in (args.checkout, args.against) if path]
        self.stacks = [
            harness.start_gateway(parts, path.name if args.checkout else "gateway", path, directory / f"data-{number}")
            for number, path in enumerate(checkouts or [ROOT])
        ]
        if not self.wrk:
            self.report.note("wrk is not installed (Debian: apt install wrk): the raw-socket client made all requests.")

    def run(self) -> None:
        chosen = [scenario for scenario in SCENARIOS if self._is_chosen(scenario)]
        if not self.args.checkout:
            self._start_others({target for scenario in chosen for target in scenario.targets})
        self._calibrate()
        self._memory("fresh")
        if self.args.growth:
            self._grow(chosen)
        for scenario in [] if self.args.growth else chosen:
            for stack in self.stacks:  # what a scenario prepares is no part of its first round
                for target in self._targets(scenario, stack):
                    scenario.targets[target](self._context(stack))
            self._measure(scenario, scenario.connections, self.args.rows)
        self._memory("after")

    def _is_chosen(self, scenario: Scenario) -> bool:
        if self.args.only:
            return scenario.name in self.args.only.split(",")
        return scenario.name in GROWTH if self.args.growth else scenario.quick or not self.args.quick

    def _start_others(self, wanted: set[str]) -> None:
        if "flask" in wanted:
            harness.start_flask(self.parts, self.stacks[0])
        if "tus" in wanted and (problem := harness.start_tus(self.parts, self.stacks[0])):
            self.report.note(f"@tus/server was not measured: {problem}.")

    def _calibrate(self) -> None:
        """What the clients can do at most."""
        with load.null_server() as address:
            requests = [load.request(address, "GET", "/")]
            clients: dict[str, Callable[[], Load]] = {
                "raw-socket client": lambda: load.drive(load.repeated(address, requests, once=False), 16, 1)
            }
            if self.wrk:
                clients["wrk"] = lambda: load.wrk(address, requests, 16, 1, once=False, directory=self.directory)
            for name, run in clients.items():
                found = run()
                self.report.client(name, found.done / found.seconds, 1_000 * found.client_cpu / found.sent)

    def _memory(self, moment: str) -> None:
        for stack in self.stacks:
            groups = stack.groups("gateway")
            stack.settle(groups)
            self.report.memory(stack.label, moment, harness.memory(groups))

    def _context(self, stack: Stack, rows: int = 0) -> Context:
        args = self.args
        return Context(stack, rows or args.rows, args.size * MIB, args.seconds, args.photos, self.content)

    def _targets(self, scenario: Scenario, stack: Stack) -> list[str]:
        """Those of the scenario that can run on this stack."""
        if self.args.checkout:
            return ["gateway"]
        return [target for target in scenario.targets if target in ("gateway", "bare") or target in stack.others]

    def _measure(self, scenario: Scenario, connections: int, rows: int) -> None:
        """All rounds of a scenario; the targets take turns."""
        found: dict[tuple[str, str], Row] = {}
        for number in range(self.args.rounds):
            if number and time.monotonic() > self.deadline:
                break
            turns = [(stack, target) for stack in self.stacks for target in self._targets(scenario, stack)]
            for stack, target in turns[number % len(turns) :] + turns[: number % len(turns)]:
                label = stack.label if target == "gateway" else target
                row = found.setdefault(
                    (stack.label, target), Row(scenario.name, scenario.title, label, connections, rows)
                )
                row.size = self.args.size if scenario.large else 0
                row.rounds.append(self._round(scenario, target, self._context(stack, rows), connections))
        for row in found.values():
            self.report.add(row)
        if self.args.against:
            self.report.compare(*found.values())

    def _round(self, scenario: Scenario, target: str, context: Context, connections: int) -> Measured:
        work, stack, seconds = scenario.targets[target](context), context.stack, context.seconds
        if work.requests:  # the first by itself, so that a refusal is seen before the load
            load.Connection(work.address).exchange(work.requests[0])
            work.requests = work.requests[1:] if work.once else work.requests

        def run(tick: Callable[[], None]) -> Load:
            if self.wrk and work.requests:
                options = {"once": work.once, "directory": self.directory}
                return load.wrk(work.address, work.requests, connections, seconds, **options, tick=tick)  # type: ignore[arg-type]
            return load.drive(work.connect, connections, seconds, tick=tick)

        return harness.measure(stack, target, run, factor=work.factor)

    def _grow(self, chosen: list[Scenario]) -> None:
        """The same with more rows, then with more connections."""
        for rows in ROWS:
            for scenario in chosen:
                self._measure(scenario, scenario.connections, rows)
        for connections in CONNECTIONS:
            for scenario in chosen:
                self._measure(scenario, connections, ROWS[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, one round, little data")
    parser.add_argument("--growth", action="store_true", help="up to a million rows and 256 connections")
    parser.add_argument("--only", default="", help="scenarios: " + ", ".join(scenario.name for scenario in SCENARIOS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one round of small requests")
    parser.add_argument("--rows", type=int, help="seeded files")
    parser.add_argument("--size", type=int, help="MiB of a large file")
    parser.add_argument("--photos", type=int)
    parser.add_argument("--minutes", type=float, default=12, help="afterwards each scenario gets one round only")
    parser.add_argument("--checkout", help="measure the gateway of this checkout")
    parser.add_argument("--against", help="and that of another one, alternately")
    parser.add_argument("--no-wrk", action="store_true", help="use the raw-socket client for everything")
    parser.add_argument("--out", help="write results.json and BENCHMARKS.md here")
    args = parser.parse_args()
    quick = {"rounds": 1, "seconds": 1.0, "rows": 5_000, "size": 64, "photos": 8}
    full = {"rounds": 3, "seconds": 2.0, "rows": 100_000, "size": 256, "photos": 16}
    for name, value in (quick if args.quick else full).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    if args.growth:
        args.minutes = 24 * 60
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    directory = Path(tempfile.mkdtemp(prefix="gateway-benchmark-"))
    directory.chmod(0o755)  # as root, PostgreSQL runs as another user
    with harness.parts_in(directory) as parts:
        suite = Suite(args, parts, directory)
        suite.run()
    if args.out:
        report.write(suite.report, Path(args.out))


if __name__ == "__main__":
    main()
