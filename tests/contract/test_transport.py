"""The transport contract: a test for each sentence of `Caller` and `Service` in domain/kernel/ports/transport.py.

Real servers answer over real sockets, and a worker's own loop serves.
"""

from __future__ import annotations

import threading
import time

import pytest

from domain.kernel.errors import EsError, PartUnavailable, UnknownRequest
from domain.kernel.messages import INPUT_DEPTH, LATER, MAX_DEPTH, MAX_MESSAGE_BYTES, Body, Reply, Request
from domain.kernel.ports.transport import Caller
from domain.users.errors import EmailTaken, UserNotFound
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
    time_out,
)
from tests.support.waiting import DEADLINE_S, eventually

# --- one request -----------------------------------------------------------------------------


def test_a_request_is_answered(echoing: Serving, caller: Caller) -> None:
    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}
    assert echoing.service.seen == [{"n": 1}]


def test_the_kind_of_a_request_reaches_the_service(transport: Transport, caller: Caller) -> None:
    transport.serve(lambda request: {"kind": request.kind})

    assert caller.ask(ROLE, "users.get", {}) == {"kind": "users.get"}


@pytest.mark.parametrize(
    "body",
    [
        {},
        {"text": 'ü ☃ 🎉 " \\ \n \x00'},
        {"id": "9223372036854775807", "n": 9223372036854775807},
        {"nested": {"list": [1, 2.5, None, True, {"deep": []}]}},
        {"lone surrogate": "\ud800"},
        {"large": "x" * (MAX_MESSAGE_BYTES - 200)},
    ],
    ids=lambda body: next(iter(body), "empty"),
)
def test_a_body_arrives_and_returns_unchanged(echoing: Serving, caller: Caller, body: Body) -> None:
    assert caller.ask(ROLE, "echo", body) == body


@pytest.mark.parametrize("error", [EmailTaken(), UserNotFound(7), PartUnavailable("vault", "it is down")])
def test_an_error_as_a_reply_is_raised_with_all_its_fields(
    transport: Transport, caller: Caller, error: EsError
) -> None:
    transport.serve(lambda _: error)

    with pytest.raises(EsError) as raised:
        caller.ask(ROLE, "echo", {})

    assert raised.value.to_wire() == error.to_wire()
    assert raised.value.kind is error.kind


