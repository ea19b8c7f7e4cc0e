"""The loop of a worker whose service has two stages: one batch is completed while the next one is begun."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Sequence

import pytest

from adapters.log import Log
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Reply, Request
from tests.support.loop import ScriptedServer
from tests.support.waiting import DEADLINE_S, before
from workers.runtime.loop import InternalError, serve

VAULT_DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused")

Numbers = list[int]


class StagedService:
    """Records the stages of its batches. A test replaces what a stage does besides."""

    def __init__(self) -> None:
        self.calls: list[str] = []
        self.settled_after: list[int] = []
        """The number of calls before each settlement."""
        self.at_begin: Callable[[Numbers], object] = lambda _: None
        self.at_complete: Callable[[Numbers], object] = lambda _: None
        self.at_settle: Callable[[], object] = lambda: None

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        replies = self.complete(self.begin(batch))
        self.settle()
        return replies

    def begin(self, requests: Sequence[Request]) -> Numbers:
        numbers = [request.body["n"] for request in requests]
        self.calls.append(f"begin {numbers}")
        self.at_begin(numbers)
        return numbers

    def complete(self, begun: Numbers) -> list[Reply]:
        self.at_complete(begun)
        self.calls.append(f"complete {begun}")
        return [{"n": number} for number in begun]

    def settle(self) -> None:
        self.settled_after.append(len(self.calls))
        self.at_settle()

    def close(self) -> None:
        raise AssertionError("the loop closes no service")


@pytest.fixture
def service() -> StagedService:
    return StagedService()


@pytest.fixture
def server() -> ScriptedServer:
    return ScriptedServer()


@pytest.fixture
def run(service: StagedService, server: ScriptedServer, log: Log) -> Callable[..., None]:
    """Serves these turns, then stops."""

    def serve_turns(
        *turns: Sequence[int], stopping: Callable[[], bool] | None = None, overlaps: bool = True
    ) -> None:
        server.turns = list(turns)
        serve(service, server, stopping=stopping or (lambda: not server.turns), log=log, overlaps=overlaps)

    return serve_turns


class Gate:
    """Holds the completion of a batch until a test lets it go on."""

    def __init__(self, *held: Numbers) -> None:
        self._held = held
        self._open = threading.Event()

    def open(self, *_: object) -> None:
        self._open.set()

    def __call__(self, numbers: Numbers) -> None:
        if numbers in self._held:
            assert self._open.wait(DEADLINE_S), "nothing happened meanwhile"


def test_a_batch_is_begun_while_the_one_before_is_completed(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    service.at_complete = gate = Gate([1, 2])
    service.at_begin = lambda numbers: gate.open() if numbers == [3] else None

    run([1, 2], [], [3])

    assert service.calls == ["begin [1, 2]", "begin [3]", "complete [1, 2]", "complete [3]"]
    assert server.replies == {number: {"n": number} for number in (1, 2, 3)}


def test_over_files_a_batch_begins_after_the_one_before_in_the_same_thread(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    threads: set[int] = set()
    service.at_begin = service.at_complete = lambda _: threads.add(threading.get_ident())

    run([1, 2], [], [3], overlaps=False)

    assert service.calls == ["begin [1, 2]", "complete [1, 2]", "begin [3]", "complete [3]"]
    assert server.replies == {number: {"n": number} for number in (1, 2, 3)}
    assert threads == {threading.get_ident()}


@pytest.mark.parametrize("overlaps", [True, False])
def test_what_is_left_is_settled_when_no_request_waits_and_at_the_end(
    service: StagedService, run: Callable[..., None], overlaps: bool
) -> None:
    run([1], [2], *[[]] * 50, [3], overlaps=overlaps)

    assert service.settled_after[0] >= 4, "not between batches that follow each other"
    assert service.settled_after[-1] == 6


def test_the_turn_that_answers_a_batch_settles_nothing(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    woken = threading.Event()
    server.wake = woken.set  # type: ignore[method-assign]
    turns = iter(range(2))

    def stopping() -> bool:
        if not server.turns:
            assert woken.wait(DEADLINE_S), "the batch is complete"
            return next(turns, None) is None
        return False

    run([1], stopping=stopping)

    assert server.calls[0] == "answer [1]"
    assert service.settled_after == [2, 2], "at the turn after it, and at the end"


@pytest.mark.parametrize("overlaps", [True, False])
def test_a_failed_settlement_is_reported_and_tried_at_the_next_turn(
    service: StagedService, server: ScriptedServer, log: Log, overlaps: bool
) -> None:
    reported: list[object] = []
    failures = iter([VAULT_DOWN])

    def fail_once() -> None:
        if error := next(failures, None):
            raise error

    service.at_settle = fail_once
    server.turns = [[1]]
    is_late = before(DEADLINE_S)

    serve(
        service,
        server,
        stopping=lambda: len(service.settled_after) > 1 or is_late(),
        log=log,
        on_reply=reported.append,
        overlaps=overlaps,
    )

    assert reported == [None, VAULT_DOWN]
    assert service.settled_after == [2, 2, 2], "failed, again, and at the end"


def test_requests_that_come_together_while_a_batch_is_completed_are_one_batch(
    service: StagedService, run: Callable[..., None]
) -> None:
    service.at_complete = gate = Gate([1])
    service.at_begin = lambda numbers: gate.open() if numbers != [1] else None

    run([1], [2], [3], [4])

    assert service.calls == ["begin [1]", "begin [2, 3, 4]", "complete [1]", "complete [2, 3, 4]"]


def test_a_third_batch_is_not_received_before_the_first_is_answered(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    begun: list[int] = []

    def at_begin(numbers: Numbers) -> None:
        begun.append(len(server.replies))

    service.at_begin = at_begin

    run(*([number] for pair in range(20) for number in (pair, 100 + pair)), [])

    assert len(server.replies) == 40
    assert all(answered >= number - 1 for number, answered in enumerate(begun)), "one is ahead at most"


def test_batches_are_completed_and_answered_in_their_order(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    run(*([number, 100 + number] for number in range(30)), [])

    completed = [call for call in service.calls if call.startswith("complete")]
    begun = [call for call in service.calls if call.startswith("begin")]
    assert [call.partition(" ")[2] for call in completed] == [call.partition(" ")[2] for call in begun]
    answered = [call for call in server.calls if call.startswith("answer")]
    assert [call.partition(" ")[2] for call in answered] == [call.partition(" ")[2] for call in begun]


def test_a_request_that_may_have_ended_a_worker_is_handled_alone(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    server.suspects = {2}
    begun = threading.Event()
    service.at_begin = lambda numbers: begun.set() if numbers != [1] else None
    service.at_complete = lambda numbers: (
        begun.wait(0.2) if numbers == [1] else None
    )  # time to begin too early

    run([1], [], [2], [], [3])

    stages = [f"{stage} [{number}]" for number in (1, 2, 3) for stage in ("begin", "complete")]
    assert service.calls == stages
    assert server.replies.keys() == {1, 2, 3}


@pytest.mark.parametrize("stage", ["begin", "complete"])
def test_an_outage_in_a_stage_is_the_reply_to_its_batch_only(
    service: StagedService, server: ScriptedServer, run: Callable[..., None], stage: str
) -> None:
    def fail(numbers: Numbers) -> None:
        if 1 in numbers:
            raise VAULT_DOWN

    setattr(service, f"at_{stage}", fail)

    run([1, 2], [], [3])

    assert server.replies == {1: VAULT_DOWN, 2: VAULT_DOWN, 3: {"n": 3}}


@pytest.mark.parametrize("stage", ["begin", "complete"])
def test_after_a_crash_in_a_stage_one_request_fails(
    service: StagedService, server: ScriptedServer, run: Callable[..., None], stage: str
) -> None:
    def crash(numbers: Numbers) -> None:
        if 2 in numbers:
            raise ZeroDivisionError

    setattr(service, f"at_{stage}", crash)

    run([1, 2, 3], [], [4])

    assert server.replies == {1: {"n": 1}, 2: InternalError(), 3: {"n": 3}, 4: {"n": 4}}


def test_a_stop_answers_the_batch_that_is_completed_and_the_one_that_waits(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    service.at_complete = gate = Gate([1])
    stopped: list[bool] = []

    def stopping() -> bool:
        if service.calls:
            stopped.append(True)
            threading.Timer(0.05, gate.open).start()
        return bool(stopped)

    run([1], [2], stopping=stopping)

    assert server.replies == {1: {"n": 1}, 2: {"n": 2}}
    assert server.calls == ["stop listening", "answer [1]", "answer [2]", "close"]


def test_a_stop_answers_a_batch_that_takes_longer_than_the_drain(
    service: StagedService, server: ScriptedServer, run: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    class Hurrying:
        """Stands in for `time`: a minute passes between two looks."""

        monotonic = staticmethod(itertools.count(0.0, 60.0).__next__)

    monkeypatch.setattr("workers.runtime.loop.time", Hurrying)
    service.at_complete = gate = Gate([1])

    def stopping() -> bool:
        if service.calls:
            threading.Timer(0.05, gate.open).start()
        return bool(service.calls)

    run([1], stopping=stopping)

    assert server.calls == ["stop listening", "answer [1]", "close"]


def test_an_interruption_of_the_thread_ends_the_worker(
    service: StagedService, server: ScriptedServer, run: Callable[..., None]
) -> None:
    def interrupt(_: Numbers) -> None:
        raise SystemExit

    service.at_complete = interrupt

    with pytest.raises(SystemExit):
        run([1], [])

    assert server.replies == {}
