"""What a run found: a line as soon as each scenario ends, then JSON, BENCHMARKS.md and its plots."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.harness import ROOT, Measured
from benchmarks.load import Load

Found = dict[str, Any]
HOW = """\
Written by `make bench` ([benchmarks/](benchmarks)), the growth below by `make bench-growth`.

Each scenario ran in rounds, in which the targets took turns on one machine with one PostgreSQL and one bucket (SeaweedFS):
**gateway**, this project as `python app.py` starts it; **bare**, the same bytes to and from the bucket with presigned URLs, or
the same rows from PostgreSQL by prepared statements, with no gateway between; **Flask**, what one would write without the
gateway ([flask_app.py](benchmarks/flask_app.py)), which checks neither who asks nor what a file contains; **@tus/server** with
`@tus/s3-store`.

CPU ms are user and system time of all server processes divided by the operations, including the jobs that an upload leaves to
the worker. Figures are medians of the rounds, in brackets the lowest and highest. Compare ratios within a run, and CPU ms:
requests a second are those of a machine on which clients, servers and other programs share the processors.
[docs/scaling.md](docs/scaling.md) says what follows from them."""


@dataclass
class Row:
    """The rounds of one scenario on one target."""

    scenario: str
    title: str
    target: str
    connections: int
    rows: int
    size: int  # MiB of an operation, where it is about bytes
    axis: str  # what grows in a run of --growth: "rows" or "connections"
    rounds: list[Measured] = field(default_factory=list)

    def as_dict(self) -> Found:
        """For JSON: medians, and the lowest and highest of the rounds."""
        loads, cpus = [one.load for one in self.rounds], [sum(one.cpu.values()) for one in self.rounds]
        rates = [one.load.done / max(1, one.load.sent) * one.operations / one.load.seconds for one in self.rounds]
        middle = statistics.median
        return {
            "scenario": self.scenario,
            "title": self.title,
            "target": self.target,
            "connections": self.connections,
            "rows": self.rows,
            "size_mib": self.size,
            "axis": self.axis,
            "rounds": len(self.rounds),
            "operations": round(sum(one.operations for one in self.rounds)),
            "errors": sum(load.errors for load in loads),
            "cpu_ms": _spread(cpus, 3),
            "cpu_ms_by_group": {g: round(middle(one.cpu[g] for one in self.rounds), 3) for g in self.rounds[0].cpu},
            "per_second": _spread(rates, 2),
            "p50_ms": round(middle(load.p50 for load in loads), 1),
            "p95_ms": round(middle(load.p95 for load in loads), 1),
            "max_ms": round(max(load.worst for load in loads), 1),
            "client_cpu_ms": round(middle(1_000 * one.load.client_cpu / one.operations for one in self.rounds), 3),
            "peak_rss_mib": round(max(one.peak for one in self.rounds)),
            "foreign_cores": round(middle(one.foreign for one in self.rounds), 2),
        }


def _spread(values: list[float], digits: int) -> list[float]:
    """Median, lowest, highest."""
    return [round(value, digits) for value in (statistics.median(values), min(values), max(values))]


@dataclass
class Report:
    """One run's results; each is printed when it is known."""

    options: Found
    notes: list[str] = field(default_factory=list)
    clients: dict[str, Found] = field(default_factory=dict)
    memory: dict[str, dict[str, int]] = field(default_factory=dict)
    rows: list[Found] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    def client(self, name: str, load: Load) -> None:
        self.clients[name] = {
            "per_second": round(load.done / load.seconds),
            "cpu_ms": round(1_000 * load.client_cpu / load.sent, 4),
        }
        print(f"{name}, with a server that does nothing: {self.clients[name]}", flush=True)

    def memory_of(self, moment: str, sizes: dict[str, float]) -> None:
        self.memory[moment] = {name: round(size) for name, size in sizes.items()}
        print(f"memory {moment}: {self.memory[moment]} MiB", flush=True)

    def add(self, row: Row) -> None:
        found = row.as_dict()
        self.rows.append(found)
        (cpu, low, high), groups = found["cpu_ms"], found["cpu_ms_by_group"]
        parts = " ".join(f"{name} {ms:.2f}" for name, ms in groups.items() if ms)
        errors = f" {found['errors']} ERRORS {row.rounds[0].load.first_error}" if found["errors"] else ""
        print(
            f"{row.scenario:15} {row.target:8} {row.connections:3} {cpu:8.2f} CPU ms ({low:.2f}-{high:.2f}: {parts})"
            f" {found['per_second'][0]:9.1f}/s p50 {found['p50_ms']:.1f} p95 {found['p95_ms']:.1f} ms"
            f" {found['peak_rss_mib']} MiB, others {found['foreign_cores']} cores{errors}",
            flush=True,
        )

    def compare(self, old: Row, new: Row) -> None:
        """Print the new version's processor time as a multiple of the old one's, round by round."""
        pairs = [sum(n.cpu.values()) / sum(o.cpu.values()) for o, n in zip(old.rounds, new.rounds, strict=True)]
        middle, low, high = _spread(pairs, 2)
        print(f"{new.scenario:15} {new.target} is {middle:.2f} of {old.target} ({low:.2f}-{high:.2f})", flush=True)


