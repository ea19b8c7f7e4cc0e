"""Queries about projections, and the queries that a registry has."""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

import pytest

from domain.features import Registry
from domain.kernel.errors import EsError, InvalidSetting, Kind, UnknownRequest
from domain.kernel.feature import Feature
from domain.kernel.messages import Later, Request
from domain.kernel.ports.read_model import GenerationState
from tests.support.accounts import ADA
from tests.support.parts import Unavailable
from tests.support.read_side import ReadSide
from tests.support.waiting import DEADLINE_S
from workers.projections.projector import Projector
from workers.projections.service import QueriesService, queries_of
from workers.runtime.queries import Waiting


def test_the_state_of_a_projection_has_position_and_lag(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    (before,) = read_side.answer("projections.status", name="users")["projections"]
    read_side.project()
    (after,) = read_side.answer("projections.status", name="users")["projections"]

    assert (before["position"], before["lag"], before["events"]) == (0, 1, 0)
    assert (after["position"], after["lag"], after["events"], after["head"]) == (1, 0, 1, 1)
    assert (after["generation"], after["state"], after["parked"]) == (1, "current", 0)


# --- waiting for a projection ----------------------------------------------------------------


def test_a_query_that_waits_is_handed_over_again_once_its_projection_has_moved(
    read_side: ReadSide, start: Callable[[Projector], Projector]
) -> None:
    woken = threading.Event()
    waiting = Waiting(woken.set)
    user_id = read_side.a_user(ADA)
    projector = read_side.become(read_side.projector(on_reached=waiting.retry))
    request = Request("users.get", {"user_id": user_id, "after_position": 1})
    assert isinstance(read_side.reply_to(request, waiting=waiting), Later)
    assert not woken.is_set()

    start(projector)

    assert woken.wait(DEADLINE_S)
    assert isinstance(read_side.reply_to(request, waiting=waiting), dict)


def test_a_projection_that_moves_wakes_nothing_while_no_query_waits(read_side: ReadSide) -> None:
    woken: list[str] = []
    waiting = Waiting(lambda: woken.append("woken"))
    read_side.a_user(ADA)
    read_side.project()
    assert isinstance(read_side.reply_to(Request("users.list", {}), waiting=waiting), dict)
    waiting.retry()
    assert woken == []

    waiting.begin()
    waiting.retry()
    waiting.retry()
    assert woken == ["woken"], "once for all that wait"


def test_a_move_just_before_a_query_begins_to_wait_is_not_missed(read_side: ReadSide) -> None:
    user_id = read_side.a_user(ADA)
    read_side.project()
    positions = iter([0, 1])  # it moves between two looks
    request = Request("users.get", {"user_id": user_id, "after_position": 1})

    assert isinstance(read_side.reply_to(request, reached=lambda _: next(positions, 1)), dict)


def test_a_requested_rebuild_leaves_a_new_generation(read_side: ReadSide) -> None:
    read_side.a_user(ADA)
    read_side.project()

    reply = read_side.answer("projections.rebuild", name="users")
    read_side.rebuilds.join()

    assert reply == {"projection": "users", "generation": 2, "head": 1}
    states = [state["state"] for state in read_side.answer("projections.status", name="users")["projections"]]
    assert states == [GenerationState.RETIRED.value, GenerationState.CURRENT.value]
    assert len(read_side.answer("users.list")["users"]) == 1


@pytest.mark.parametrize("kind", ["projections.status", "projections.rebuild"])
def test_an_unknown_projection_is_not_found(read_side: ReadSide, kind: str) -> None:
    reply = read_side.ask(kind, name="nonsense")

    assert isinstance(reply, EsError)
    assert reply.kind is Kind.NOT_FOUND


def test_of_two_features_with_one_kind_of_query_the_second_has_none() -> None:
    streams = ("workers.projections.stream_queries",)
    twice = Registry((Feature(name="streams", queries=streams), Feature(name="others", queries=streams)))
    sources: Any = Unavailable()

    service = QueriesService(queries_of(twice, sources))
    refused, unknown = service.handle([Request("others.list", {}), Request("nothing.list", {})])

    assert isinstance(refused, InvalidSetting)
    assert "two of the query 'events.read'" in str(refused)
    assert isinstance(unknown, UnknownRequest)
