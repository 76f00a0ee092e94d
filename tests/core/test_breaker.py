"""When the bucket or the database is given up, and how many threads may wait for it."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core import breaker
from core.breaker import Away, Breaker, Places


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(breaker, "monotonic", lambda: now[0])
    return now


def test_after_one_silence_one_call_in_a_while_tries_until_one_is_answered(clock: list[float]) -> None:
    line = Breaker()
    line.unheard(line.ask())
    for _ in range(3):
        with pytest.raises(Away):
            line.ask()
        clock[0] += breaker.PAUSE
        line.ask()  # this one tries; nobody beside it
    line.heard()
    line.ask()
    line.ask()


def test_a_silence_of_long_ago_is_forgotten(clock: list[float]) -> None:
    line = Breaker()
    line.unheard(line.ask())
    clock[0] += 2 * breaker.PAUSE
    line.ask()
    line.ask()


def test_one_silence_among_answers_is_no_outage(clock: list[float]) -> None:
    line = Breaker()
    began = line.ask()
    clock[0] += 1
    line.heard()  # by another call
    clock[0] += 9
    line.unheard(began)
    line.ask()


def test_a_request_waits_in_vain_once(clock: list[float]) -> None:
    line, other = Breaker(), Breaker()

    def request() -> None:
        breaker.begin_request()
        began = line.ask()
        clock[0] += 1
        line.heard()  # by another request
        line.unheard(began)
        with pytest.raises(Away):
            line.ask()
        other.ask()
        breaker.end_request()
        line.ask()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(request).result(60)


def test_who_finds_no_place_waits_while_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "QUEUE", 60.0)
    places, done = Places(2), []

    def call(number: int) -> None:
        with places.taken():
            done.append(number)

    with places.taken(), ThreadPoolExecutor(4) as threads:
        list(threads.map(call, range(50), timeout=60))
    assert sorted(done) == list(range(50))


def test_nobody_waits_for_a_place_where_nothing_moves(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "QUEUE", 0.1)
    places = Places(1)
    with places.taken():
        with pytest.raises(Away), places.taken():
            pass
    with places.taken():
        pass


def test_where_bytes_move_a_place_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "QUEUE", 0.2)
    places, found = Places(1), threading.Event()

    def wait() -> None:
        with places.taken():
            found.set()

    with places.taken():
        thread = threading.Thread(target=wait)
        thread.start()
        for _ in range(200):
            places.progress()
            thread.join(0.005)
        assert thread.is_alive()
        assert not found.is_set()
    thread.join(60)
    assert found.is_set()
