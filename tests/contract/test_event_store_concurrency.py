"""The event store contract with many threads and processes, some of which are killed."""

from __future__ import annotations

import itertools
import json
import os
import random
import signal
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor

import pytest

from domain.kernel.errors import VersionConflict
from domain.kernel.events import Recorded
from domain.kernel.ports.event_store import Appended, EventStore
from tests.support.builders import a_stream, append, some_events
from tests.support.processes import start_python
from tests.support.store_processes import CODE, ITEM
from tests.support.together import outputs, start_together
from tests.support.waiting import DEADLINE_S, before, eventually

LONG_S = 5 * DEADLINE_S
"""A deadline for much work."""
WRITERS, VERSIONS = 4, 25


def versions(store: EventStore, stream: str) -> list[int]:
    return [event.version for event in store.read_stream(stream)]


def results_of(outs: Sequence[str]) -> list[object]:
    return [json.loads(line) for out in outs for line in out.splitlines()]


@pytest.fixture
def restless_threads() -> Iterator[None]:
    """Switch threads very often, so that an unguarded step fails soon."""
    usual_s = sys.getswitchinterval()
    sys.setswitchinterval(1e-6)
    yield
    sys.setswitchinterval(usual_s)


@pytest.mark.usefixtures("restless_threads")
def test_of_many_threads_exactly_one_appends_each_version(store: EventStore) -> None:
    stream, together, size, rounds = a_stream("race"), threading.Barrier(WRITERS), 20, 200

    def race(writer: int) -> list[int]:
        won = list[int]()
        for version, item in enumerate(some_events(size) for _ in range(rounds)):
            together.wait(DEADLINE_S)
            result = append(store, stream, version * size - 1, item)
            assert isinstance(result, Appended | VersionConflict)
            if isinstance(result, Appended):
                won.append(version)
        return won

    with ThreadPoolExecutor(WRITERS) as pool:
        won = list(pool.map(race, range(WRITERS)))

    assert sorted(itertools.chain(*won)) == list(range(rounds))
    assert versions(store, stream) == list(range(rounds * size))


@pytest.mark.usefixtures("restless_threads")
def test_readers_skip_no_event_while_threads_append(store: EventStore) -> None:
    kind, head, each = a_stream("kind"), store.head(), 40

    def write(writer: int) -> None:
        for version in range(each):
            assert isinstance(append(store, f"{kind}-{writer}", version - 1, some_events(2)[:1]), Appended)

    def follow() -> list[int]:
        seen = list[int]()
        done = before(LONG_S)
        for item in store.follow(
            head, stopped=lambda: len(seen) == each * WRITERS or done(), prefixes=[kind]
        ):
            if isinstance(item, Recorded):
                seen.append(item.position)
        return seen

    with ThreadPoolExecutor(WRITERS + 1) as pool:
        following = pool.submit(follow)
        list(pool.map(write, range(WRITERS)))
        seen = following.result(timeout=LONG_S)

    assert seen == [event.position for event in store.read_all(head, 10_000, prefixes=[kind])]
    assert len(seen) == each * WRITERS


def test_of_many_processes_exactly_one_appends_each_version(store: EventStore, shared_store_url: str) -> None:
    stream = a_stream("race")

    racers = start_together(CODE, [("race", shared_store_url, stream, str(VERSIONS))] * WRITERS)
    counts = Counter(results_of(outputs(racers)))

    assert [counts.pop(version) for version in range(VERSIONS)] == [1] * VERSIONS
    assert counts == {"VersionConflict": VERSIONS * (WRITERS - 1)}
    assert versions(store, stream) == list(range(VERSIONS))


def test_readers_never_skip_or_reorder_while_processes_append(
    store: EventStore, shared_store_url: str
) -> None:
    kind, head = a_stream("kind"), store.head()
    writers = start_together(
        CODE, [("append_batches", shared_store_url, f"{kind}-{n}", "60") for n in range(3)]
    )
    finished = before(LONG_S)
    total = 3 * 2 * sum(1 + number % 7 for number in range(60))

    followed, polled = list[int](), list[int]()
    for item in store.follow(head, stopped=lambda: len(followed) >= total or finished(), prefixes=[kind]):
        if isinstance(item, Recorded):
            followed.append(item.position)
        # A second reader that remembers the last position it saw, as a projection does.
        last = polled[-1] if polled else head
        polled += [event.position for event in store.read_all(last, 17, prefixes=[kind])]

    counts = results_of(outputs(writers))
    committed = [event.position for event in store.read_all(head, 100_000, prefixes=[kind])]
    assert sum(itertools.chain(*counts)) == total  # type: ignore[arg-type]
    assert len(committed) == total
    assert followed == committed
    assert polled == committed[: len(polled)]
    assert len(polled) > 0


def test_an_appended_batch_survives_kill_9_of_its_writer(store: EventStore, shared_store_url: str) -> None:
    stream = a_stream("kept")
    writer = start_python(CODE, "append_once", shared_store_url, stream)
    assert writer.stdout is not None

    line = writer.stdout.readline()
    os.kill(writer.pid, signal.SIGKILL)
    _, err = writer.communicate(timeout=DEADLINE_S)

    assert writer.returncode == -signal.SIGKILL, err
    positions = json.loads(line)
    assert len(positions) == 5
    last_events = [next(store.read_stream(f"{stream}-{n}", backwards=True, limit=1)) for n in range(5)]
    assert [event.position for event in last_events] == positions
    assert [event.version for event in last_events] == [19] * 5


@pytest.mark.parametrize("seed", range(4))
def test_a_writer_killed_at_any_moment_leaves_complete_items(
    store: EventStore, shared_store_url: str, seed: int
) -> None:
    stream, chance = a_stream("killed"), random.Random(seed)
    writer = start_python(CODE, "append_for_ever", shared_store_url, stream)
    assert writer.stdout is not None
    assert writer.stdout.readline() == f"{ITEM - 1}\n", writer.communicate(timeout=DEADLINE_S)[1]
    moment = time.monotonic() + chance.uniform(0, 0.05)
    eventually(lambda: time.monotonic() >= moment, "the moment of the kill")

    os.kill(writer.pid, signal.SIGKILL)
    out, _ = writer.communicate(timeout=DEADLINE_S)

    found = versions(store, stream)
    assert found == list(range(len(found))), "no hole"
    assert len(found) % ITEM == 0, "no half item"
    complete = [line for line in out.splitlines(keepends=True) if line.endswith("\n")]
    printed = int(complete[-1]) if complete else ITEM - 1
    assert printed + 1 <= len(found), "a returned result is stored"
    assert append(store, stream, found[-1], some_events(1)), "and the store can still be used"