def write(report: Report, directory: Path) -> None:
    """Write the run's JSON, and BENCHMARKS.md with plots from this run and the last one of the other kind."""
    results = directory / "benchmarks"
    results.mkdir(parents=True, exist_ok=True)
    commit = subprocess.run(["git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"], capture_output=True, text=True)
    found = {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": commit.stdout.strip(),
        "machine": _machine(),
        **asdict(report),
    }
    name = "growth.json" if report.options["growth"] else "results.json"
    (results / name).write_text(json.dumps(found, ensure_ascii=False) + "\n")
    sections = ["# Benchmarks", HOW]
    for name, render in (("results.json", _results), ("growth.json", _growth)):
        if (results / name).exists():
            sections += render(json.loads((results / name).read_text()), results)
    (directory / "BENCHMARKS.md").write_text("\n\n".join(sections) + "\n")


def _machine() -> str:
    lines = Path("/proc/cpuinfo").read_text().splitlines()
    model = next((line.partition(": ")[2] for line in lines if line.startswith("model name")), platform.machine())
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    return f"{os.cpu_count()} processors ({model}), {gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


# -- BENCHMARKS.md ---------------------------------------------------------------------------------------------------


def _about(run: Found) -> str:
    options, rows = run["options"], ", ".join(f"{n:,}" for n in run["options"]["rows"])
    foreign = statistics.median(row["foreign_cores"] for row in run["rows"])
    return (
        f"Run of {run['at']}, commit {run['commit']}, on {run['machine']}. {options['rounds']} rounds of"
        f" {options['seconds']:g} s; {rows} seeded files. Other programs kept {foreign:.1f} cores busy meanwhile."
    )


