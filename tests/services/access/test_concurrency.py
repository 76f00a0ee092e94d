"""Slots for expensive work: an owner with many requests delays nobody else's (T75)."""

from __future__ import annotations

import threading
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack

import pytest

from core.errors import Unavailable
from services import Services
from services.access.concurrency import ConcurrencyLimit
from tests.client import GatewayClient


def waiting(limit: ConcurrencyLimit, number: int) -> None:
    """Wait until so many requests wait for a slot."""
    while len(limit._queue) < number:
        threading.Event().wait(0.005)


def test_T75_owners_take_turns_however_many_requests_each_has() -> None:
    """Two attackers hold both slots, and five requests of each wait. The third owner's first one comes before all of these."""
    limit, served = ConcurrencyLimit(concurrency=2, per_owner=2), list[str]()

    def work(owner: str) -> None:
        with limit.slot(owner):
            served.append(owner)

    with ThreadPoolExecutor(12) as pool:
        with ExitStack() as held:
            for owner in ("mallory", "eve"):
                held.enter_context(limit.slot(owner))
            for owner in ("mallory", "eve") * 5:
                pool.submit(work, owner)
            waiting(limit, 10)
            pool.submit(work, "carol")
            pool.submit(work, "carol")
            waiting(limit, 12)
    assert sorted(served) == ["carol"] * 2 + ["eve"] * 5 + ["mallory"] * 5
    assert served.index("carol") <= 1, "with two slots, two begin at once"
    assert (limit._queue, limit._busy.total(), limit._turns) == ({}, 0, {}), "nothing is remembered"


def test_who_gives_up_is_forgotten() -> None:
    limit = ConcurrencyLimit(concurrency=1, timeout=0.05)
    with limit.slot("alice"):
        with pytest.raises(Unavailable), limit.slot("bob"):
            pass
    assert (limit._queue, limit._busy.total(), limit._turns) == ({}, 0, {})


@pytest.mark.settings(web_threads=8)
@pytest.mark.parametrize(
    ("kind", "ask"),
    [
        ("search", lambda client: client.get("/api/search?q=a")),
        ("search", lambda client: client.get("/api/search/suggest?prefix=a")),
        ("batches", lambda client: client.post("/api/files/batch", json={"action": "delete", "ids": []})),
    ],
    ids=["search", "suggest", "batch"],
)
def test_T75_searches_and_batches_of_one_owner_wait_for_each_other(
    services: Services, client: GatewayClient, other: GatewayClient, kind: str, ask: Callable[[GatewayClient], object]
) -> None:
    limit = services.slots[kind]  # type: ignore[index]
    with ThreadPoolExecutor(2) as pool, ExitStack() as held:
        for _ in range(2):
            held.enter_context(limit.slot("alice"))
        later = [pool.submit(ask, client) for _ in range(2)]
        waiting(limit, 2)
        refused, prompt = ask(client), ask(other)
        held.close()
        answers = [refused, prompt, *(future.result(20) for future in later)]
    assert [getattr(answer, "status", None) for answer in answers] == [429, 200, 200, 200]
