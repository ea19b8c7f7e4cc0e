"""The loop of a worker, over a server that is made up: who is answered what, and in which order it stops."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest

from adapters.log import Log, open_log
from domain.kernel.errors import AnsweredError, Damaged, EsError, PartUnavailable
from domain.kernel.messages import LATER, Later, Reply, Request
from domain.users.errors import EmailTaken
from workers.runtime.loop import BATCH_LIMIT, InternalError, opened, serve


class Delivery:
    def __init__(self, number: int) -> None:
        self.request = Request("echo", {"n": number})
        self.is_gone = False

    @property
    def number(self) -> int:
        return int(self.request.body["n"])


class MadeUpServer:
    """Hands out what it was given, a list at a time, and writes everything down."""

    def __init__(self, *turns: Sequence[Delivery]) -> None:
        self.turns = list(turns)
        self.story: list[str] = []
        self.answers: dict[int, Reply] = {}
        self.asked: list[tuple[int, float]] = []

    def receive(self, limit: int, wait_s: float) -> list[Delivery]:
        self.asked.append((limit, wait_s))
        return list(self.turns.pop(0)) if self.turns else []

    def answer(self, replies: Sequence[tuple[Delivery, Reply]]) -> None:
        for delivery, reply in replies:
            assert delivery.number not in self.answers, "one reply for each request"
            assert not isinstance(reply, Later)
            self.answers[delivery.number] = reply
        self.story.append(f"answered {[delivery.number for delivery, _ in replies]}")

    def is_gone(self, delivery: Delivery) -> bool:
        return delivery.is_gone

    def stop_listening(self) -> None:
        self.story.append("stopped listening")

    def close(self) -> None:
        self.story.append("closed")


class MadeUpService:
    role = "echo"

    def __init__(self, answer: Callable[[Request], Reply] | None = None) -> None:
        self._answer = answer or (lambda request: dict(request.body))
        self.batches: list[list[int]] = []

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        self.batches.append([request.body["n"] for request in batch])
        return [self._answer(request) for request in batch]

    def close(self) -> None:
        raise AssertionError("whoever made the service closes it")


class Clock:
    """Stands still until it is moved."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def monotonic(self) -> float:
        return self.now_s


@pytest.fixture
def log_file(tmp_path: Path) -> Path:
    return tmp_path / "worker.log"


@pytest.fixture
def log(log_file: Path) -> Log:
    return open_log("test-runtime", log_file)


def until(server: MadeUpServer) -> Callable[[], bool]:
    """Stop when the server has handed everything out."""
    return lambda: not server.turns


def logged(log_file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in log_file.read_text().splitlines()]


def deliveries(*numbers: int) -> list[Delivery]:
    return [Delivery(number) for number in numbers]


# --- serving ---------------------------------------------------------------------------------


def test_whatever_waits_is_handed_over_at_once_and_answered(log: Log) -> None:
    server, service = MadeUpServer(deliveries(1, 2, 3), deliveries(4)), MadeUpService()

    serve(service, server, stopping=until(server), log=log)

    assert service.batches == [[1, 2, 3], [4]]
    assert server.answers == {number: {"n": number} for number in (1, 2, 3, 4)}
    assert {limit for limit, _ in server.asked} == {BATCH_LIMIT}


def test_while_nothing_comes_the_service_is_left_alone(log: Log) -> None:
    server, service = MadeUpServer([], [], []), MadeUpService()

    serve(service, server, stopping=until(server), log=log)

    assert service.batches == []
    assert server.story == ["stopped listening", "closed"]


def test_an_error_that_is_returned_is_the_answer_of_its_request_alone(log: Log) -> None:
    server = MadeUpServer(deliveries(1, 2, 3))
    service = MadeUpService(lambda request: EmailTaken() if request.body["n"] == 2 else {"ok": 1})

    serve(service, server, stopping=until(server), log=log)

    assert server.answers == {1: {"ok": 1}, 2: EmailTaken(), 3: {"ok": 1}}


# --- failing ---------------------------------------------------------------------------------


def _crashing_at(*bad: int) -> Callable[[Request], Reply]:
    def answer(request: Request) -> Reply:
        if request.body["n"] in bad:
            raise ZeroDivisionError("canary-5f1d")
        return {"ok": request.body["n"]}

    return answer


def test_a_crash_is_tried_again_one_by_one_and_only_the_bad_one_fails(log: Log, log_file: Path) -> None:
    server, service = MadeUpServer(deliveries(1, 2, 3, 4)), MadeUpService(_crashing_at(3))

    serve(service, server, stopping=until(server), log=log)

    assert service.batches == [[1, 2, 3, 4], [1], [2], [3], [4]]
    assert server.answers == {1: {"ok": 1}, 2: {"ok": 2}, 3: InternalError(), 4: {"ok": 4}}
    assert [(line["action"], line["requests"]) for line in logged(log_file)] == [
        ("batch-crashed", 4),
        ("batch-crashed", 1),
    ]