def _results(run: Found, results: Path) -> list[str]:
    scenarios = dict[str, dict[str, Found]]()
    for row in run["rows"]:
        scenarios.setdefault(row["scenario"], {})[row["target"]] = row
    large = {name: rows for name, rows in scenarios.items() if rows["gateway"]["size_mib"]}
    small = {name: rows for name, rows in scenarios.items() if name not in large}
    (results / "cpu.svg").write_text(plots.bars(small))
    clients = "; ".join(
        f"{name} {c['per_second']:,}/s, {c['cpu_ms']} CPU ms each" for name, c in run["clients"].items()
    )
    return [
        _about(run),
        f"What the clients can do at most, at a server that does nothing: {clients}.",
        *run["notes"],
        "## Requests",
        "![Processor time of an operation](benchmarks/cpu.svg)",
        _table(
            "|connections|CPU ms|server|worker|PostgreSQL|bucket|a second|p50 ms|p95 ms|max ms|bare: CPU ms, a second"
            "|Flask: CPU ms, a second",
            [_small(rows) for rows in small.values()],
        ),
        f"## Files of {run['options']['size']} MiB",
        _table(
            "|MiB/s|of bare|CPU ms for a MiB|peak MiB|bare: MiB/s, CPU ms|Flask: MiB/s, CPU ms|@tus/server: MiB/s, CPU ms",
            [_large(rows) for rows in large.values()],
        ),
        "## Memory",
        "MiB resident (PSS: a page that processes share counts in parts), after the start and after the run.",
        _table(
            "|" + "|".join(run["memory"]["fresh"]),
            [[moment, *map(str, sizes.values())] for moment, sizes in run["memory"].items()],
        ),
    ]


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.split("|")
    return "\n".join(f"| {' | '.join(line)} |" for line in (columns, ["---", *["---:"] * (len(columns) - 1)], *rows))


def _spread_of(values: list[float], scale: float = 1) -> str:
    middle, low, high = (_number(value * scale) for value in values)
    return f"{middle} ({low}-{high})" if low != high else middle


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _title(row: Found) -> str:
    return row["title"] + (f" ({row['errors']} errors)" if row["errors"] else "")


def _small(rows: dict[str, Found]) -> list[str]:
    row = rows["gateway"]
    groups = [_number(row["cpu_ms_by_group"][name]) for name in ("server", "worker", "postgres", "bucket")]
    times = [_number(row[name]) for name in ("p50_ms", "p95_ms", "max_ms")]
    others = [
        f"{_number(rows[name]['cpu_ms'][0])}, {_number(rows[name]['per_second'][0])}" if name in rows else ""
        for name in ("bare", "flask")
    ]
    cpu, rate = f"**{_spread_of(row['cpu_ms'])}**", _spread_of(row["per_second"])
    return [_title(row), str(row["connections"]), cpu, *groups, rate, *times, *others]


def _large(rows: dict[str, Found]) -> list[str]:
    row, size = rows["gateway"], rows["gateway"]["size_mib"]
    others = [
        f"{_number(rows[name]['per_second'][0] * size)}, {_number(rows[name]['cpu_ms'][0] / size)}"
        if name in rows
        else ""
        for name in ("bare", "flask", "tus")
    ]
    ratio = f"**{row['per_second'][0] / rows['bare']['per_second'][0]:.2f}**"
    rate, cpu = _spread_of(row["per_second"], size), _spread_of(row["cpu_ms"], 1 / size)
    return [_title(row), rate, ratio, cpu, str(row["peak_rss_mib"]), *others]


def _growth(run: Found, results: Path) -> list[str]:
    sections = ["## Growth", _about(run), *run["notes"]]
    for axis, title in (("rows", "Files of the owner"), ("connections", "Connections, with the fewest files")):
        lines = dict[str, list[Found]]()
        for row in run["rows"]:
            if row["axis"] == axis:
                name = _title(row) + (", Flask by OFFSET" if row["target"] == "flask" else "")
                lines.setdefault(name, []).append(row)
        (results / f"growth-{axis}.svg").write_text(plots.lines(lines, axis, title))
        values = [row[axis] for row in next(iter(lines.values()))]
        columns = [f"|CPU ms at {value:,}" for value in values] + [f"|p95 ms at {value:,}" for value in values]
        sections += [f"### {title}", f"![CPU ms by {title.lower()}](benchmarks/growth-{axis}.svg)"]
        sections.append(
            _table(
                "".join(columns),
                [
                    [name, *(_number(row["cpu_ms"][0]) for row in rows)]
                    + [_number(row["p95_ms"]) if row["p95_ms"] else "no answer in a round" for row in rows]
                    for name, rows in lines.items()
                ],
            )
        )
    return sections
