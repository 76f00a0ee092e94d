"""What a run found: a line as soon as each scenario ends, then JSON, BENCHMARKS.md and its plots."""

from __future__ import annotations

import json
import os
import platform
import statistics
import subprocess
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from benchmarks import plots
from benchmarks.harness import ROOT, Measured

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
requests a second are those of a machine on which clients, servers and other programs share the processors."""


@dataclass
class Row:
    """The rounds of one scenario on one target."""

    scenario: str
    title: str
    target: str
    connections: int
    rows: int
    size: int = 0  # MiB of an operation, where it is about bytes
    rounds: list[Measured] = field(default_factory=list)

    def as_dict(self) -> Found:
        """For JSON: medians, and the lowest and highest of the rounds."""
        cpus = [sum(one.cpu.values()) for one in self.rounds]
        rates = [one.load.done / max(1, one.load.sent) * one.operations / one.load.seconds for one in self.rounds]
        middle = statistics.median
        return {
            "scenario": self.scenario,
            "title": self.title,
            "target": self.target,
            "connections": self.connections,
            "rows": self.rows,
            "size_mib": self.size,
            "rounds": len(self.rounds),
            "operations": round(sum(one.operations for one in self.rounds)),
            "errors": sum(one.load.errors for one in self.rounds),
            "cpu_ms": _spread(cpus, 3),
            "cpu_ms_by_group": {g: round(middle(one.cpu[g] for one in self.rounds), 3) for g in self.rounds[0].cpu},
            "per_second": _spread(rates, 2),
            "p50_ms": round(middle(one.load.p50 for one in self.rounds), 1),
            "p95_ms": round(middle(one.load.p95 for one in self.rounds), 1),
            "max_ms": round(max(one.load.worst for one in self.rounds), 1),
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
    memories: dict[str, dict[str, Found]] = field(default_factory=dict)
    rows: list[Found] = field(default_factory=list)

    def note(self, text: str) -> None:
        self.notes.append(text)
        print(text, flush=True)

    def client(self, name: str, per_second: float, cpu_ms: float) -> None:
        self.clients[name] = {"per_second": round(per_second), "cpu_ms": round(cpu_ms, 4)}
        print(f"{name}: {per_second:.0f}/s from a server that does nothing, {cpu_ms:.3f} CPU ms each", flush=True)

    def memory(self, label: str, moment: str, sizes: dict[str, float]) -> None:
        self.memories.setdefault(label, {})[moment] = {name: round(size) for name, size in sizes.items()}
        print(f"memory of {label}, {moment}: {self.memories[label][moment]} MiB", flush=True)

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
    found = {
        "at": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC",
        "commit": _output("git", "-C", str(ROOT), "rev-parse", "--short", "HEAD"),
        "machine": _machine(),
        "options": report.options,
        "notes": report.notes,
        "clients": report.clients,
        "memory_mib": report.memories,
        "rows": report.rows,
    }
    name = "growth.json" if report.options["growth"] else "results.json"
    (results / name).write_text(json.dumps(found, ensure_ascii=False) + "\n")
    sections = ["# Benchmarks", HOW]
    for name, render in (("results.json", _results), ("growth.json", _growth)):
        if (results / name).exists():
            sections += render(json.loads((results / name).read_text()), results)
    (directory / "BENCHMARKS.md").write_text("\n\n".join(sections) + "\n")


def _output(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True).stdout.strip()


def _machine() -> str:
    models = [
        line.partition(": ")[2] for line in Path("/proc/cpuinfo").read_text().splitlines() if "model name" in line
    ]
    gib = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES") / 2**30
    model = models[0] if models else platform.machine()
    return f"{os.cpu_count()} processors ({model}), {gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"


# -- BENCHMARKS.md ---------------------------------------------------------------------------------------------------


def _results(run: Found, results: Path) -> list[str]:
    scenarios = dict[str, dict[str, Found]]()
    for row in run["rows"]:
        scenarios.setdefault(row["scenario"], {})[row["target"]] = row
    small = {name: rows for name, rows in scenarios.items() if not rows["gateway"]["size_mib"]}
    large = {name: rows for name, rows in scenarios.items() if rows["gateway"]["size_mib"]}
    (results / "cpu.svg").write_text(plots.bars(small))
    options = run["options"]
    foreign = statistics.median(row["foreign_cores"] for row in run["rows"])
    clients = "; ".join(
        f"{name} {c['per_second']:,}/s with {c['cpu_ms']} CPU ms each" for name, c in run["clients"].items()
    )
    about = (
        f"Run of {run['at']}, commit {run['commit']}, on {run['machine']}. {options['rounds']} rounds of"
        f" {options['seconds']:g} s, {options['rows'][0]:,} seeded files. Other programs kept {foreign:.1f} cores busy meanwhile."
        f" What the clients can do at most, at a server that does nothing: {clients}."
    )
    sections = [about, *run["notes"], "## Requests", "![Processor time of an operation](benchmarks/cpu.svg)"]
    sections.append(
        _table(
            "connections|CPU ms|server|worker|PostgreSQL|bucket|a second|p50 ms|p95 ms|max ms|bare: CPU ms,"
            " a second|Flask: CPU ms, a second",
            [_small(rows) for rows in small.values()],
        )
    )
    if large:
        size = next(iter(large.values()))["gateway"]["size_mib"]
        sections += [
            f"## Files of {size} MiB",
            _table(
                "MiB/s|of bare|CPU ms for a MiB|peak MiB|bare: MiB/s, CPU ms"
                "|Flask: MiB/s, CPU ms|@tus/server: MiB/s, CPU ms",
                [_large(rows) for rows in large.values()],
            ),
        ]
    sections += [
        "## Memory",
        "MiB resident, PostgreSQL's shared buffers counted once: after the start, and after the run.",
    ]
    sections.append(_memory(run["memory_mib"]))
    return sections


def _table(head: str, rows: list[list[str]]) -> str:
    columns = head.split("|")
    lines = [["", *columns], ["---", *["---:"] * len(columns)], *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _spread_of(values: list[float], scale: float = 1) -> str:
    middle, low, high = (_number(value * scale) for value in values)
    return f"{middle} ({low}-{high})" if low != high else middle


def _number(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def _small(rows: dict[str, Found]) -> list[str]:
    row = rows["gateway"]
    groups = [_number(row["cpu_ms_by_group"].get(name, 0)) for name in ("server", "worker", "postgres", "bucket")]
    others = [
        f"{_number(other['cpu_ms'][0])}, {_number(other['per_second'][0])}" if (other := rows.get(name)) else ""
        for name in ("bare", "flask")
    ]
    times = [_number(row[name]) for name in ("p50_ms", "p95_ms", "max_ms")]
    title = row["title"] + (f" ({row['errors']} errors)" if row["errors"] else "")
    rate = _spread_of(row["per_second"])
    return [title, str(row["connections"]), f"**{_spread_of(row['cpu_ms'])}**", *groups, rate, *times, *others]


def _large(rows: dict[str, Found]) -> list[str]:
    row = rows["gateway"]
    size = row["size_mib"]
    bare = f"**{row['per_second'][0] / rows['bare']['per_second'][0]:.2f}**" if "bare" in rows else ""
    others = [
        f"{_number(other['per_second'][0] * size)}, {_number(other['cpu_ms'][0] / size)}"
        if (other := rows.get(name))
        else ""
        for name in ("bare", "flask", "tus")
    ]
    cpu = _spread_of(row["cpu_ms"], 1 / size)
    return [row["title"], _spread_of(row["per_second"], size), bare, cpu, str(row["peak_rss_mib"]), *others]


def _memory(memories: dict[str, dict[str, Found]]) -> str:
    moments = next(iter(memories.values()))
    groups = list(moments["fresh"])
    return _table(
        "|".join(groups),
        [[moment, *(str(sizes.get(group, "")) for group in groups)] for moment, sizes in moments.items()],
    )


def _growth(run: Found, results: Path) -> list[str]:
    least = min(row["rows"] for row in run["rows"])
    usual = {row["scenario"]: row["connections"] for row in reversed(run["rows"]) if row["rows"] != least}
    by_rows = [row for row in run["rows"] if row["connections"] == usual[row["scenario"]]]
    by_connections = [row for row in run["rows"] if row["rows"] == least]
    sections = ["## Growth", f"Run of {run['at']}, commit {run['commit']}, on {run['machine']}."]
    for axis, rows, title in (("rows", by_rows, "Files of the owner"), ("connections", by_connections, "Connections")):
        (results / f"growth-{axis}.svg").write_text(plots.lines(rows, axis, title))
        values = sorted({row[axis] for row in rows})
        table = [
            [
                next(row["title"] for row in rows if row["scenario"] == name),
                *(_number(_at(rows, name, axis, value)["cpu_ms"][0]) for value in values),
                *(_number(_at(rows, name, axis, value)["p95_ms"]) for value in values),
            ]
            for name in dict.fromkeys(row["scenario"] for row in rows)
        ]
        head = [f"CPU ms at {value:,}" for value in values] + [f"p95 ms at {value:,}" for value in values]
        sections += [
            f"### {title}",
            f"![CPU ms by {axis}](benchmarks/growth-{axis}.svg)",
            _table("|".join(head), table),
        ]
    return sections


def _at(rows: list[Found], scenario: str, axis: str, value: int) -> Found:
    return next(row for row in rows if row["scenario"] == scenario and row[axis] == value)
