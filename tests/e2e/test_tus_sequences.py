"""Random sequences of events for resumable uploads, by clients, networks, buckets and operators.

Each test checks the invariants: a finished file has the correct SHA-256, an unfinished upload reports its offset and can
be continued from there, an acknowledged offset never decreases, and one run of the janitor removes everything that
abandoned uploads left.

By default a few sequences run, always the same. ``TUS_SEQUENCES=500 pytest -s tests/e2e/test_tus_sequences.py`` runs 500 new
ones (``--hypothesis-seed=N`` repeats them). A failure shows the steps of its sequence."""

from __future__ import annotations

import os
import time
from collections import Counter
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, Phase, given, settings

from db.files import lock_names
from tests.e2e.gateway import Gateway
from tests.e2e.tus_run import PATIENCE, Run
from tests.e2e.tus_steps import Create, sequences

MANY = int(os.environ.get("TUS_SEQUENCES", "0"))
COUNT = MANY or 5


def test_T101_a_crash_during_completion(gateway: Gateway) -> None:
    """The client sees a complete upload. It is `completing` until the lease expires; then the worker completes it."""
    one = Run(gateway, gateway.owner())
    one.create(Create(1000))
    [upload] = one.uploads
    with psycopg.connect(gateway.database_url) as names:
        lock_names(names, one.owner.name, None)  # type: ignore[arg-type]  # blocks the publication of the file
        request, _, body = one.open_patch(upload, upload.total)
        request.send(body)
        upload.sent = upload.total
        deadline = time.monotonic() + PATIENCE
        while one.shown(upload)["status"] != "completing":
            assert time.monotonic() < deadline
            time.sleep(0.05)
        gateway.kill()
    request.cut()
    gateway.serve()
    one.look(upload)
    assert upload.state == "done"
    assert one.shown(upload)["status"] in ("completing", "done")  # the latter if the lease expired meanwhile
    gateway.sql(
        "update uploads set updated_at = updated_at - interval '1 minute' where id::text = %s returning id",
        one.id(upload),
    )
    one.finish()


ran: Counter[str] = Counter()


@pytest.mark.timeout(600 + 60 * COUNT)
def test_T53_T54_random_sequences_keep_the_invariants(gateway: Gateway) -> None:
    @settings(
        max_examples=COUNT,
        derandomize=not MANY,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # no shrinking: runs are slow and depend on timing
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(sequences)
    def run(sequence: list[Any]) -> None:
        if gateway.process is None or gateway.process.poll() is not None:
            gateway.serve()  # the previous sequence failed between a kill and the restart
        one = Run(gateway, gateway.owner())
        begun = time.monotonic()
        try:
            for step in sequence:
                one.step(step)
                ran[type(step).__name__] += 1
            one.finish()
        except BaseException as error:
            error.add_note("\n".join(one.trace))
            gateway.empty()  # Hypothesis repeats the sequence for its report
            raise
        finally:
            gateway.back.heal()
            gateway.front.heal()
        ran["sequences"] += 1
        ran["seconds"] += round(time.monotonic() - begun)
        ran["files"] += sum(upload.state == "done" and not upload.create.partial for upload in one.uploads)

    try:
        run()
    finally:
        print(dict(ran))
