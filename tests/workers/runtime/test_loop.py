"""The loop of a worker over a scripted server: the reply to each request, and the order of a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.log import Log
from domain.kernel.errors import AnsweredError, Damaged, EsError, PartUnavailable
from domain.kernel.messages import IDLE, LATER, Reply, Request
from domain.users.errors import EmailTaken
from tests.support.loop import NumberedDelivery, ScriptedLoop, ScriptedServer, ScriptedService, echo
from workers.runtime.loop import BATCH_LIMIT, InternalError, opened, serve

VAULT_DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused")


@pytest.fixture
def loop(log: Log) -> ScriptedLoop:
    return ScriptedLoop(log)


class Clock:
    """Stands in for `time`: it moves only if a test moves it."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.runtime.loop.time", clock)
    return clock


# --- serving ---------------------------------------------------------------------------------


def test_waiting_requests_are_one_batch_and_each_gets_its_reply(loop: ScriptedLoop) -> None:
    loop.serve([1, 2, 3], [4])

    assert loop.service.batches == [[1, 2, 3], [4]]
    assert loop.server.replies == {number: {"n": number} for number in (1, 2, 3, 4)}
    assert loop.server.limits == {BATCH_LIMIT}


def test_without_requests_the_service_is_not_called(loop: ScriptedLoop) -> None:
    loop.serve([], [], [])

    assert loop.service.batches == []
    assert loop.server.calls == ["stop listening", "close"]


def test_a_returned_error_is_the_reply_to_its_request_alone(loop: ScriptedLoop) -> None:
    loop.serve([1, 2, 3], reply=lambda request: EmailTaken() if request.body["n"] == 2 else {"ok": 1})

    assert loop.server.replies == {1: {"ok": 1}, 2: EmailTaken(), 3: {"ok": 1}}


# --- failing ---------------------------------------------------------------------------------


def _crashing_at(bad: int) -> Callable[[Request], Reply]:
    def reply(request: Request) -> Reply:
        if request.body["n"] == bad:
            raise ZeroDivisionError("canary-5f1d")
        return {"ok": request.body["n"]}

    return reply


def test_after_a_crash_each_request_is_retried_alone_and_one_fails(
    loop: ScriptedLoop, log_file: Path
) -> None:
    loop.serve([1, 2, 3, 4], reply=_crashing_at(3))

    assert loop.service.batches == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert loop.server.replies == {1: {"ok": 1}, 2: {"ok": 2}, 3: InternalError(), 4: {"ok": 4}}
    logged = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [(line["action"], line["requests"]) for line in logged] == [
        ("batch-crashed", 4),
        ("batch-crashed", 1),
    ]


def test_a_crash_does_not_end_the_worker(loop: ScriptedLoop) -> None:
    loop.serve([1], [2], reply=_crashing_at(1))

    assert loop.server.replies == {1: InternalError(), 2: {"ok": 2}}


def test_the_text_of_a_crash_is_in_no_reply_and_in_no_log(loop: ScriptedLoop, log_file: Path) -> None:
    loop.serve([1], reply=_crashing_at(1))

    reply = loop.server.replies[1]
    assert isinstance(reply, EsError)
    assert "canary" not in log_file.read_text() + json.dumps(reply.to_wire())
    assert "ZeroDivisionError" in log_file.read_text()
    assert "_crashing_at" in log_file.read_text() or "reply" in log_file.read_text(), "the place is logged"


def _raising(error: BaseException) -> Callable[..., Any]:
    def fail(*_: object) -> Any:
        raise error

    return fail


def test_a_raised_outage_is_the_reply_to_the_whole_batch_without_retries(loop: ScriptedLoop) -> None:
    loop.serve([1, 2, 3], reply=_raising(VAULT_DOWN))

    assert loop.server.replies == dict.fromkeys((1, 2, 3), VAULT_DOWN)
    assert len(loop.service.batches) == 1
    assert set(loop.reported) == {VAULT_DOWN}


@pytest.mark.parametrize(
    "error", [VAULT_DOWN, AnsweredError.from_wire(VAULT_DOWN.to_wire())], ids=["own", "of another worker"]
)
def test_an_outage_in_one_reply_is_reported_and_a_refusal_is_not(loop: ScriptedLoop, error: EsError) -> None:
    replies: list[Reply] = [EmailTaken(), error, {}]

    loop.serve([1, 2, 3], reply=lambda _: replies.pop(0))

    assert [each for each in loop.reported if each] == [error]


def test_a_missing_reply_is_a_bug_that_ends_the_worker(loop: ScriptedLoop) -> None:
    class Forgetful(ScriptedService):
        def handle(self, batch: Sequence[Request]) -> list[Reply]:
            return super().handle(batch)[1:]

    loop.service, loop.server = Forgetful(echo), ScriptedServer([1, 2])

    with pytest.raises(ValueError):
        loop.serve_until(lambda: False)

    assert loop.server.replies == {}, "no reply goes to the wrong caller"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit])
def test_an_interruption_is_not_taken_for_a_bad_request(
    loop: ScriptedLoop, interruption: type[BaseException]
) -> None:
    with pytest.raises(interruption):
        loop.serve([1], reply=_raising(interruption()))

    assert loop.server.replies == {}


def test_running_out_of_memory_fails_one_request(loop: ScriptedLoop) -> None:
    loop.serve([1], reply=_raising(MemoryError()))

    assert loop.server.replies == {1: InternalError()}


# --- later -----------------------------------------------------------------------------------