def test_a_request_without_a_reply_in_time_is_unavailable(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    error = time_out(caller, clock, transport.serve(lambda _: LATER))

    assert "outcome is unknown" in str(error)
    assert "retry is safe" in error.hint
    assert "command id" not in error.hint, "a query has none"


def test_without_a_worker_a_request_is_unavailable_at_once(caller: Caller) -> None:
    asked_at_s = time.monotonic()

    with pytest.raises(PartUnavailable, match="not running") as refused:
        caller.ask(ROLE, "echo", {}, timeout_s=DEADLINE_S * 2)

    assert time.monotonic() - asked_at_s < DEADLINE_S, "long before its timeout"
    assert "es up" in refused.value.hint


def test_a_late_reply_is_not_the_reply_to_the_next_request(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    late = threading.Event()
    serving = transport.serve(lambda request: echo(request) if request.body["n"] or late.is_set() else LATER)
    time_out(caller, clock, serving, n=0)
    late.set()

    assert [caller.ask(ROLE, "echo", {"n": number}) for number in (1, 2)] == [{"n": 1}, {"n": 2}]


def test_a_reply_that_is_too_large_is_an_error_in_its_place(transport: Transport, caller: Caller) -> None:
    transport.serve(
        lambda request: {"n": request.body["n"], "pad": "x" * (request.body["n"] * MAX_MESSAGE_BYTES)}
    )

    replies = list(caller.pipeline(ROLE, questions(3)))

    assert isinstance(replies[1], EsError)
    assert replies[1].code == "request-too-large"
    assert replies[0] == {"n": 0, "pad": ""}


def nested(levels: int) -> Body:
    body: Body = {}
    for _ in range(levels - 1):
        body = {"in": body}
    return body


def test_a_request_or_reply_that_is_nested_too_deeply_fails_alone(
    transport: Transport, caller: Caller
) -> None:
    transport.serve(lambda request: {"n": request.body["n"], **nested(request.body["depth"])})
    depths = [1, INPUT_DEPTH, MAX_DEPTH, 985, 100_000, 1]
    asked = [("echo", {"n": n, "depth": depth}) for n, depth in enumerate(depths)]
    sent = [("echo", {"n": n, "depth": 1, **nested(depth)}) for n, depth in enumerate(depths)]

    replies = [*caller.pipeline(ROLE, asked), *caller.pipeline(ROLE, sent)]

    codes = [reply.code if isinstance(reply, EsError) else "done" for reply in replies]
    assert codes == ["done", "done", *["invalid-input"] * 3, "done"] * 2


def test_an_error_that_repeats_a_large_request_arrives(transport: Transport, caller: Caller) -> None:
    transport.serve(lambda request: UnknownRequest(request.kind))

    replies = list(caller.pipeline(ROLE, [("\x01\ud800" * 100_000, {}), ("x", {})]))

    assert [str(reply)[:27] for reply in replies] == ["no worker knows the request"] * 2


def test_a_caller_can_be_closed_twice_and_used_again(echoing: Serving, caller: Caller) -> None:
    caller.ask(ROLE, "echo", {})

    caller.close()
    caller.close()

    assert caller.ask(ROLE, "echo", {"n": 1}) == {"n": 1}


# --- later -----------------------------------------------------------------------------------


def test_a_request_answered_with_later_returns_with_its_memo(transport: Transport, caller: Caller) -> None:
    def third_time(request: Request) -> Reply:
        request.memo["times"] = request.memo.get("times", 0) + 1
        return {"times": request.memo["times"]} if request.memo["times"] == 3 else LATER

    transport.serve(third_time)

    assert caller.ask(ROLE, "echo", {}) == {"times": 3}
    assert caller.ask(ROLE, "echo", {}) == {"times": 3}, "a memo starts empty"


def test_a_request_that_waits_does_not_delay_others(transport: Transport) -> None:
    go = threading.Event()
    transport.serve(
        lambda request: LATER if request.body["n"] == "waits" and not go.is_set() else echo(request)
    )

    with background(transport.caller().ask, ROLE, "echo", {"n": "waits"}, timeout_s=DEADLINE_S) as waiting:
        assert numbers(transport.caller().pipeline(ROLE, questions(20))) == list(range(20))
        assert not waiting.done()
        go.set()
        assert waiting.result(DEADLINE_S) == {"n": "waits"}


def test_a_request_of_a_disconnected_caller_is_dropped(
    transport: Transport, caller: Caller, clock: Clock
) -> None:
    serving = transport.serve(lambda request: LATER if request.body["n"] == "gone" else echo(request))
    vanishing = transport.caller()
    time_out(vanishing, clock, serving, n="gone")
    vanishing.close()

    def is_dropped() -> bool:
        caller.ask(ROLE, "echo", {"n": "here"})
        return serving.service.batches[-1] == [{"n": "here"}]

    eventually(is_dropped, "the service no longer receives it")
    assert {"n": "gone"} in serving.service.batches[0], "the premise: it was received before"


# --- stopping and crashing -------------------------------------------------------------------


def test_a_server_that_stops_finishes_waiting_requests(transport: Transport, caller: Caller) -> None:
    stopping = threading.Event()
    serving = transport.serve(lambda request: echo(request) if stopping.is_set() else LATER)

    with background(caller.ask, ROLE, "echo", {"n": 1}, timeout_s=DEADLINE_S) as asking:
        eventually(lambda: bool(serving.service.seen), "the worker has the request")
        serving.begin_to_stop()
        stopping.set()
        assert asking.result(DEADLINE_S) == {"n": 1}


def test_a_server_that_stops_does_not_wait_for_ever(
    transport: Transport, caller: Caller, clock: Clock, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("workers.runtime.loop.DRAIN_S", 0.1)
    serving = transport.serve(lambda _: LATER)

    with background(caller.ask, ROLE, "echo", {}, timeout_s=SHORT_S) as asking:
        eventually(lambda: bool(serving.service.seen), "the worker has the request")
        serving.stop()
        clock.let_pass(SHORT_S)
        with pytest.raises(PartUnavailable):
            asking.result(DEADLINE_S)


def test_a_crash_for_one_request_leaves_the_others_answered(transport: Transport, caller: Caller) -> None:
    def answer(request: Request) -> Reply:
        if request.body["n"] == 3:
            raise ZeroDivisionError
        return echo(request)

    transport.serve(answer)

    replies = list(caller.pipeline(ROLE, questions(6)))

    assert numbers(replies) == [0, 1, 2, "AnsweredError", 4, 5]
    assert isinstance(replies[3], EsError)
    assert replies[3].code == "internal"


# --- waking ----------------------------------------------------------------------------------


def test_a_receive_that_waits_returns_at_once_when_it_is_woken(transport: Transport) -> None:
    server = transport.server()
    try:
        server.receive(1, 0.0)
        with background(server.receive, 1, DEADLINE_S) as received:
            server.wake()

            assert received.result(DEADLINE_S / 2) == []

        server.wake()
        with background(server.receive, 1, DEADLINE_S) as received:
            assert received.result(DEADLINE_S / 2) == [], "or else the next one"
    finally:
        server.close()
