"""Projectors that run in threads."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.support.waiting import DEADLINE_S
from workers.projections.projector import Projector


@pytest.fixture
def start() -> Iterator[Callable[[Projector], Projector]]:
    """Starts a projector. It is stopped after the test, and its error fails the test."""
    stopping = threading.Event()
    with ThreadPoolExecutor(4) as pool:
        ended = []

        def started(projector: Projector) -> Projector:
            ended.append(pool.submit(projector.run, stopping.is_set))
            return projector

        yield started
        stopping.set()
        for each in ended:
            each.result(DEADLINE_S)