def test_a_crash_does_not_end_the_worker(log: Log) -> None:
    server, service = MadeUpServer(deliveries(1), deliveries(2)), MadeUpService(_crashing_at(1))

    serve(service, server, stopping=until(server), log=log)

    assert server.answers == {1: InternalError(), 2: {"ok": 2}}


def test_what_a_crash_choked_on_is_neither_answered_nor_logged(log: Log, log_file: Path) -> None:
    server, service = MadeUpServer(deliveries(1)), MadeUpService(_crashing_at(1))

    serve(service, server, stopping=until(server), log=log)

    answer = server.answers[1]
    assert isinstance(answer, EsError)
    assert "canary" not in log_file.read_text() + json.dumps(answer.to_wire())
    assert "ZeroDivisionError" in log_file.read_text()
    assert "_crashing_at" in log_file.read_text() or "answer" in log_file.read_text(), "the place is told"


def test_a_part_that_is_down_is_everybodys_answer_and_is_not_tried_one_by_one(log: Log) -> None:
    down = PartUnavailable("vault", "it is down")

    def refuse(_: Request) -> Reply:
        raise down

    server, service = MadeUpServer(deliveries(1, 2, 3)), MadeUpService(refuse)

    troubles: list[EsError] = []
    serve(service, server, stopping=until(server), log=log, on_trouble=troubles.append)

    assert server.answers == {1: down, 2: down, 3: down}
    assert len(service.batches) == 1
    assert set(troubles) == {down}


@pytest.mark.parametrize("answered_by_another_worker", [False, True])
def test_a_part_that_is_down_for_one_request_is_told_and_a_refusal_is_not(
    log: Log, answered_by_another_worker: bool
) -> None:
    down: EsError = PartUnavailable("vault", "it is down")
    if answered_by_another_worker:
        down = AnsweredError.from_wire(down.to_wire())
    server = MadeUpServer(deliveries(1, 2, 3))
    service = MadeUpService(lambda request: [EmailTaken(), down, {}][request.body["n"] - 1])

    troubles: list[EsError] = []
    serve(service, server, stopping=until(server), log=log, on_trouble=troubles.append)

    assert troubles == [down]


def test_a_service_that_forgets_a_reply_is_a_bug_that_is_not_hidden(log: Log) -> None:
    class Forgetful(MadeUpService):
        def handle(self, batch: Sequence[Request]) -> list[Reply]:
            return super().handle(batch)[1:]

    server = MadeUpServer(deliveries(1, 2))

    with pytest.raises(ValueError):
        serve(Forgetful(), server, stopping=until(server), log=log)

    assert server.answers == {}, "no reply goes to the wrong caller"


@pytest.mark.parametrize("interruption", [KeyboardInterrupt, SystemExit, MemoryError])
def test_an_interruption_is_not_taken_for_a_bad_request(log: Log, interruption: type[BaseException]) -> None:
    def interrupt(_: Request) -> Reply:
        raise interruption

    server = MadeUpServer(deliveries(1))
    if interruption is MemoryError:
        serve(MadeUpService(interrupt), server, stopping=until(server), log=log)
        assert server.answers == {1: InternalError()}
        return

    with pytest.raises(interruption):
        serve(MadeUpService(interrupt), server, stopping=until(server), log=log)
    assert server.answers == {}


# --- later -----------------------------------------------------------------------------------


def _third_time(request: Request) -> Reply:
    if request.body["n"] != 2:
        return {"ok": request.body["n"]}
    request.memo["times"] = request.memo.get("times", 0) + 1
    return {"times": request.memo["times"]} if request.memo["times"] == 3 else LATER


def test_a_request_that_waits_comes_with_every_later_batch_before_the_fresh_ones(log: Log) -> None:
    server = MadeUpServer(deliveries(1, 2), deliveries(3), [], [])
    service = MadeUpService(_third_time)

    serve(service, server, stopping=until(server), log=log)

    assert service.batches == [[1, 2], [2, 3], [2]]
    assert server.answers == {1: {"ok": 1}, 2: {"times": 3}, 3: {"ok": 3}}


def test_while_somebody_waits_the_loop_comes_round_soon(log: Log) -> None:
    server = MadeUpServer(deliveries(2), [], [], [])

    serve(MadeUpService(_third_time), server, stopping=until(server), log=log)

    waits_s = [wait_s for _, wait_s in server.asked]
    assert waits_s[1] < waits_s[0]
    assert waits_s[3] == waits_s[0], "and then it is idle again"


