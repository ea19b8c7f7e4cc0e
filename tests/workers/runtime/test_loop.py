"""The loop of a worker over a scripted server: the reply to each request, and the order of a stop."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from adapters.log import Log
from domain.kernel.errors import AnsweredError, Damaged, EsError, PartUnavailable
from domain.kernel.messages import LATER, Reply, Request
from domain.users.errors import EmailTaken
from tests.support.loop import NumberedDelivery, ScriptedServer, ScriptedService
from workers.runtime.loop import BATCH_LIMIT, DRAIN_S, InternalError, opened, serve

VAULT_DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused")
ServeAll = Callable[[ScriptedServer, ScriptedService], list[EsError]]


@pytest.fixture
def serve_all(log: Log) -> ServeAll:
    """Serves every turn of a server, then stops; returns the reported errors."""

    def run(server: ScriptedServer, service: ScriptedService) -> list[EsError]:
        reported: list[EsError] = []
        serve(service, server, stopping=server.is_exhausted, on_unavailable=reported.append, log=log)
        return reported

    return run


class Clock:
    """Stands in for `time`: moves only if a test moves it."""

    now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    clock = Clock()
    monkeypatch.setattr("workers.runtime.loop.time", clock)
    return clock


# --- serving ---------------------------------------------------------------------------------


def test_waiting_requests_are_one_batch_and_each_gets_its_reply(serve_all: ServeAll) -> None:
    server, service = ScriptedServer([1, 2, 3], [4]), ScriptedService()

    serve_all(server, service)

    assert service.batches == [[1, 2, 3], [4]]
    assert server.replies == {number: {"n": number} for number in (1, 2, 3, 4)}
    assert server.limits == {BATCH_LIMIT}


def test_without_requests_the_service_is_not_called(serve_all: ServeAll) -> None:
    server, service = ScriptedServer([], [], []), ScriptedService()

    serve_all(server, service)

    assert service.batches == []
    assert server.calls == ["stop listening", "close"]


def test_a_returned_error_is_the_reply_to_its_request_alone(serve_all: ServeAll) -> None:
    server = ScriptedServer([1, 2, 3])

    serve_all(server, ScriptedService(lambda request: EmailTaken() if request.body["n"] == 2 else {"ok": 1}))

    assert server.replies == {1: {"ok": 1}, 2: EmailTaken(), 3: {"ok": 1}}


# --- failing ---------------------------------------------------------------------------------


def _crashing_at(bad: int) -> ScriptedService:
    def reply(request: Request) -> Reply:
        if request.body["n"] == bad:
            raise ZeroDivisionError("canary-5f1d")
        return {"ok": request.body["n"]}

    return ScriptedService(reply)


def test_after_a_crash_each_request_is_retried_alone_and_one_fails(
    serve_all: ServeAll, log_file: Path
) -> None:
    server, service = ScriptedServer([1, 2, 3, 4]), _crashing_at(3)

    serve_all(server, service)

    assert service.batches == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert server.replies == {1: {"ok": 1}, 2: {"ok": 2}, 3: InternalError(), 4: {"ok": 4}}
    logged = [json.loads(line) for line in log_file.read_text().splitlines()]
    assert [(line["action"], line["requests"]) for line in logged] == [
        ("batch-crashed", 4),
        ("batch-crashed", 1),
    ]


def test_a_crash_does_not_end_the_worker(serve_all: ServeAll) -> None:
    server = ScriptedServer([1], [2])

    serve_all(server, _crashing_at(1))

    assert server.replies == {1: InternalError(), 2: {"ok": 2}}


def test_the_text_of_a_crash_is_in_no_reply_and_in_no_log(serve_all: ServeAll, log_file: Path) -> None:
    server = ScriptedServer([1])

    serve_all(server, _crashing_at(1))

    reply = server.replies[1]
    assert isinstance(reply, EsError)
    assert "canary" not in log_file.read_text() + json.dumps(reply.to_wire())
    assert "ZeroDivisionError" in log_file.read_text()
    assert "_crashing_at" in log_file.read_text() or "reply" in log_file.read_text(), "the place is logged"


def test_a_raised_outage_is_the_reply_to_the_whole_batch_without_retries(serve_all: ServeAll) -> None:
    def refuse(_: Request) -> Reply:
        raise VAULT_DOWN

    server, service = ScriptedServer([1, 2, 3]), ScriptedService(refuse)

    reported = serve_all(server, service)

    assert server.replies == dict.fromkeys((1, 2, 3), VAULT_DOWN)
    assert len(service.batches) == 1
    assert set(reported) == {VAULT_DOWN}


@pytest.mark.parametrize(
    "error", [VAULT_DOWN, AnsweredError.from_wire(VAULT_DOWN.to_wire())], ids=["own", "answered"]
)
def test_an_outage_in_one_reply_is_reported_and_a_refusal_is_not(serve_all: ServeAll, error: EsError) -> None:
    replies: list[Reply] = [EmailTaken(), error, {}]

    reported = serve_all(ScriptedServer([1, 2, 3]), ScriptedService(lambda _: replies.pop(0)))

    assert reported == [error]


def test_a_missing_reply_is_a_bug_that_ends_the_worker(serve_all: ServeAll) -> None:
    class Forgetful(ScriptedService):
        def handle(self, batch: Sequence[Request]) -> list[Reply]:
            return super().handle(batch)[1:]

    server = ScriptedServer([1, 2])

    with pytest.raises(ValueError):
        serve_all(server, Forgetful())

    assert server.replies == {}, "no reply goes to the wrong caller"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, MemoryError])
def test_only_an_exception_is_taken_for_a_bad_request(
    serve_all: ServeAll, interruption: type[BaseException]
) -> None:
    def interrupt(_: Request) -> Reply:
        raise interruption

    server, service = ScriptedServer([1]), ScriptedService(interrupt)
    if issubclass(interruption, Exception):
        serve_all(server, service)
        assert server.replies == {1: InternalError()}
        return

    with pytest.raises(interruption):
        serve_all(server, service)
    assert server.replies == {}


# --- later -----------------------------------------------------------------------------------


def _second_ready_at_its_third_call() -> ScriptedService:
    def reply(request: Request) -> Reply:
        if request.body["n"] != 2:
            return {"ok": request.body["n"]}
        calls = request.memo["calls"] = request.memo.get("calls", 0) + 1
        return {"calls": 3} if calls == 3 else LATER

    return ScriptedService(reply)


def test_a_waiting_request_comes_first_in_every_later_batch(serve_all: ServeAll) -> None:
    server, service = ScriptedServer([1, 2], [3], [], []), _second_ready_at_its_third_call()

    serve_all(server, service)

    assert service.batches == [[1, 2], [2, 3], [2]]
    assert server.replies == {1: {"ok": 1}, 2: {"calls": 3}, 3: {"ok": 3}}


def test_the_loop_turns_faster_while_a_request_waits(serve_all: ServeAll) -> None:
    server = ScriptedServer([2], [], [], [])

    serve_all(server, _second_ready_at_its_third_call())

    assert server.waits_s[1] < server.waits_s[0]
    assert server.waits_s[3] == server.waits_s[0], "and then it is idle again"


def test_a_waiting_request_of_a_disconnected_caller_is_dropped(serve_all: ServeAll) -> None:
    server = ScriptedServer([1], [2], [])

    def reply(request: Request) -> Reply:
        server.gone.add(1)
        return LATER if request.body["n"] == 1 else {"ok": 1}

    service = ScriptedService(reply)
    serve_all(server, service)

    assert service.batches == [[1], [2]]
    assert server.replies == {2: {"ok": 1}}


# --- stopping --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("turns", "served", "calls"),
    [
        ([[1], [2, 3], [4]], 1, ["answer [1]", "stop listening", "answer [2, 3]", "answer [4]", "close"]),
        ([[1]], 0, ["stop listening", "answer [1]", "close"]),
    ],
    ids=["after the first batch", "at once"],
)
def test_a_stop_refuses_new_requests_answers_received_ones_then_closes(
    log: Log, turns: list[list[int]], served: int, calls: list[str]
) -> None:
    server = ScriptedServer(*turns)

    serve(ScriptedService(), server, stopping=lambda: len(server.turns) == len(turns) - served, log=log)

    assert server.calls == calls


def test_a_stop_waits_for_waiting_requests(serve_all: ServeAll) -> None:
    server = ScriptedServer([2])

    serve_all(server, _second_ready_at_its_third_call())

    assert server.replies == {2: {"calls": 3}}


def test_a_stop_gives_up_on_a_request_that_is_never_ready(serve_all: ServeAll, clock: Clock) -> None:
    def never(_: Request) -> Reply:
        clock.now_s += 1.0
        return LATER

    server, service = ScriptedServer([1]), ScriptedService(never)

    serve_all(server, service)

    assert server.calls[-1] == "close"
    assert len(service.batches) == 1 + DRAIN_S == 6


def test_a_stop_ends_although_requests_keep_arriving(log: Log, clock: Clock) -> None:
    class Endless(ScriptedServer):
        def receive(self, limit: int, wait_s: float) -> list[NumberedDelivery]:
            clock.now_s += 0.5
            return [NumberedDelivery(len(self.replies))]

    server = Endless()

    serve(ScriptedService(), server, stopping=lambda: True, log=log)

    assert server.calls[-1] == "close"
    assert len(server.replies) == 2 * DRAIN_S == 10


# --- a service whose parts are unavailable ---------------------------------------------------


def test_until_its_parts_recover_requests_are_answered_with_the_outage(
    log: Log, log_file: Path, clock: Clock
) -> None:
    class Slow(ScriptedServer):
        def receive(self, limit: int, wait_s: float) -> list[NumberedDelivery]:
            clock.now_s += 0.5
            return super().receive(limit, wait_s)

    server, service = Slow([1], [], [2], [3]), ScriptedService()
    failures = [VAULT_DOWN, VAULT_DOWN]
    missing: list[EsError] = []

    def open_service() -> ScriptedService:
        if failures:
            raise failures.pop()
        return service

    found = opened(open_service, server, stopping=lambda: False, log=log, on_missing=missing.append)

    assert found is service
    assert server.replies == dict.fromkeys((1, 2, 3), VAULT_DOWN)
    assert missing == [VAULT_DOWN, VAULT_DOWN]
    assert "close" not in server.calls
    assert log_file.read_text().count("cannot-open") == 1, "one outage is logged once"


def _raising(error: EsError) -> Callable[[], ScriptedService]:
    def open_service() -> ScriptedService:
        raise error

    return open_service


def test_a_stop_during_an_outage_answers_received_requests(log: Log) -> None:
    server = ScriptedServer()

    service = opened(_raising(VAULT_DOWN), server, stopping=lambda: True, log=log, on_missing=lambda _: None)
    server.turns = [[1]]
    serve(service, server, stopping=lambda: True, log=log)

    assert server.replies == {1: VAULT_DOWN}
    assert server.calls == ["stop listening", "answer [1]", "close"]


def test_damage_is_raised_because_waiting_does_not_help(log: Log) -> None:
    damaged = _raising(Damaged("vault", "it is no database"))

    with pytest.raises(Damaged):
        opened(damaged, ScriptedServer(), stopping=lambda: False, log=log, on_missing=lambda _: None)
