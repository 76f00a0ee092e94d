"""Measures the gateway beside the same work without it: ``make bench``, ``make bench-quick``, ``make bench-growth``.

    python -m benchmarks.run [--quick | --growth] [--only NAME,NAME] [--out DIRECTORY]
    python -m benchmarks.run --only metadata,upload-raw --checkout OLD --against NEW     # two versions, alternately

Each scenario runs in rounds, in which all targets take turns; the median of the rounds counts. The figures to compare are
processor milliseconds for an operation and ratios within one run; requests a second are this machine's."""

from __future__ import annotations

import argparse
import os
import shutil
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
from benchmarks.scenarios import GROWTH, QUICK, SCENARIOS, Context, Scenario, Work

CONNECTIONS = (1, 16, 64, 256)
UNIQUE = 3_000  # requests a second that are sent only once: more than any target answers
QUICKLY = {"rounds": 1, "seconds": 1.0, "rows": [5_000], "size": 64, "photos": 8}
USUALLY = {"rounds": 3, "seconds": 2.0, "rows": [50_000], "size": 256, "photos": 16}


class Suite:
    """One run: what it starts, and what it has found so far."""

    def __init__(self, args: argparse.Namespace, parts: ExitStack, directory: Path):
        self.args, self.parts, self.directory = args, parts, directory
        self.content = memoryview(os.urandom(args.size * MIB))
        self.deadline = time.monotonic() + args.minutes * 60
        self.report = Report(options=vars(args))
        checkouts = [Path(path).resolve() for path in (args.checkout, args.against) if path]
        self.stacks = [
            harness.start_gateway(parts, path.name if args.checkout else "gateway", path, directory / f"data-{number}")
            for number, path in enumerate(checkouts or [ROOT])
        ]
        self.wrk = load.has_wrk() and not args.no_wrk
        if not self.wrk:
            self.report.note("wrk was not used: the raw-socket client made all requests.")

    def run(self) -> None:
        args = self.args
        names = args.only or (GROWTH if args.growth else QUICK if args.quick else "")
        chosen = [scenario for scenario in SCENARIOS if not names or scenario.name in names.split(",")]
        if not args.checkout:
            self._start_others({target for scenario in chosen for target in scenario.targets})
        self._calibrate()
        self._memory("fresh")
        for rows in args.rows:
            for stack in self.stacks:
                began = time.monotonic()
                stack.seed(f"rows-{rows}", rows)
                size = harness.database_size(stack) / MIB
                self.report.note(
                    f"{rows:,} files took {time.monotonic() - began:.0f} s to seed; PostgreSQL has {size:,.0f} MiB."
                )
            for scenario in chosen:
                self._measure(scenario, scenario.connections, rows, "rows")
        for connections in CONNECTIONS if args.growth else ():
            for scenario in chosen:
                self._measure(scenario, connections, args.rows[0], "connections")
        self._memory("after")

    def _start_others(self, wanted: set[str]) -> None:
        if "flask" in wanted:
            harness.start_flask(self.parts, self.stacks[0])
        if "tus" in wanted and (problem := harness.start_tus(self.parts, self.stacks[0])):
            self.report.note(f"@tus/server was not measured: {problem}.")

    def _calibrate(self) -> None:
        """What the clients can do at most."""
        with load.null_server() as address:
            requests, seconds = [load.request(address, "GET", "/")], self.args.seconds
            clients: dict[str, Callable[[], Load]] = {
                "raw-socket client": lambda: load.drive(load.repeated(address, requests, once=False), 16, seconds)
            }
            if self.wrk:
                clients["wrk"] = lambda: load.wrk(address, requests, 16, seconds, once=False, directory=self.directory)
            for name, run in clients.items():
                self.report.client(name, run())

    def _memory(self, moment: str) -> None:
        groups = self.stacks[0].groups("gateway")
        harness.settle(groups)
        self.report.memory_of(moment, harness.memory(groups))

    def _targets(self, scenario: Scenario, stack: Stack) -> list[str]:
        """Those of the scenario that can run on this stack. Growth is the gateway's, and that of pages by OFFSET."""
        if self.args.checkout or (self.args.growth and scenario.name != "list-deep"):
            return ["gateway"]
        return [target for target in scenario.targets if target in ("gateway", "bare") or target in stack.others]

    def _measure(self, scenario: Scenario, connections: int, rows: int, axis: str) -> None:
        """All rounds of a scenario, which is prepared once; the targets take turns."""
        args, turns = self.args, list[tuple[Row, Work, harness.Groups]]()
        for stack in self.stacks:
            context = Context(stack, rows, args.size * MIB, args.seconds, args.photos, self.content)
            for target in self._targets(scenario, stack):
                label, size = stack.label if target == "gateway" else target, args.size if scenario.large else 0
                row = Row(scenario.name, scenario.title, label, connections, rows, size, axis)
                turns.append((row, scenario.targets[target](context), stack.groups(target)))
            harness.settle(stack.groups("gateway"))
        for number in range(args.rounds):
            if number and time.monotonic() > self.deadline:
                self.report.note(f"{scenario.title}: {number} of {args.rounds} rounds, since time was short.")
                break
            for row, work, groups in turns[number % len(turns) :] + turns[: number % len(turns)]:
                row.rounds.append(self._round(work, groups, connections))
        for row, _, _ in turns:
            self.report.add(row)
        if args.against:
            self.report.compare(turns[0][0], turns[1][0])

    def _round(self, work: Work, groups: harness.Groups, connections: int) -> Measured:
        seconds, once = self.args.seconds, work.unique is not None
        requests = [work.unique() for _ in range(round(seconds * UNIQUE))] if work.unique else work.requests
        if requests:  # the first by itself, so that a refusal is seen before the load
            load.Connection(work.address).exchange(requests[0])
            requests = requests[1:] if once else requests
        connect = work.steps or load.repeated(work.address, requests, once=once)

        def run(tick: Callable[[], None]) -> Load:
            if self.wrk and requests:
                options = {"once": once, "directory": self.directory, "tick": tick}
                return load.wrk(work.address, requests, connections, seconds, **options)  # type: ignore[arg-type]
            return load.drive(connect, connections, seconds, tick=tick)

        return harness.measure(groups, run, factor=work.factor)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--quick", action="store_true", help="fewer scenarios, one round, little data")
    parser.add_argument("--growth", action="store_true", help="up to a million rows and 256 connections")
    parser.add_argument("--only", help="scenarios: " + ", ".join(scenario.name for scenario in SCENARIOS))
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--seconds", type=float, help="of one round of small requests")
    parser.add_argument(
        "--rows", type=lambda text: [int(n) for n in text.split(",")], help="seeded files; for --growth several numbers"
    )
    parser.add_argument("--size", type=int, help="MiB of a large file")
    parser.add_argument("--photos", type=int)
    parser.add_argument("--minutes", type=float, default=13, help="afterwards each scenario gets one round only")
    parser.add_argument("--checkout", help="measure the gateway of this checkout")
    parser.add_argument("--against", help="and that of another one, alternately")
    parser.add_argument("--no-wrk", action="store_true", help="use the raw-socket client for everything")
    parser.add_argument("--out", help="write results.json and BENCHMARKS.md here")
    args = parser.parse_args()
    if args.out and args.checkout:
        parser.error("--out is for measurements of this checkout")
    if args.growth:
        args.minutes, args.rows = 24 * 60, args.rows or [1_000, 100_000, 1_000_000]
    for name, value in (QUICKLY if args.quick else USUALLY).items():
        if getattr(args, name) is None:
            setattr(args, name, value)
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, lambda *_: sys.exit(1))
    directory = Path(tempfile.mkdtemp(prefix="gateway-benchmark-"))
    directory.chmod(0o755)  # as root, PostgreSQL runs as another user
    with ExitStack() as parts:  # what was started is stopped in reverse order
        parts.callback(shutil.rmtree, directory, ignore_errors=True)
        suite = Suite(args, parts, directory)
        suite.run()
    if args.out:
        report.write(suite.report, Path(args.out))


if __name__ == "__main__":
    main()
