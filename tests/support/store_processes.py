"""Processes that append to one store: their code, started by name. Each prints its results as lines of JSON."""

from __future__ import annotations

import json
import signal
from contextlib import closing

from domain.kernel.events import NO_STREAM
from domain.kernel.ports.event_store import Append, Appended
from tests.support.builders import an_event, append, open_store, some_events

CODE = "import sys; from tests.support import store_processes as p; getattr(p, sys.argv[1])(*sys.argv[2:])"
ITEM = 30
"""The number of events in each item of `append_for_ever`."""


def _say(line: object) -> None:
    print(json.dumps(line), flush=True)


def _wait_for_start() -> None:
    print("ready", flush=True)
    input()


def race(url: str, stream: str, versions: str) -> None:
    """Append one event at each version; print the version, or the name of the error."""
    with closing(open_store(url)) as store:
        _wait_for_start()
        for version in range(int(versions)):
            result = append(store, stream, version - 1, [an_event()])
            _say(result.version if isinstance(result, Appended) else type(result).__name__)


def append_batches(url: str, stream: str, batches: str) -> None:
    """Append batches of two items of 1 to 7 events without a pause; print the number of events of each stream."""
    with closing(open_store(url)) as store:
        _wait_for_start()
        expected = [NO_STREAM, NO_STREAM]
        for number in range(int(batches)):
            size = 1 + number % 7
            items = [Append(f"{stream}-{i}", expected[i], some_events(size)) for i in (0, 1)]
            for i, result in enumerate(store.append(items)):
                assert isinstance(result, Appended)
                expected[i] = result.version
        _say([version + 1 for version in expected])


def append_once(url: str, stream: str) -> None:
    """Append one batch, print its positions, and wait to be killed."""
    store = open_store(url)
    results = store.append([Append(f"{stream}-{n}", NO_STREAM, some_events(20)) for n in range(5)])
    _say([result.position for result in results if isinstance(result, Appended)])
    signal.pause()


def append_for_ever(url: str, stream: str) -> None:
    """Append items of `ITEM` events; print the version after each."""
    store, version = open_store(url), NO_STREAM
    while True:
        result = append(store, stream, version, some_events(ITEM))
        assert isinstance(result, Appended)
        version = result.version
        _say(version)