def _second_ready_at_its_third_call(request: Request) -> Reply:
    if request.body["n"] != 2:
        return {"ok": request.body["n"]}
    request.memo["calls"] = request.memo.get("calls", 0) + 1
    return {"calls": 3} if request.memo["calls"] == 3 else LATER


def test_a_waiting_request_comes_first_in_every_later_batch(loop: ScriptedLoop) -> None:
    loop.serve([1, 2], [3], [], [], reply=_second_ready_at_its_third_call)

    assert loop.service.batches == [[1, 2], [2, 3], [2]]
    assert loop.server.replies == {1: {"ok": 1}, 2: {"calls": 3}, 3: {"ok": 3}}


def test_the_loop_turns_faster_while_a_request_waits(loop: ScriptedLoop) -> None:
    loop.serve([2], [], [], [], reply=_second_ready_at_its_third_call)

    waits_s = loop.server.waits_s
    assert waits_s[1] < waits_s[0]
    assert waits_s[3] == waits_s[0], "and then it is idle again"


def test_a_waiting_request_of_a_disconnected_caller_is_dropped(loop: ScriptedLoop) -> None:
    def reply(request: Request) -> Reply:
        loop.server.gone.add(1)
        return LATER if request.body["n"] == 1 else {"ok": 1}

    loop.serve([1], [2], [], reply=reply)

    assert loop.service.batches == [[1], [2]]
    assert loop.server.replies == {2: {"ok": 1}}


def test_a_request_whose_reply_could_not_be_sent_waits_and_delays_no_other(loop: ScriptedLoop) -> None:
    loop.server.full = {1}

    def reply(request: Request) -> Reply:
        if request.body["n"] == 3:
            loop.server.full = set()
        return {"ok": 1}

    loop.serve([1, 2], [3], reply=reply)

    assert loop.service.batches == [[2], [3], [1]]
    assert loop.server.replies.keys() == {1, 2, 3}


# --- stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "left_at_stop", "calls"),
    [
        ([[1], [2, 3], [4]], 2, ["answer [1]", "stop listening", "answer [2, 3]", "answer [4]", "close"]),
        ([[1]], 1, ["stop listening", "answer [1]", "close"]),
    ],
    ids=["after a batch", "at once"],
)
def test_a_stop_refuses_new_requests_answers_received_ones_then_closes(
    loop: ScriptedLoop, turns: list[list[int]], left_at_stop: int, calls: list[str]
) -> None:
    loop.server.turns = [*turns]

    loop.serve_until(lambda: len(loop.server.turns) == left_at_stop)

    assert loop.server.calls == calls


def test_a_stop_waits_for_waiting_requests(loop: ScriptedLoop) -> None:
    loop.serve([2], reply=_second_ready_at_its_third_call)

    assert loop.server.replies == {2: {"calls": 3}}


def test_a_stop_leaves_an_idle_request_to_the_next_worker(loop: ScriptedLoop) -> None:
    loop.serve([1, 2], [], [3], reply=lambda request: IDLE if request.body["n"] == 1 else {"ok": 1})

    assert loop.service.batches == [[1, 2], [1], [1, 3], [1]], (
        "handed over while the worker runs, and once after it"
    )
    assert loop.server.replies == {2: {"ok": 1}, 3: {"ok": 1}}


def test_a_stop_gives_up_on_a_request_that_is_never_ready(loop: ScriptedLoop, clock: Clock) -> None:
    def never(_: Request) -> Reply:
        clock.now_s += 1.0
        return LATER

    loop.serve([1], reply=never)

    assert loop.server.calls[-1] == "close"
    assert len(loop.service.batches) == 6, "once, and then for the 5 s of a drain"


class SlowServer(ScriptedServer):
    """Each receive takes half a second."""

    def __init__(self, clock: Clock, *turns: Sequence[int]) -> None:
        super().__init__(*turns)
        self._clock = clock

    def receive(self, limit: int, wait_s: float) -> list[NumberedDelivery]:
        self._clock.now_s += 0.5
        return super().receive(limit, wait_s)


def test_a_stop_ends_although_requests_keep_arriving(loop: ScriptedLoop, clock: Clock) -> None:
    loop.server = SlowServer(clock, *([number] for number in range(1000)))

    loop.serve_until(lambda: True)

    assert loop.server.calls[-1] == "close"
    assert len(loop.server.replies) == 10


# --- a service whose parts are unavailable ---------------------------------------------------


@pytest.mark.parametrize("missing_part", [VAULT_DOWN, Damaged("vault", "it is no database")])
def test_until_its_parts_recover_requests_are_answered_with_the_outage(
    log: Log, log_file: Path, clock: Clock, missing_part: EsError
) -> None:
    server, service = SlowServer(clock, [1], [], [2], [3]), ScriptedService(echo)
    failures, missing = [missing_part, missing_part], list[EsError]()

    def open_service() -> ScriptedService:
        if failures:
            raise failures.pop()
        return service

    found = opened(open_service, server, stopping=lambda: False, log=log, on_missing=missing.append)

    assert found is service
    assert server.replies == dict.fromkeys((1, 2, 3), missing_part)
    assert missing == [missing_part, missing_part]
    assert "close" not in server.calls
    assert log_file.read_text().count("cannot-open") == 1, "one outage is logged once"


def test_a_stop_during_an_outage_answers_received_requests(log: Log) -> None:
    server = ScriptedServer()

    service = opened(_raising(VAULT_DOWN), server, stopping=lambda: True, log=log, on_missing=lambda _: None)
    server.turns = [[1]]
    serve(service, server, stopping=lambda: True, log=log)

    assert server.replies == {1: VAULT_DOWN}
    assert server.calls == ["stop listening", "answer [1]", "close"]