def test_a_caller_that_is_gone_is_asked_for_no_more(log: Log) -> None:
    gone, here = Delivery(1), Delivery(2)

    def answer(request: Request) -> Reply:
        gone.is_gone = True
        return LATER if request.body["n"] == 1 else {"ok": 1}

    server, service = MadeUpServer([gone], [here], []), MadeUpService(answer)

    serve(service, server, stopping=until(server), log=log)

    assert service.batches == [[1], [2]]
    assert server.answers == {2: {"ok": 1}}


# --- stopping --------------------------------------------------------------------------------


def test_a_stop_takes_nobody_new_answers_who_is_here_and_then_closes(log: Log) -> None:
    server, service = MadeUpServer(deliveries(1), deliveries(2, 3), deliveries(4)), MadeUpService()

    serve(service, server, stopping=lambda: len(server.turns) < 3, log=log)

    assert server.story == ["answered [1]", "stopped listening", "answered [2, 3]", "answered [4]", "closed"]


def test_a_stop_from_the_start_still_answers_who_is_here(log: Log) -> None:
    server = MadeUpServer(deliveries(1))

    serve(MadeUpService(), server, stopping=lambda: True, log=log)

    assert server.story == ["stopped listening", "answered [1]", "closed"]


def test_a_stop_waits_for_those_that_wait(log: Log) -> None:
    server = MadeUpServer(deliveries(2))

    serve(MadeUpService(_third_time), server, stopping=until(server), log=log)

    assert server.answers == {2: {"times": 3}}


def test_a_stop_gives_up_on_those_that_wait_for_ever(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("workers.runtime.loop.time", clock)

    def never(_: Request) -> Reply:
        clock.now_s += 1.0
        return LATER

    server, service = MadeUpServer(deliveries(1)), MadeUpService(never)

    serve(service, server, stopping=until(server), log=log)

    assert server.story[-1] == "closed"
    assert len(service.batches) == 6, "once, and then for the 5 s of a drain"


def test_a_stop_is_not_kept_up_by_those_who_go_on_asking(log: Log, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = Clock()
    monkeypatch.setattr("workers.runtime.loop.time", clock)

    class Endless(MadeUpServer):
        def receive(self, limit: int, wait_s: float) -> list[Delivery]:
            clock.now_s += 0.5
            return deliveries(len(self.answers))

    server = Endless()

    serve(MadeUpService(), server, stopping=lambda: True, log=log)

    assert server.story[-1] == "closed"
    assert len(server.answers) == 10


# --- a service that can't begin yet ----------------------------------------------------------

AWAY = PartUnavailable("vault", "PostgreSQL at db: connection refused")


def test_until_its_parts_are_there_requests_are_answered_with_what_is_missing(
    log: Log, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, server, service = Clock(), MadeUpServer(), MadeUpService()
    monkeypatch.setattr("workers.runtime.loop.time.monotonic", clock.monotonic)
    server.turns = [[Delivery(1)], [], [Delivery(2)], [Delivery(3)]]
    outcomes = iter([AWAY, AWAY, service])
    told: list[EsError] = []

    def receive(limit: int, wait_s: float) -> list[Delivery]:
        clock.now_s += 0.5
        return MadeUpServer.receive(server, limit, wait_s)

    def open_service() -> MadeUpService:
        outcome = next(outcomes)
        if isinstance(outcome, PartUnavailable):
            raise outcome
        return outcome

    monkeypatch.setattr(server, "receive", receive)

    found = opened(open_service, server, stopping=lambda: False, log=log, on_missing=told.append)

    assert found is service
    assert server.answers == {1: AWAY, 2: AWAY, 3: AWAY}
    assert told == [AWAY, AWAY]
    assert server.story.count("closed") == 0
    assert log_file.read_text().count("cannot-open") == 1, "the same outage is logged once"


def test_a_stop_while_parts_are_missing_answers_what_is_still_here(log: Log) -> None:
    server = MadeUpServer()

    def open_service() -> MadeUpService:
        raise AWAY

    service = opened(open_service, server, stopping=lambda: True, log=log, on_missing=lambda _: None)
    server.turns = [[Delivery(1)]]
    serve(service, server, stopping=lambda: True, log=log)

    assert server.answers == {1: AWAY}
    assert server.story == ["stopped listening", "answered [1]", "closed"]


def test_what_no_waiting_mends_is_raised(log: Log) -> None:
    def open_service() -> MadeUpService:
        raise Damaged("vault", "it is no database")

    with pytest.raises(Damaged):
        opened(open_service, MadeUpServer(), stopping=lambda: False, log=log, on_missing=lambda _: None)
