"""Samples of the server side: workers, queues, lag, and how long an event takes to be readable."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Collection, Iterator
from contextlib import ExitStack

import pytest

from load.results import ServerSide
from load.server_side import Sampler, probed_kinds, usage_of
from tests.support.profiles import a_system
from tests.support.servers import free_port
from tests.support.system import System
from tests.support.waiting import eventually

Samples = Callable[..., Sampler]


@pytest.fixture
def sampler_of() -> Iterator[Samples]:
    with ExitStack() as ending:

        def started(system: System, kinds: Collection[str] = ("users.create",)) -> Sampler:
            return ending.enter_context(Sampler(system.settings, kinds, started_s=time.monotonic()))

        yield started


def _latest(sampler: Sampler) -> ServerSide:
    assert sampler.latest is not None
    return sampler.latest


def test_a_sample_shows_each_worker_with_its_cpu_and_memory(running: System, sampler_of: Samples) -> None:
    sampler = sampler_of(running)
    eventually(lambda: len(sampler.samples) >= 2, "two samples")

    workers = _latest(sampler).workers
    assert [worker["role"] for worker in workers] == [*running.roles]
    assert all(worker["cpu_percent"] >= 0 and worker["memory_mb"] > 10 for worker in workers)
    # The first sample has nothing to compare the processor time with.
    assert {worker["cpu_percent"] for worker in sampler.samples[0].workers} == {None}


def test_samples_are_numbered_by_the_seconds_of_the_run(running: System, sampler_of: Samples) -> None:
    sampler = sampler_of(running)
    eventually(lambda: len(sampler.samples) >= 3, "three samples")

    numbers = [sample.number for sample in sampler.samples]
    assert numbers == sorted(set(numbers))
    assert numbers[0] == 0


def test_a_sample_shows_the_lag_of_projections_and_followers(running: System, sampler_of: Samples) -> None:
    sampler = sampler_of(running)
    eventually(lambda: sampler.latest and sampler.latest.lag_ms is not None, "a probe")

    assert {"users", "registrations", "erasures"} <= _latest(sampler).lag.keys()
    assert _latest(sampler).queues == {}  # there is no broker


def test_the_lag_grows_while_the_projections_stand_still(running: System, sampler_of: Samples) -> None:
    sampler = sampler_of(running)
    running.create()
    eventually(lambda: sampler.latest and sampler.latest.lag_ms is not None, "a probe")
    with running.paused("projections"):
        eventually(lambda: (_latest(sampler).lag_ms or 0) > 2000, "a lag of more than two seconds")
    eventually(lambda: (_latest(sampler).lag_ms or 9999) < 2000, "a short lag again")


def test_a_system_without_workers_gives_empty_samples(system: System, sampler_of: Samples) -> None:
    sampler = sampler_of(system)
    eventually(lambda: len(sampler.samples) >= 2, "two samples")
    sampler.close()

    assert {(len(sample.workers), len(sample.lag), sample.lag_ms) for sample in sampler.samples} == {
        (0, 0, None)
    }
    assert not system.home.exists()  # nothing was started or created


def test_a_broker_that_does_not_reply_gives_empty_samples(system: System, sampler_of: Samples) -> None:
    system.environment["ES_BROKER"] = f"amqp://guest:guest@127.0.0.1:{free_port()}/"
    sampler = sampler_of(system)
    eventually(lambda: len(sampler.samples) >= 2, "two samples")

    assert {(len(sample.workers), len(sample.queues)) for sample in sampler.samples} == {(0, 0)}


def test_waiting_requests_of_a_broker_are_counted(
    request: pytest.FixtureRequest, sampler_of: Samples
) -> None:
    with a_system("rabbitmq", request) as system:
        system.up()
        sampler = sampler_of(system)
        eventually(lambda: sampler.latest and len(sampler.latest.workers) == len(system.roles), "all workers")
        system.es("down").ok()
        waiting = system.start("users", "create", "--email", "a@example.com", "--name", "A")
        eventually(lambda: _latest(sampler).queues.get("users") == 1, "a waiting request")
        waiting.kill()
        sampler.close()


@pytest.mark.parametrize(
    ("kinds", "probed"),
    [
        (["users.create", "users.get"], ["users.list"]),
        (["ids.next"], []),
        (["unknown.kind"], []),
        (["shelves.open", "users.get"], ["shelves.list", "users.list"]),
    ],
)
def test_the_rows_of_the_features_of_a_run_are_probed(
    system: System, kinds: list[str], probed: list[str]
) -> None:
    system.environment["ES_FEATURES"] = "tests.support.shelves"
    assert probed_kinds(system.settings, kinds) == probed


def test_the_usage_of_a_process_is_read_from_the_kernel() -> None:
    before = usage_of(os.getpid())
    assert before is not None
    assert before.memory_mb > 10
    used = time.process_time() + 0.1
    while time.process_time() < used:
        pass
    after = usage_of(os.getpid())
    assert after is not None
    assert after.cpu_s > before.cpu_s
    assert usage_of(2**22 + 1) is None  # above the greatest process id
