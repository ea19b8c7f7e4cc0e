"""The benchmark of rebuilds: it runs, and measures both sides over all events."""

from __future__ import annotations

from scripts.bench.rebuild import measure


def test_a_rebuild_and_a_bare_loop_are_measured() -> None:
    figures = measure(2_000, 1)

    assert set(figures) == {"bare loop", "rebuild", "peak MB"}
    assert all(figure > 0 for figure in figures.values())
