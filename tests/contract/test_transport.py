"""The transport contract: a test for each sentence of `Caller` and `Service` in domain/kernel/ports/transport.py.

Real servers answer over real sockets, and a worker's own loop serves.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from adapters.local.frames import MAX_FRAME_BYTES
from domain.kernel.errors import EsError, Kind, PartUnavailable
from domain.kernel.messages import LATER, Body, Question, Reply, Request
from domain.kernel.ports.transport import Caller
from domain.users.errors import EmailTaken, UserNotFound
from tests.support.scripted import (
    ROLE,
    SHORT_S,
    Clock,
    OpenCaller,
    Serve,
    Serving,
    SetWindow,
    background,
    echo,
    numbers,
    questions,
    time_out,
)
from tests.support.waiting import DEADLINE_S, eventually

# --- one request -----------------------------------------------------------------------------


def test_a_request_is_answered(echoing: Serving, caller: Caller) -> None:
    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}
    assert echoing.service.seen == [{"n": 1}]


def test_the_kind_of_a_request_reaches_the_service(serve_by: Serve, caller: Caller) -> None:
    serve_by(lambda request: {"kind": request.kind})

    assert caller.ask(ROLE, "users.get", {}) == {"kind": "users.get"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": 'ü ☃ 🎉 " \\ \n \x00'},
        {"id": "9223372036854775807", "n": 9223372036854775807},
        {"nested": {"list": [1, 2.5, None, True, {"deep": []}]}},
        {"lone surrogate": "\ud800"},
        {"large": "x" * (MAX_FRAME_BYTES - 200)},
    ],
    ids=lambda body: next(iter(body), "empty"),
)
def test_a_body_arrives_and_returns_unchanged(echoing: Serving, caller: Caller, body: Body) -> None:
    assert caller.ask(ROLE, "echo", body) == body


@pytest.mark.parametrize("error", [EmailTaken(), UserNotFound(7), PartUnavailable("vault", "it is down")])
def test_an_error_as_a_reply_is_raised_with_all_its_fields(
    serve_by: Serve, caller: Caller, error: EsError
) -> None:
    serve_by(lambda _: error)

    with pytest.raises(EsError) as raised:
        caller.ask(ROLE, "echo", {})

    assert raised.value.to_wire() == error.to_wire()
    assert raised.value.kind is error.kind


def test_a_request_without_a_reply_in_time_is_unavailable(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    error = time_out(caller, clock, serve_by(lambda _: LATER))

    assert "outcome is unknown" in str(error)
    assert "same command id" in error.hint


def test_without_a_worker_a_request_is_unavailable_at_once(caller: Caller) -> None:
    asked_at_s = time.monotonic()

    with pytest.raises(PartUnavailable, match="not running") as refused:
        caller.ask(ROLE, "echo", {}, timeout_s=DEADLINE_S * 2)

    assert time.monotonic() - asked_at_s < DEADLINE_S, "long before its timeout"
    assert "es up" in refused.value.hint


def test_a_late_reply_is_not_the_reply_to_the_next_request(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    late = threading.Event()
    serving = serve_by(lambda request: echo(request) if request.body["n"] or late.is_set() else LATER)
    time_out(caller, clock, serving, n=0)
    late.set()

    assert [caller.ask(ROLE, "echo", {"n": number}) for number in (1, 2)] == [{"n": 1}, {"n": 2}]


def test_a_reply_that_is_too_large_is_an_error_in_its_place(serve_by: Serve, caller: Caller) -> None:
    serve_by(lambda request: {"n": request.body["n"], "pad": "x" * (request.body["n"] * MAX_FRAME_BYTES)})

    replies = list(caller.pipeline(ROLE, questions(3)))

    assert isinstance(replies[1], EsError)
    assert replies[1].code == "request-too-large"
    assert replies[0] == {"n": 0, "pad": ""}


def test_a_caller_can_be_closed_twice_and_used_again(echoing: Serving, caller: Caller) -> None:
    caller.ask(ROLE, "echo", {})

    caller.close()
    caller.close()

    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}


# --- many requests ---------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_replies_arrive_in_order_of_the_requests(echoing: Serving, caller: Caller, count: int) -> None:
    assert numbers(caller.pipeline(ROLE, iter(questions(count)))) == list(range(count))


def test_replies_arrive_in_order_even_if_the_last_is_ready_first(serve_by: Serve, caller: Caller) -> None:
    answered: set[int] = set()

    def last_first(request: Request) -> Reply:
        number = request.body["n"]
        if number < 19 and number + 1 not in answered:
            return LATER
        answered.add(number)
        return echo(request)

    serve_by(last_first)

    assert numbers(caller.pipeline(ROLE, questions(20))) == list(range(20))
    assert len(answered) == 20


def test_a_pipeline_sends_many_requests_at_once(serve_by: Serve, caller: Caller) -> None:
    serving: Serving = serve_by(lambda request: echo(request) if all_here(serving, 100) else LATER)

    assert numbers(caller.pipeline(ROLE, questions(100))) == list(range(100))


def all_here(serving: Serving, count: int) -> bool:
    return len(set(serving.service.numbers)) == count


def test_a_batch_has_no_more_fresh_requests_than_its_limit(
    echoing: Serving, caller: Caller, set_window: SetWindow
) -> None:
    set_window(3000)
    assert len(numbers(caller.pipeline(ROLE, questions(3000)))) == 3000
    assert max(len(batch) for batch in echoing.service.batches) <= 256


@pytest.mark.parametrize("window", [1, 7])
def test_at_most_a_window_of_requests_is_in_flight(
    serve_by: Serve, caller: Caller, set_window: SetWindow, window: int
) -> None:
    set_window(window)
    let_go = threading.Event()
    serving = serve_by(lambda request: echo(request) if let_go.is_set() else LATER)
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
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    # As with `es … | less`: the replies arrived in time, but were not read yet.
    first_taken = threading.Event()
    answered: set[int] = set()

    def first_alone_then_the_others(request: Request) -> Reply:
        if not all_here(serving, 5) or (request.body["n"] and not first_taken.is_set()):
            return LATER
        answered.add(request.body["n"])
        return echo(request)

    serving = serve_by(first_alone_then_the_others)
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
    mixed = [*questions(1), ("echo", {"n": 1, "pad": "x" * MAX_FRAME_BYTES}), *questions(1)]

    replies = list(caller.pipeline(ROLE, mixed))

    assert [replies[0], replies[2]] == [{"n": 0}, {"n": 0}]
    assert isinstance(replies[1], EsError)
    assert (replies[1].code, replies[1].kind) == ("request-too-large", Kind.INVALID)


def test_a_request_without_a_reply_is_unavailable_in_its_place(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    is_read_on = threading.Event()

    def all_but_one(request: Request) -> Reply:
        if request.body["n"] != 1:
            # The worker has all before it answers any: a caller sends nothing until the next reply is read.
            return echo(request) if all_here(serving, 4) else LATER
        if is_read_on.is_set():
            clock.let_pass(SHORT_S)
        return LATER

    serving = serve_by(all_but_one)
    replies = caller.pipeline(ROLE, questions(4), timeout_s=SHORT_S)

    first = next(replies)
    await_earlier_replies(caller)
    is_read_on.set()

    assert numbers([first, *replies]) == [0, "PartUnavailable", 2, 3]


def test_without_a_worker_each_request_is_unavailable_in_its_place(caller: Caller) -> None:
    assert numbers(caller.pipeline(ROLE, questions(3))) == ["PartUnavailable"] * 3


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


def test_many_callers_receive_their_own_replies(echoing: Serving, open_caller: OpenCaller) -> None:
    callers = [open_caller() for _ in range(20)]

    def ask(number: int) -> list[Any]:
        return numbers(callers[number].pipeline(ROLE, [("echo", {"n": (number, i)}) for i in range(100)]))

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))

    assert answers == [[[number, i] for i in range(100)] for number in range(20)]


# --- later -----------------------------------------------------------------------------------


def test_a_request_answered_with_later_returns_with_its_memo(serve_by: Serve, caller: Caller) -> None:
    def third_time(request: Request) -> Reply:
        request.memo["times"] = request.memo.get("times", 0) + 1
        return {"times": request.memo["times"]} if request.memo["times"] == 3 else LATER

    serve_by(third_time)

    assert caller.ask(ROLE, "echo", {}) == {"times": 3}
    assert caller.ask(ROLE, "echo", {}) == {"times": 3}, "a memo starts empty"


def test_a_request_that_waits_does_not_delay_others(serve_by: Serve, open_caller: OpenCaller) -> None:
    go = threading.Event()
    serve_by(lambda request: LATER if request.body["n"] == "waits" and not go.is_set() else echo(request))

    with background(open_caller().ask, ROLE, "echo", {"n": "waits"}, timeout_s=DEADLINE_S) as waiting:
        assert numbers(open_caller().pipeline(ROLE, questions(20))) == list(range(20))
        assert not waiting.done()
        go.set()
        assert waiting.result(DEADLINE_S) == {"n": "waits"}


def test_a_request_of_a_disconnected_caller_is_dropped(
    serve_by: Serve, open_caller: OpenCaller, caller: Caller, clock: Clock
) -> None:
    serving = serve_by(lambda request: LATER if request.body["n"] == "gone" else echo(request))
    vanishing = open_caller()
    time_out(vanishing, clock, serving, n="gone")
    vanishing.close()

    def is_dropped() -> bool:
        caller.ask(ROLE, "echo", {"n": "here"})
        return serving.service.batches[-1] == [{"n": "here"}]

    eventually(is_dropped, "the service no longer receives it")


# --- stopping and crashing -------------------------------------------------------------------


def test_a_server_that_stops_finishes_waiting_requests(serve_by: Serve, caller: Caller) -> None:
    stopping = threading.Event()
    serving = serve_by(lambda request: echo(request) if stopping.is_set() else LATER)

    with background(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S) as asking:
        eventually(lambda: bool(serving.service.seen), "the worker has the request")
        serving.begin_to_stop()
        stopping.set()
        assert asking.result(DEADLINE_S) == {"n": 1}


def test_a_server_that_stops_does_not_wait_for_ever(
    serve_by: Serve, caller: Caller, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.loop.DRAIN_S", 0.1)
    serving = serve_by(lambda _: LATER)

    with background(caller.ask, ROLE, "echo", {}, timeout_s=SHORT_S) as asking:
        eventually(lambda: bool(serving.service.seen), "the worker has the request")
        serving.stop()
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable):
            asking.result(DEADLINE_S)


def test_a_crash_for_one_request_leaves_the_others_answered(serve_by: Serve, caller: Caller) -> None:
    def answer(request: Request) -> Reply:
        if request.body["n"] == 3:
            raise ZeroDivisionError
        return echo(request)

    serve_by(answer)

    replies = list(caller.pipeline(ROLE, questions(6)))

    assert numbers(replies) == [0, 1, 2, "AnsweredError", 4, 5]
    assert isinstance(replies[3], EsError)
    assert replies[3].code == "internal"
