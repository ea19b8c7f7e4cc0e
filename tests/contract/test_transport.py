"""The transport contract: a test for each sentence of `Caller` and `Service` in domain/kernel/ports/transport.py.

Real servers in threads and processes answer over real sockets; a worker's own loop serves. The second half
is about the local transport alone: whose sockets they are, and what strangers can send into them.
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
from tests.support.scripted import ROLE, SHORT_S, Clock, OpenCaller, Serve, Serving, echo, numbers, questions
from tests.support.waiting import DEADLINE_S, eventually

# --- one question ----------------------------------------------------------------------------


def test_a_question_is_answered(serve_by: Serve, caller: Caller) -> None:
    serving = serve_by(echo)

    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}
    assert serving.service.seen == [{"n": 1}]


def test_the_kind_of_a_question_reaches_the_service(serve_by: Serve, caller: Caller) -> None:
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
def test_a_body_arrives_and_comes_back_as_it_is(serve_by: Serve, caller: Caller, body: Body) -> None:
    serve_by(echo)

    assert caller.ask(ROLE, "echo", body) == body


@pytest.mark.parametrize("error", [EmailTaken(), UserNotFound(7), PartUnavailable("vault", "it is down")])
def test_the_error_of_an_answer_is_raised_with_its_code_kind_message_and_hint(
    serve_by: Serve, caller: Caller, error: EsError
) -> None:
    serve_by(lambda _: error)

    with pytest.raises(EsError) as raised:
        caller.ask(ROLE, "echo", {})

    assert raised.value.to_wire() == error.to_wire()
    assert raised.value.kind is error.kind


def test_a_question_without_an_answer_in_time_is_unavailable(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    serving = serve_by(lambda _: LATER)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, ROLE, "echo", {}, timeout_s=SHORT_S)
        eventually(lambda: bool(serving.service.seen), "the worker has it")
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable, match="outcome is unknown") as refused:
            asking.result(DEADLINE_S)

    assert "same command id" in refused.value.hint


def test_without_a_worker_a_question_is_unavailable_at_once(caller: Caller) -> None:
    asked_at_s = time.monotonic()

    with pytest.raises(PartUnavailable, match="not running") as refused:
        caller.ask(ROLE, "echo", {}, timeout_s=DEADLINE_S * 2)

    assert time.monotonic() - asked_at_s < DEADLINE_S, "long before the time is up"
    assert "es up" in refused.value.hint


def test_an_answer_that_comes_too_late_is_not_the_answer_of_the_next_question(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    late = threading.Event()
    serving = serve_by(lambda request: echo(request) if request.body["n"] or late.is_set() else LATER)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, ROLE, "echo", {"n": 0}, timeout_s=SHORT_S)
        eventually(lambda: {"n": 0} in serving.service.seen, "the worker has it")
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable):
            asking.result(DEADLINE_S)
    late.set()

    assert [caller.ask(ROLE, "echo", {"n": number}) for number in (1, 2)] == [{"n": 1}, {"n": 2}]


def test_an_answer_that_is_too_large_is_an_error_in_its_place(serve_by: Serve, caller: Caller) -> None:
    serve_by(lambda request: {"n": request.body["n"], "pad": "x" * (request.body["n"] * MAX_FRAME_BYTES)})

    replies = list(caller.pipeline(ROLE, questions(3)))

    assert isinstance(replies[1], EsError)
    assert replies[1].code == "request-too-large"
    assert replies[0] == {"n": 0, "pad": ""}


def test_closing_a_caller_twice_is_safe(serve_by: Serve, caller: Caller) -> None:
    serve_by(echo)
    caller.ask(ROLE, "echo", {})

    caller.close()
    caller.close()

    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}, "and it can be used again"


# --- many questions --------------------------------------------------------------------------


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_answers_come_in_order_of_the_questions(serve_by: Serve, caller: Caller, count: int) -> None:
    serve_by(echo)

    assert numbers(caller.pipeline(ROLE, iter(questions(count)))) == list(range(count))


def test_answers_come_in_order_even_when_the_last_is_ready_first(serve_by: Serve, caller: Caller) -> None:
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


def test_a_pipeline_hands_many_questions_over_at_once(serve_by: Serve, caller: Caller) -> None:
    serving = serve_by(lambda request: echo(request) if all_here(serving, 100) else LATER)

    assert numbers(caller.pipeline(ROLE, questions(100))) == list(range(100))


def all_here(serving: Serving, count: int) -> bool:
    return len({body["n"] for body in serving.service.seen}) == count


def test_a_batch_has_no_more_than_the_limit_of_fresh_requests(serve_by: Serve, caller: Caller) -> None:
    serving = serve_by(echo)

    assert len(numbers(caller.pipeline(ROLE, questions(3000), window=3000))) == 3000
    assert max(len(batch) for batch in serving.service.batches) <= 256


@pytest.mark.parametrize("window", [1, 7])
def test_at_most_a_window_of_questions_is_in_flight(serve_by: Serve, caller: Caller, window: int) -> None:
    let_go = threading.Event()
    serving = serve_by(lambda request: echo(request) if let_go.is_set() else LATER)
    taken: list[int] = []

    def producer() -> Iterator[Question]:
        for number, question in enumerate(questions(50)):
            taken.append(number)
            yield question

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(lambda: numbers(caller.pipeline(ROLE, producer(), window=window)))
        eventually(
            lambda: len(serving.service.batches[-1:] and serving.service.batches[-1]) == window, "full"
        )
        eventually(lambda: len(serving.service.batches) > 5, "it stays so")
        assert len({body["n"] for body in serving.service.seen}) == window
        assert len(taken) <= window + 1, "the next may be in hand, no more"
        let_go.set()
        assert asking.result(DEADLINE_S) == list(range(50))

    assert max(len(batch) for batch in serving.service.batches) <= window


def test_a_producer_that_waits_for_each_answer_is_not_kept_waiting(serve_by: Serve, caller: Caller) -> None:
    serve_by(echo)
    answers: list[Any] = []
    answered = threading.Semaphore(0)

    def one_by_one() -> Iterator[Question]:
        for number in range(50):
            yield "echo", {"n": number}
            assert answered.acquire(timeout=DEADLINE_S), "the answer before the next question"

    for reply in caller.pipeline(ROLE, one_by_one(), timeout_s=DEADLINE_S):
        answers += numbers([reply])
        answered.release()

    assert answers == list(range(50))


def test_a_producer_that_is_slower_than_the_timeout_is_no_failure(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    serve_by(echo)
    answers: list[Any] = []

    def slow() -> Iterator[Question]:
        for number, question in enumerate(questions(3)):
            clock.let_pass(SHORT_S * 1.5)  # the time runs from when a question is sent
            yield question
            eventually(lambda number=number: len(answers) > number, "the answer")  # type: ignore[misc]

    for reply in caller.pipeline(ROLE, slow(), timeout_s=SHORT_S):
        answers += numbers([reply])

    assert answers == [0, 1, 2]


def test_a_reader_that_is_slower_than_the_timeout_still_gets_its_answers(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    # As with `es … | less`: the answers have come in time, only nobody has looked at them yet.
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
    eventually(lambda: answered >= set(range(5)), "all is answered")
    await_what_was_answered(caller)
    clock.let_pass(SHORT_S * 1.5)

    assert numbers([first, *replies]) == [0, 1, 2, 3, 4]


def await_what_was_answered(caller: Caller) -> None:
    """What is asked now is answered after what was answered before, and its answer comes after those."""
    assert caller.ask(ROLE, "again", {"n": 0}) == {"n": 0}


def test_large_questions_with_large_answers_do_not_block_each_other(serve_by: Serve, caller: Caller) -> None:
    # More in both directions than the sockets and the worker take: each end has to read while it writes.
    serve_by(echo)

    replies = caller.pipeline(ROLE, questions(1200, pad="x" * 20_000), timeout_s=DEADLINE_S)

    assert numbers(replies) == list(range(1200))


def test_an_error_as_a_question_keeps_its_place(serve_by: Serve, caller: Caller) -> None:
    serving = serve_by(echo)
    mixed: list[Question] = [UserNotFound(1), *questions(2), EmailTaken(), *questions(1), EmailTaken()]

    replies = list(caller.pipeline(ROLE, mixed))

    assert replies == [UserNotFound(1), {"n": 0}, {"n": 1}, EmailTaken(), {"n": 0}, EmailTaken()]
    assert len(serving.service.seen) == 3, "nobody was bothered with them"


def test_nothing_but_errors_needs_no_worker(caller: Caller) -> None:
    assert list(caller.pipeline(ROLE, [EmailTaken(), UserNotFound(2)])) == [EmailTaken(), UserNotFound(2)]


def test_a_question_that_is_too_large_is_an_error_in_its_place(serve_by: Serve, caller: Caller) -> None:
    serve_by(echo)
    mixed = [*questions(1), ("echo", {"n": 1, "pad": "x" * MAX_FRAME_BYTES}), *questions(1)]

    replies = list(caller.pipeline(ROLE, mixed))

    assert [replies[0], replies[2]] == [{"n": 0}, {"n": 0}]
    assert isinstance(replies[1], EsError)
    assert (replies[1].code, replies[1].kind) == ("request-too-large", Kind.INVALID)


def test_a_question_without_an_answer_is_unavailable_in_its_place(
    serve_by: Serve, caller: Caller, clock: Clock
) -> None:
    is_read_on = threading.Event()

    def all_but_one(request: Request) -> Reply:
        if request.body["n"] != 1:
            # All are with the worker before any is answered: a caller sends nothing while nobody reads on.
            return echo(request) if all_here(serving, 4) else LATER
        if is_read_on.is_set():
            clock.let_pass(SHORT_S)
        return LATER

    serving = serve_by(all_but_one)
    replies = caller.pipeline(ROLE, questions(4), timeout_s=SHORT_S)

    first = next(replies)
    await_what_was_answered(caller)
    is_read_on.set()

    assert numbers([first, *replies]) == [0, "PartUnavailable", 2, 3]


def test_without_a_worker_every_question_is_unavailable_in_its_place(caller: Caller) -> None:
    assert numbers(caller.pipeline(ROLE, questions(3))) == ["PartUnavailable"] * 3


def test_a_failing_producer_fails_the_pipeline_after_the_answers(serve_by: Serve, caller: Caller) -> None:
    serve_by(echo)

    def failing() -> Iterator[Question]:
        yield from questions(2)
        raise LookupError("the input ended badly")

    replies = caller.pipeline(ROLE, failing())

    assert numbers([next(replies), next(replies)]) == [0, 1]
    with pytest.raises(LookupError):
        next(replies)


def test_a_pipeline_that_is_left_early_does_not_disturb_the_next_question(
    serve_by: Serve, caller: Caller
) -> None:
    serve_by(echo)
    replies = caller.pipeline(ROLE, questions(100))
    assert numbers([next(replies)]) == [0]

    replies.close()  # type: ignore[attr-defined]

    assert caller.ask(ROLE, "echo", {"n": "mine"}) == {"n": "mine"}


def test_many_callers_get_their_own_answers(serve_by: Serve, open_caller: OpenCaller) -> None:
    serve_by(echo)
    callers = [open_caller() for _ in range(20)]

    def ask(number: int) -> list[Any]:
        pipeline = callers[number].pipeline(ROLE, [("echo", {"n": (number, i)}) for i in range(100)])
        return numbers(pipeline)

    with ThreadPoolExecutor(20) as pool:
        answers = list(pool.map(ask, range(20)))

    assert answers == [[[number, i] for i in range(100)] for number in range(20)]


# --- later -----------------------------------------------------------------------------------


def test_a_request_answered_with_later_comes_again_with_its_memo(serve_by: Serve, caller: Caller) -> None:
    def third_time(request: Request) -> Reply:
        request.memo["times"] = request.memo.get("times", 0) + 1
        return {"times": request.memo["times"]} if request.memo["times"] == 3 else LATER

    serve_by(third_time)

    assert caller.ask(ROLE, "echo", {}) == {"times": 3}
    assert caller.ask(ROLE, "echo", {}) == {"times": 3}, "a memo starts empty"


def test_a_request_that_waits_does_not_hold_up_others(serve_by: Serve, open_caller: OpenCaller) -> None:
    go = threading.Event()
    serve_by(lambda request: LATER if request.body["n"] == "waits" and not go.is_set() else echo(request))

    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(open_caller().ask, ROLE, "echo", {"n": "waits"}, timeout_s=DEADLINE_S)
        assert numbers(open_caller().pipeline(ROLE, questions(20))) == list(range(20))
        assert not waiting.done()
        go.set()
        assert waiting.result(DEADLINE_S) == {"n": "waits"}


def test_a_caller_that_vanishes_is_dropped(
    serve_by: Serve, open_caller: OpenCaller, caller: Caller, clock: Clock
) -> None:
    serving = serve_by(lambda request: LATER if request.body["n"] == "gone" else echo(request))
    vanishing = open_caller()

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(vanishing.ask, ROLE, "echo", {"n": "gone"}, timeout_s=SHORT_S)
        eventually(lambda: {"n": "gone"} in serving.service.seen, "the worker has it")
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable):
            asking.result(DEADLINE_S)
    vanishing.close()

    def is_dropped() -> bool:
        caller.ask(ROLE, "echo", {"n": "here"})
        return serving.service.batches[-1] == [{"n": "here"}]

    eventually(is_dropped, "the service is not asked any more")


# --- stopping, dying, coming back ------------------------------------------------------------


def test_a_server_that_stops_finishes_what_waits(serve_by: Serve, caller: Caller) -> None:
    stopping = threading.Event()
    serving = serve_by(lambda request: echo(request) if stopping.is_set() else LATER)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S)
        eventually(lambda: bool(serving.service.seen), "the request has arrived")
        serving.begin_to_stop()
        stopping.set()
        assert asking.result(DEADLINE_S) == {"n": 1}


def test_a_server_that_stops_does_not_wait_for_ever(
    serve_by: Serve, caller: Caller, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.loop.DRAIN_S", 0.1)
    serving = serve_by(lambda _: LATER)

    with ThreadPoolExecutor(1) as pool:
        asking = pool.submit(caller.ask, ROLE, "echo", {}, timeout_s=SHORT_S)
        eventually(lambda: bool(serving.service.seen), "the request has arrived")
        serving.stop()
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable):
            asking.result(DEADLINE_S)


def test_a_service_that_crashes_answers_the_others(serve_by: Serve, caller: Caller) -> None:
    def answer(request: Request) -> Reply:
        if request.body["n"] == 3:
            raise ZeroDivisionError
        return echo(request)

    serve_by(answer)

    replies = list(caller.pipeline(ROLE, questions(6)))

    assert numbers(replies) == [0, 1, 2, "AnsweredError", 4, 5]
    assert isinstance(replies[3], EsError)
    assert replies[3].code == "internal"
