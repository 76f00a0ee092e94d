"""The circuit breaker and the limit of waiting threads for calls to the bucket or the database."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor

import pytest

from core import breaker
from core.breaker import Bulkhead, CallRejected, CircuitBreaker


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> list[float]:
    now = [1000.0]
    monkeypatch.setattr(breaker, "monotonic", lambda: now[0])
    return now


def test_after_a_timeout_single_calls_probe_until_one_succeeds(clock: list[float]) -> None:
    line = CircuitBreaker()
    line.no_answer(line.before_call())
    for _ in range(3):
        with pytest.raises(CallRejected):
            line.before_call()
        clock[0] += breaker.OPEN_SECONDS
        line.before_call()  # a single probe
    line.answered()
    line.before_call()
    line.before_call()


def test_an_old_timeout_is_forgotten(clock: list[float]) -> None:
    line = CircuitBreaker()
    line.no_answer(line.before_call())
    clock[0] += 2 * breaker.OPEN_SECONDS
    line.before_call()
    line.before_call()


def test_one_timeout_among_answers_is_no_outage(clock: list[float]) -> None:
    line = CircuitBreaker()
    began = line.before_call()
    clock[0] += 1
    line.answered()  # by another call
    clock[0] += 9
    line.no_answer(began)
    line.before_call()


def test_a_request_times_out_once(clock: list[float]) -> None:
    line, other = CircuitBreaker(), CircuitBreaker()

    def request() -> None:
        breaker.begin_request()
        began = line.before_call()
        clock[0] += 1
        line.answered()  # by another request
        line.no_answer(began)
        with pytest.raises(CallRejected):
            line.before_call()
        other.before_call()
        breaker.end_request()
        line.before_call()

    with ThreadPoolExecutor(1) as thread:
        thread.submit(request).result(60)


def test_a_call_waits_for_a_slot_while_others_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "STALLED_SECONDS", 60.0)
    bulkhead, done = Bulkhead(2), []

    def call(number: int) -> None:
        with bulkhead.slot():
            done.append(number)

    with bulkhead.slot(), ThreadPoolExecutor(4) as threads:
        list(threads.map(call, range(50), timeout=60))
    assert sorted(done) == list(range(50))


def test_no_call_waits_for_a_slot_without_progress(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "STALLED_SECONDS", 0.1)
    bulkhead = Bulkhead(1)
    with bulkhead.slot():
        with pytest.raises(CallRejected), bulkhead.slot():
            pass
    with bulkhead.slot():
        pass


def test_calls_wait_for_a_slot_while_bytes_move(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(breaker, "STALLED_SECONDS", 0.2)
    bulkhead, found = Bulkhead(1), threading.Event()

    def wait() -> None:
        with bulkhead.slot():
            found.set()

    with bulkhead.slot():
        thread = threading.Thread(target=wait)
        thread.start()
        for _ in range(200):
            bulkhead.progress()
            thread.join(0.005)
        assert thread.is_alive()
        assert not found.is_set()
    thread.join(60)
    assert found.is_set()
