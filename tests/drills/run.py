"""One drill from start to end: load, faults, recovery, audit."""

from __future__ import annotations

import random
import time
from dataclasses import dataclass

from tests.drills.audit import audit, compare_resources, resources
from tests.drills.deployment import Deployment
from tests.drills.drills import Drill, Field
from tests.drills.ledger import Ledger
from tests.drills.load import Load


@dataclass
class Outcome:
    """A row of the table."""

    name: str
    seed: int
    faults: int
    seconds: float
    ledger: Ledger
    keys: dict[str, str]  # one of each owner


def run(
    deployment: Deployment, drill: Drill, *, seed: int, seconds: float, warm_up: float = 4.0, clients: int = 6
) -> Outcome:
    """Let clients work for ``warm_up`` seconds, then do harm for ``seconds``, let everything recover, and look."""
    began, ledger = time.monotonic(), Ledger()
    load = Load(deployment, ledger, seed=seed, clients=clients)
    load.start()
    time.sleep(warm_up)
    before = resources(deployment)
    place = Field(deployment, random.Random(seed), time.monotonic() + seconds)
    try:
        drill(place)
    except Exception as error:
        ledger.finding("the drill itself failed", error=repr(error))
    deployment.heal()
    deployment.wait_until_ready()
    load.stop()
    audit(deployment, ledger, load.keys)
    compare_resources(ledger, before, resources(deployment))
    return Outcome(drill.__name__, seed, place.faults, time.monotonic() - began, ledger, load.keys)
