"""A call of BatchAppend ends as the server ends it, and appends are answered while the call is open."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from tests.support.node import Fault, Node, Point, once
from tests.support.node.protos import shared_pb2, streams_pb2, streams_pb2_grpc
from tests.support.node.requests import OpenRequests, request
from tests.support.proxy import HOST
from tests.support.waiting import DEADLINE_S

STREAMS = [f"thing-{number}" for number in range(5)]


@pytest.fixture
def stub(node: Node) -> Iterator[Any]:
    with grpc.insecure_channel(f"{HOST}:{node.port}") as channel:
        yield streams_pb2_grpc.StreamsStub(channel)  # type: ignore[no-untyped-call]


def stored(node: Node) -> list[str]:
    return [record.stream for record in node.log.after_position(-1) if record.stream in STREAMS]


def test_after_the_client_has_ended_its_side_one_more_answer_comes(node: Node, stub: Any) -> None:
    node.flush_s = 0.5  # so that the end of the requests arrives before the first answer

    answers = list(stub.BatchAppend(map(request, STREAMS), timeout=DEADLINE_S))

    assert len(answers) == 1
    assert stored(node) == STREAMS, "the answers are lost, not the events"


def test_all_answers_come_while_the_client_keeps_its_side_open(node: Node, stub: Any) -> None:
    with closing(OpenRequests()) as requests:
        call = stub.BatchAppend(iter(requests), timeout=DEADLINE_S)
        for stream in STREAMS:
            requests.send(stream)
        answers = [next(call) for _ in STREAMS]
        for _ in range(2):  # and the call takes more appends
            requests.send("thing-later")
            answers.append(next(call))
        call.cancel()

    results = [answer.WhichOneof("result") for answer in answers]
    assert results == ["success"] * 6 + ["error"]
    assert answers[-1].error.details.Is(shared_pb2.WrongExpectedVersion.DESCRIPTOR)


def test_a_call_without_an_owed_answer_never_ends_by_itself(stub: Any) -> None:
    requests = OpenRequests()
    call = stub.BatchAppend(iter(requests), timeout=1.0)
    requests.send("thing-1")
    next(call)
    requests.close()

    with pytest.raises(grpc.RpcError) as raised:
        next(call)

    assert raised.value.code() is grpc.StatusCode.DEADLINE_EXCEEDED


def test_a_lost_call_has_answered_the_appends_before_the_fault(node: Node, stub: Any) -> None:
    node.plan = once(Point.AFTER_COMMIT, Fault.UNAVAILABLE, stream=STREAMS[2])
    node.flush_s = 0.5
    answers: list[Any] = []
    with closing(OpenRequests()) as requests:
        for stream in STREAMS:
            requests.send(stream)
        with pytest.raises(grpc.RpcError) as raised:
            answers.extend(stub.BatchAppend(iter(requests), timeout=DEADLINE_S))

    assert raised.value.code() is grpc.StatusCode.UNAVAILABLE
    assert [answer.stream_identifier.stream_name.decode() for answer in answers] == STREAMS[:2]
    assert stored(node) == STREAMS[:3]


def test_a_refused_append_is_answered_like_the_others(node: Node, stub: Any) -> None:
    node.max_append_size = 1000
    with closing(OpenRequests()) as requests:
        call = stub.BatchAppend(iter(requests), timeout=DEADLINE_S)
        requests.send("thing-1", size=2000)
        requests.send("thing-2")
        answers = [next(call) for _ in range(2)]
        call.cancel()

    assert answers[0].error.details.Is(shared_pb2.MaximumAppendSizeExceeded.DESCRIPTOR)
    assert answers[1].WhichOneof("result") == "success"
    assert isinstance(answers[1], streams_pb2.BatchAppendResp)
