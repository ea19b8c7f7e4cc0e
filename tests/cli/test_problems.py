"""The problems of `es status` and `es doctor`, from what the workers and the broker report."""

from __future__ import annotations

from typing import Any

import pytest

from cli.problems import problems, workers
from domain.kernel.errors import PartUnavailable

READY = {"role": "users", "instance": 1, "pid": 7, "state": "ready", "uptime_s": 5.0, "last_error": None}
DOWN = PartUnavailable("vault", "PostgreSQL at db: connection refused").to_wire()
SOUND: dict[str, Any] = {
    "running": True,
    "silent": 0,
    "workers": [READY],
    "queues": [{"role": "users", "waiting": 0, "workers": 1, "dead": 0}],
    "projections": [{"projection": "users", "state": "current", "parked": 0}],
    "followers": [{"role": "erasures", "lag": 0}],
}


@pytest.mark.parametrize(
    ("changed", "part", "state", "said"),
    [
        ({"running": False}, "workers", "failed", "`es up`"),
        ({"workers": [READY | {"state": "silent"}]}, "worker users", "failed", "`kill -CONT 7`"),
        (
            {"workers": [READY | {"state": "waiting", "last_error": DOWN}]},
            "worker users",
            "failed",
            "refused",
        ),
        ({"workers": [READY | {"state": "failing"}]}, "worker users", "failed", "`es logs users`"),
        (
            {"workers": [READY | {"state": "starting", "last_error": DOWN}]},
            "worker users",
            "failed",
            "refused",
        ),
        ({"silent": 1}, "workers", "failed", "1 of other homes"),
        (
            {"queues": [{"role": "ids", "waiting": 3, "workers": 0, "dead": 0}]},
            "queue ids",
            "failed",
            "3 requests wait",
        ),
        (
            {"queues": [{"role": "ids", "waiting": 0, "workers": 1, "dead": 2}]},
            "queue ids",
            "warning",
            "`es dead show ids`",
        ),
        (
            {"projections": [{"projection": "users", "state": "current", "parked": 0, "other_code": True}]},
            "projection users",
            "warning",
            "`es projections rebuild users --check`",
        ),
        ({"projections": []}, "follower projections", "failed", "does not reply"),
        ({"followers": [{"role": "relay"}]}, "follower relay", "failed", "does not reply"),
        (
            {
                "followers": [
                    {
                        "role": "processes",
                        "lag": 0,
                        "processes": [
                            {"process": "moving", "quarantined": 2},
                            {"process": "sound", "quarantined": 0},
                        ],
                    }
                ]
            },
            "process moving",
            "failed",
            "`es processes retry moving ID`",
        ),
        (
            {"projections": [{"projection": "users", "state": "current", "parked": 2}]},
            "projection users",
            "warning",
            "`es projections parked list users`",
        ),
    ],
)
def test_each_problem_is_named_with_its_cure(
    changed: dict[str, Any], part: str, state: str, said: str
) -> None:
    (problem,) = problems(SOUND | changed)

    assert (problem["part"], problem["state"]) == (part, state)
    assert said in problem["detail"] + problem["next"]


def test_an_outage_of_the_broker_says_nothing_about_queues_and_followers() -> None:
    outage = PartUnavailable("RabbitMQ", "connection refused")
    waiting = READY | {"state": "waiting", "last_error": outage.to_wire()}

    found = problems(SOUND | {"outage": outage, "workers": [waiting], "queues": [], "projections": []})

    assert [problem["part"] for problem in found] == ["broker", "worker users"]


@pytest.mark.parametrize("state", ["retired", "checked"])
def test_parked_events_of_a_generation_that_serves_nothing_are_no_problem(state: str) -> None:
    other = {"projection": "users", "state": state, "parked": 2}
    assert problems(SOUND | {"projections": [*SOUND["projections"], other]}) == []


def test_parked_events_of_a_running_rebuild_are_told_before_it_serves() -> None:
    building = {"projection": "users", "state": "building", "parked": 2}
    (problem,) = problems(SOUND | {"projections": [*SOUND["projections"], building]})

    assert "2 parked events in the building generation" in problem["detail"]
    assert "`es projections cancel users`" in problem["next"]


def test_sound_workers_are_no_problem() -> None:
    assert problems(SOUND) == []
    assert [(found["part"], found["detail"]) for found in workers(SOUND)] == [
        ("worker users", "ready, process 7, up 5 s")
    ]


def test_a_silent_worker_of_this_home_is_not_counted_twice() -> None:
    found = problems(SOUND | {"silent": 1, "workers": [READY | {"state": "silent"}]})

    assert [problem["part"] for problem in found] == ["worker users"]
