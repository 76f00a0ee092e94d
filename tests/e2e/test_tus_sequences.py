"""Random sequences of what clients, networks, buckets and operators do to resumable uploads.

After each the promise is held against what is there: a finished file has the right SHA-256, an unfinished upload says
where it stands (and can be finished from there), an acknowledged offset never goes back, and after one run of the janitor
nothing is left of what nobody finished.

The everyday run takes a few sequences, always the same. ``TUS_SEQUENCES=500 pytest -s tests/e2e/test_tus_sequences.py`` takes
500 new ones (``--hypothesis-seed=N`` the same again); what one did is noted at its failure."""

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
COUNT = MANY or 8


def test_T101_killed_while_the_file_is_completed(gateway: Gateway) -> None:
    """Its client sees a complete upload. It is `completing` until the claim expires; then the worker completes it."""
    one = Run(gateway, gateway.owner())
    one.create(Create(1000))
    [upload] = one.uploads
    with psycopg.connect(gateway.database_url) as names:
        lock_names(names, one.owner.name, None)  # type: ignore[arg-type]  # what the file's publication waits for
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
    shown = one.shown(upload)
    assert (upload.state, shown["status"], shown["file_id"]) == ("done", "completing", None)
    gateway.sql(
        "update uploads set updated_at = updated_at - interval '1 minute' where id::text = %s returning id",
        one.id(upload),
    )
    one.finish()


ran: Counter[str] = Counter()


@pytest.mark.timeout(600 + 60 * COUNT)
def test_T53_T54_random_sequences_keep_every_promise(gateway: Gateway) -> None:
    @settings(
        max_examples=COUNT,
        derandomize=not MANY,
        deadline=None,
        database=None,
        phases=[Phase.generate],  # no shrinking: each try is real traffic, and timing is part of it
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(sequences)
    def run(sequence: list[Any]) -> None:
        if gateway.process is None or gateway.process.poll() is not None:
            gateway.serve()  # the sequence before failed between a kill and the restart
        one = Run(gateway, gateway.owner())
        begun = time.monotonic()
        try:
            for step in sequence:
                one.step(step)
                ran[type(step).__name__] += 1
            one.finish()
        except BaseException as error:
            error.add_note("\n".join(one.trace))
            gateway.empty()  # what it left would be found, and told, by the next: it is tried again for the report
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
