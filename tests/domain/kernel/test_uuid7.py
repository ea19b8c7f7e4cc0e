"""Time-ordered ids: their layout, and their order also when the clock goes back."""

from __future__ import annotations

import os
from uuid import RFC_4122

from domain.kernel.uuid7 import Uuid7s

_RFC_EXAMPLE_MS = 0x017F22E279B0
"""The time of the example in RFC 9562, appendix A.6: 2022-02-22T19:22:22Z."""


def test_an_id_has_the_layout_of_version_7() -> None:
    made = Uuid7s(lambda: _RFC_EXAMPLE_MS * 1000 + 500, lambda count: b"\xff" * count)()

    assert (made.version, made.variant) == (7, RFC_4122)
    assert str(made) == "017f22e2-79b0-7800-bfff-ffffffffffff"


def test_ids_grow_while_the_clock_stands_still_or_steps_back() -> None:
    times = iter([5_000_000, 5_000_000, 5_000_000, 1, 5_000_001, 9_000_000])
    new_id = Uuid7s(lambda: next(times), os.urandom)

    made = [new_id() for _ in range(6)]

    assert made == sorted(made)
    assert len({id_.int >> 64 for id_ in made}) == 6, "also without their random bits"


def test_ids_of_several_processes_with_one_time_differ() -> None:
    assert len({Uuid7s(lambda: 1, os.urandom)() for _ in range(1000)}) == 1000
