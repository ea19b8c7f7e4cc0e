"""The transport contract of pipelines: a test for each sentence of `Caller.pipeline` in domain/kernel/ports/transport.py."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import LATER, MAX_MESSAGE_BYTES, Question, Reply, Request
from domain.kernel.ports.transport import Caller
from domain.users.errors import EmailTaken, UserNotFound
from tests.support.transports import (
    ROLE,
    SHORT_S,
    Clock,
    Serving,
    Transport,
    asked,
    background,
    echo,
    numbers,
    questions,
)
from tests.support.waiting import DEADLINE_S, eventually


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_replies_arrive_in_order_of_the_requests(echoing: Serving, caller: Caller, count: int) -> None:
    assert numbers(caller.pipeline(ROLE, iter(questions(count)))) == list(range(count))


def test_the_caller_is_told_when_all_replies_that_have_come_were_yielded(
    echoing: Serving, caller: Caller
) -> None:
    seen: list[int] = []
    told: list[int] = []
    next_may_come = threading.Event()

    def one_after_the_other() -> Iterator[Question]:
        for number, question in enumerate(questions(5)):
            if number:
                assert next_may_come.wait(DEADLINE_S), "it waits for a reply, and has told nothing"
            next_may_come.clear()
            yield question

    def tell() -> None:
        told.append(len(seen))
        next_may_come.set()

    for reply in caller.pipeline(ROLE, one_after_the_other(), before_wait=tell):
        seen += numbers([reply])

    assert seen == [0, 1, 2, 3, 4]
    assert told == [1, 2, 3, 4, 5]


def test_replies_arrive_in_order_even_if_the_last_is_ready_first(
    transport: Transport, caller: Caller
) -> None:
    answered: set[int] = set()

    def last_first(request: Request) -> Reply:
        number = request.body["n"]
        if number < 19 and number + 1 not in answered:
            return LATER
        answered.add(number)
        return echo(request)

    transport.serve(last_first)

    assert asked(caller, 20) == list(range(20))
    assert len(answered) == 20


def test_a_pipeline_sends_many_requests_at_once(transport: Transport, caller: Caller) -> None:
    serving: Serving = transport.serve(lambda request: echo(request) if all_here(serving, 100) else LATER)

    assert asked(caller, 100) == list(range(100))


def all_here(serving: Serving, count: int) -> bool:
    return len(set(serving.service.numbers)) == count


def test_a_batch_has_no_more_fresh_requests_than_its_limit(
    echoing: Serving, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.pipeline.WINDOW", 3000)
    assert len(asked(caller, 3000)) == 3000
    assert max(len(batch) for batch in echoing.service.batches) <= 256


@pytest.mark.parametrize("window", [1, 7])
def test_at_most_a_window_of_requests_is_in_flight(
    transport: Transport, caller: Caller, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr("adapters.pipeline.WINDOW", window)
    let_go = threading.Event()
    serving = transport.serve(lambda request: echo(request) if let_go.is_set() else LATER)
    taken: list[int] = []

    def source() -> Iterator[Question]:
        for number, question in enumerate(questions(50)):
            taken.append(number)
            yield question

    def is_full() -> bool:
        return len(serving.service.batches[-1:] and serving.service.batches[-1]) == window

    with background(lambda: numbers(caller.pipeline(ROLE, source()))) as asking:
        eventually(is_full, "the window is full")
        eventually(lambda: len(serving.service.batches) > 5, "it stays so")
        assert len(set(serving.service.numbers)) == window
        assert len(taken) <= window + 1, "one more may have been read"
        let_go.set()
        assert asking.result(DEADLINE_S) == list(range(50))

    assert max(len(batch) for batch in serving.service.batches) <= window


def test_a_source_that_waits_for_each_reply_is_not_blocked(echoing: Serving, caller: Caller) -> None:
    answers: list[Any] = []
    answered = threading.Semaphore(0)

    def one_by_one() -> Iterator[Question]:
        for number in range(50):
            yield "echo", {"n": number}
            assert answered.acquire(timeout=DEADLINE_S), "the reply before the next request"

    for reply in caller.pipeline(ROLE, one_by_one(), timeout_s=DEADLINE_S):
        answers += numbers([reply])
        answered.release()

    assert answers == list(range(50))


def test_a_source_slower_than_the_timeout_is_no_failure(
    echoing: Serving, caller: Caller, clock: Clock
) -> None:
    answers: list[Any] = []

    def slow() -> Iterator[Question]:
        for number, question in enumerate(questions(3)):
            clock.let_pass(SHORT_S * 1.5)  # the time of a request runs from when it is sent
            yield question
            eventually(lambda number=number: len(answers) > number, "the reply")  # type: ignore[misc]

    for reply in caller.pipeline(ROLE, slow(), timeout_s=SHORT_S):
        answers += numbers([reply])

    assert answers == [0, 1, 2]


def test_a_reader_slower_than_the_timeout_still_receives_its_replies(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    # As with `es … | less`: the replies arrived in time, but were not read yet.
    first_taken = threading.Event()
    answered: set[int] = set()

    def first_alone_then_the_others(request: Request) -> Reply:
        if not all_here(serving, 5) or (request.body["n"] and not first_taken.is_set()):
            return LATER
        answered.add(request.body["n"])
        return echo(request)

    serving = transport.serve(first_alone_then_the_others)
    replies = caller.pipeline(ROLE, questions(5), timeout_s=SHORT_S)

    first = next(replies)
    first_taken.set()
    eventually(lambda: answered >= set(range(5)), "all are answered")
    await_earlier_replies(caller)
    clock.let_pass(SHORT_S * 1.5)

    assert numbers([first, *replies]) == [0, 1, 2, 3, 4]


def await_earlier_replies(caller: Caller) -> None:
    """The reply to a request that is sent now arrives after the replies that were sent before."""
    assert caller.ask(ROLE, "again", {"n": 0}) == {"n": 0}


def test_large_requests_with_large_replies_do_not_block_each_other(echoing: Serving, caller: Caller) -> None:
    # More in both directions than the sockets and the worker buffer: each end has to read while it writes.
    replies = caller.pipeline(ROLE, questions(1200, pad="x" * 20_000), timeout_s=DEADLINE_S)

    assert numbers(replies) == list(range(1200))


def test_an_error_as_a_request_keeps_its_place(echoing: Serving, caller: Caller) -> None:
    mixed: list[Question] = [UserNotFound(1), *questions(2), EmailTaken(), *questions(1), EmailTaken()]

    replies = list(caller.pipeline(ROLE, mixed))

    assert replies == [UserNotFound(1), {"n": 0}, {"n": 1}, EmailTaken(), {"n": 0}, EmailTaken()]
    assert len(echoing.service.seen) == 3, "errors are not sent"


def test_nothing_but_errors_needs_no_worker(caller: Caller) -> None:
    assert list(caller.pipeline(ROLE, [EmailTaken(), UserNotFound(2)])) == [EmailTaken(), UserNotFound(2)]


def test_a_request_that_is_too_large_is_an_error_in_its_place(echoing: Serving, caller: Caller) -> None:
    mixed = [*questions(1), ("echo", {"n": 1, "pad": "x" * MAX_MESSAGE_BYTES}), *questions(1)]

    replies = list(caller.pipeline(ROLE, mixed))

    assert [replies[0], replies[2]] == [{"n": 0}, {"n": 0}]
    assert isinstance(replies[1], EsError)
    assert (replies[1].code, replies[1].kind) == ("request-too-large", Kind.INVALID)


def test_a_request_without_a_reply_is_unavailable_in_its_place(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    is_read_on = threading.Event()

    def all_but_one(request: Request) -> Reply:
        if request.body["n"] != 1:
            # The worker has all before it answers any: a caller sends nothing until the next reply is read.
            return echo(request) if all_here(serving, 4) else LATER
        if is_read_on.is_set():
            clock.let_pass(SHORT_S)
        return LATER

    serving = transport.serve(all_but_one)
    replies = caller.pipeline(ROLE, questions(4), timeout_s=SHORT_S)

    first = next(replies)
    await_earlier_replies(caller)
    is_read_on.set()

    assert numbers([first, *replies]) == [0, "PartUnavailable", 2, 3]


def test_without_a_worker_each_request_is_unavailable_in_its_place(caller: Caller) -> None:
    assert asked(caller, 3) == ["PartUnavailable"] * 3


def test_a_failing_source_fails_the_pipeline_after_the_replies(echoing: Serving, caller: Caller) -> None:
    def failing() -> Iterator[Question]:
        yield from questions(2)
        raise LookupError("the input ended badly")

    replies = caller.pipeline(ROLE, failing())

    assert numbers([next(replies), next(replies)]) == [0, 1]
    with pytest.raises(LookupError):
        next(replies)


def test_a_pipeline_that_is_left_early_does_not_disturb_the_next_request(
    echoing: Serving, caller: Caller
) -> None:
    replies = caller.pipeline(ROLE, questions(100))
    assert numbers([next(replies)]) == [0]

    replies.close()  # type: ignore[attr-defined]

    assert caller.ask(ROLE, "echo", {"n": "mine"}) == {"n": "mine"}


def test_a_pipeline_that_is_left_early_stops_reading_its_source(
    echoing: Serving, caller: Caller, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.pipeline.WINDOW", 1)
    closed = threading.Event()

    def endless() -> Iterator[Question]:
        try:
            yield from itertools.cycle(questions(1))
        finally:
            closed.set()

    replies = caller.pipeline(ROLE, endless())
    assert numbers([next(replies)]) == [0]

    replies.close()  # type: ignore[attr-defined]

    eventually(closed.is_set, "the source is closed")


def test_many_callers_receive_their_own_replies(echoing: Serving, transport: Transport) -> None:
    callers = [transport.caller() for _ in range(20)]

    def ask(number: int) -> list[Any]:
        return numbers(callers[number].pipeline(ROLE, [("echo", {"n": (number, i)}) for i in range(100)]))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))

    assert answers == [[[number, i] for i in range(100)] for number in range(20)]
