"""The transport contract of replies as they arrive: `Caller.exchange` in domain/kernel/ports/transport.py."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from typing import Any

import pytest

from domain.kernel.errors import EsError
from domain.kernel.messages import LATER, MAX_MESSAGE_BYTES, Body, Question, Reply, Request
from domain.kernel.ports.transport import Caller
from domain.users.errors import EmailTaken
from tests.support.transports import (
    ROLE,
    SHORT_S,
    Clock,
    Serving,
    Transport,
    background,
    echo,
    numbers,
    questions,
)
from tests.support.waiting import DEADLINE_S, eventually


def named(arrived: Iterator[tuple[int, Body | EsError]]) -> list[tuple[int, Any]]:
    """Each reply by the number in it or the type of an error, with the number of its request."""
    return [(number, *numbers([reply])) for number, reply in arrived]


@pytest.mark.parametrize("count", [0, 1, 2, 5000])
def test_each_request_has_one_reply_with_its_number(echoing: Serving, caller: Caller, count: int) -> None:
    arrived = named(caller.exchange(ROLE, iter(questions(count))))

    assert sorted(arrived) == [(number, number) for number in range(count)]


def test_a_slow_request_does_not_delay_the_replies_to_later_ones(
    transport: Transport, caller: Caller
) -> None:
    let_go = threading.Event()
    transport.serve(
        lambda request: LATER if request.body["n"] == 0 and not let_go.is_set() else echo(request)
    )

    replies = caller.exchange(ROLE, iter(questions(1000)))
    others = [next(replies)[0] for _ in range(999)]
    let_go.set()

    assert sorted(others) == list(range(1, 1000)), "more than a window of requests overtook it"
    assert named(replies) == [(0, 0)]


def test_replies_arrive_while_the_source_waits_for_its_next_request(echoing: Serving, caller: Caller) -> None:
    answered = threading.Semaphore(0)

    def one_by_one() -> Iterator[Question]:
        for question in questions(50):
            yield question
            assert answered.acquire(timeout=DEADLINE_S), "the reply while the source waits"

    arrived = []
    for number, _ in caller.exchange(ROLE, one_by_one()):
        arrived.append(number)
        answered.release()

    assert arrived == list(range(50))


def test_a_request_in_the_middle_is_given_up_alone(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    transport.serve(lambda request: LATER if request.body["n"] == 2 else echo(request))

    replies = caller.exchange(ROLE, questions(5), timeout_s=SHORT_S)
    others = sorted(next(replies)[0] for _ in range(4))
    with background(lambda: named(replies)) as waiting:
        clock.let_pass(SHORT_S * 2)
        assert waiting.result(DEADLINE_S) == [(2, "PartUnavailable")]

    assert others == [0, 1, 3, 4]


def test_a_reply_after_the_deadline_is_of_no_other_request(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    let_go = threading.Event()

    def late_once(request: Request) -> Reply:
        return LATER if request.body["n"] == "late" and not let_go.is_set() else echo(request)

    transport.serve(late_once)
    with background(caller.ask, ROLE, "echo", {"n": "late"}, timeout_s=SHORT_S) as asking:
        eventually(lambda: asking.running(), "it waits")
        clock.let_pass(SHORT_S * 2)
        assert isinstance(asking.exception(DEADLINE_S), EsError)
    let_go.set()

    assert named(caller.exchange(ROLE, questions(3))) == [(0, 0), (1, 1), (2, 2)]


@pytest.mark.parametrize("window", [1, 7])
def test_a_reply_makes_room_as_it_arrives(
    transport: Transport, caller: Caller, monkeypatch: pytest.MonkeyPatch, window: int
) -> None:
    monkeypatch.setattr("adapters.pipeline.WINDOW", window)
    let_go = threading.Event()

    def all_but_the_first(request: Request) -> Reply:
        return LATER if request.body["n"] == 0 and window > 1 and not let_go.is_set() else echo(request)

    serving = transport.serve(all_but_the_first)
    replies = caller.exchange(ROLE, iter(questions(50)))
    arrived = [next(replies)[0] for _ in range(49)]
    let_go.set()

    assert sorted([*arrived, next(replies)[0]]) == list(range(50))
    assert max(len(batch) for batch in serving.service.batches) <= window


def test_an_error_as_a_request_and_one_too_large_have_their_numbers(echoing: Serving, caller: Caller) -> None:
    large: Question = ("echo", {"n": 1, "pad": "x" * MAX_MESSAGE_BYTES})

    arrived = named(caller.exchange(ROLE, iter([EmailTaken(), *questions(1), large, *questions(1)])))

    assert sorted(arrived) == [(0, "EmailTaken"), (1, 0), (2, "MessageTooLarge"), (3, 0)]


def test_without_a_worker_every_request_is_unavailable(caller: Caller) -> None:
    assert sorted(named(caller.exchange(ROLE, questions(3)))) == [
        (number, "PartUnavailable") for number in range(3)
    ]


def test_an_exchange_that_is_left_early_does_not_disturb_the_next_one(
    echoing: Serving, caller: Caller
) -> None:
    replies = caller.exchange(ROLE, questions(100))
    next(replies)

    replies.close()  # type: ignore[attr-defined]

    assert sorted(named(caller.exchange(ROLE, questions(100)))) == [(number, number) for number in range(100)]


def test_a_failing_source_fails_the_exchange_after_the_replies(echoing: Serving, caller: Caller) -> None:
    def failing() -> Iterator[Question]:
        yield from questions(2)
        raise LookupError("the input ended badly")

    replies = caller.exchange(ROLE, failing())

    assert sorted([next(replies)[0], next(replies)[0]]) == [0, 1]
    with pytest.raises(LookupError):
        next(replies)
