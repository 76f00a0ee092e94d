"""``make drills``: all drills in about an hour, or ``ARGS="kill_web --seed 7 --seconds 120"``."""

from __future__ import annotations

import argparse
import logging
import secrets
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

import pytest
import structlog

from tests.drills.deployment import deployed, own_servers
from tests.drills.drills import DRILLS, NEEDS, of_names
from tests.drills.run import Outcome, run

HEAD = ("drill", "seed", "faults", "acknowledged", "deleted", "unanswered", "losses", "seconds")


def main() -> int:
    parser = argparse.ArgumentParser(prog="make drills", description=__doc__)
    parser.add_argument("names", nargs="*", metavar="DRILL", help=f"of {', '.join(DRILLS)}; none: all")
    parser.add_argument("--seed", type=int, help="repeats the moments and actions of a drill; none: a new one")
    parser.add_argument("--seconds", type=float, default=120.0, help="of faults in each drill (120)")
    parser.add_argument("--times", type=int, default=1, help="how often, with seeds that follow each other")
    parser.add_argument("--keep", type=Path, help="a folder for data and logs, which are kept")
    arguments = parser.parse_args()
    if unknown := [name for name in arguments.names if name not in DRILLS]:
        parser.error(f"there is no drill {', '.join(unknown)}; there are {', '.join(DRILLS)}")
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # and end all processes
    structlog.configure(wrapper_class=structlog.make_filtering_bound_logger(logging.ERROR))
    first = secrets.randbelow(1_000_000) if arguments.seed is None else arguments.seed
    base = arguments.keep or Path(tempfile.mkdtemp(prefix="drills-"))
    base.mkdir(parents=True, exist_ok=True)
    base.chmod(0o755)
    outcomes: list[Outcome] = []
    left_out: set[str] = set()
    for seed in range(first, first + arguments.times):
        for name, drill in of_names(arguments.names).items():
            print(f"{time.strftime('%H:%M:%S')} {name} --seed {seed} …", flush=True)
            folder = base / f"{name}-{seed}"
            shutil.rmtree(folder, ignore_errors=True)
            folder.mkdir(mode=0o755)
            try:
                with own_servers(folder, **NEEDS.get(name, {})) as servers, deployed(folder, servers) as deployment:
                    outcome = run(deployment, drill, seed=seed, seconds=arguments.seconds)
            except pytest.skip.Exception as missing:
                print(f"  left out: {missing}", flush=True)
                left_out.add(name)
                continue
            outcomes.append(outcome)
            print(table([outcome]).splitlines()[-1], flush=True)  # as the whole table may never be printed
            for finding in outcome.ledger.findings:
                print(f"  {finding}", flush=True)
            if not arguments.keep and not outcome.ledger.findings:
                shutil.rmtree(folder, ignore_errors=True)
    print(table(outcomes))
    if left_out:
        print(f"left out: {', '.join(sorted(left_out))}")
    failed = sum(bool(outcome.ledger.findings) for outcome in outcomes)
    if failed:
        print(f"{failed} of {len(outcomes)} drills found something; data and logs are in {base}", file=sys.stderr)
    elif not arguments.keep:
        shutil.rmtree(base, ignore_errors=True)
    return 1 if failed else 0


def table(outcomes: list[Outcome]) -> str:
    rows = [HEAD] + [
        (
            one.name,
            str(one.seed),
            str(one.faults),
            str(one.ledger.acknowledged),
            str(one.ledger.deletions),
            str(one.ledger.unanswered),
            str(len(one.ledger.findings) or "none"),
            f"{one.seconds:.0f}",
        )
        for one in outcomes
    ]
    widths = [max(len(row[column]) for row in rows) for column in range(len(HEAD))]
    lines = [
        "| " + " | ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)) + " |" for row in rows
    ]
    return "\n".join([lines[0], "|" + "|".join("-" * (width + 2) for width in widths) + "|", *lines[1:]])


if __name__ == "__main__":
    sys.exit(main())
