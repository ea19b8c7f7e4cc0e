"""Stand-ins for stores and vaults: with replaced methods, unavailable, or watched step by step."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from typing import Any, NoReturn

import pytest

from domain.kernel.errors import PartUnavailable


class _Replaced:
    def __init__(self, part: Any, methods: dict[str, Callable[..., Any]]) -> None:
        self._part = part
        self.__dict__.update(methods)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._part, name)


def replaced(part: Any, **methods: Callable[..., Any]) -> Any:
    """A part with some of its methods replaced."""
    return _Replaced(part, methods)


def before_call(part: Any, method: str, act: Callable[[], object], *, at: int = 1) -> Any:
    """A part that calls `act` once, before call number `at` of a method."""
    calls = itertools.count(1)

    def call(*args: Any, **more: Any) -> Any:
        if next(calls) == at:
            act()
        return getattr(part, method)(*args, **more)

    return replaced(part, **{method: call})


def unavailable(*_: object, **__: object) -> NoReturn:
    raise PartUnavailable("a part", "it is unavailable")


class Unavailable:
    """A part of which every method is unavailable."""

    def __getattr__(self, name: str) -> Callable[..., NoReturn]:
        return unavailable

    def close(self) -> None:
        """Nothing is open."""


# --- crashes ---------------------------------------------------------------------------------


class Crash(BaseException):
    """The process ends here. The code under test does not catch it."""


class Steps:
    """Records the calls of parts, and crashes before or after one of them."""

    def __init__(self, crash_at: int | None = None, *, after: bool = False) -> None:
        self.calls: list[str] = []
        self._crash_at = crash_at
        self._after = after

    def watched(self, **parts: Any) -> dict[str, Any]:
        """The parts by name, with each call as a step."""
        return {name: _Watched(part, name, self._step) for name, part in parts.items()}

    def _step(self, what: str, call: Callable[[], Any]) -> Any:
        self.calls.append(what)
        is_here = len(self.calls) - 1 == self._crash_at
        if is_here and not self._after:
            raise Crash(what)
        result = call()
        if is_here:
            raise Crash(what)
        return result


class _Watched:
    def __init__(self, part: Any, name: str, step: Callable[[str, Callable[[], Any]], Any]) -> None:
        self._part, self._name, self._step = part, name, step

    def __getattr__(self, method: str) -> Callable[..., Any]:
        call = getattr(self._part, method)
        return lambda *args, **more: self._step(f"{self._name}.{method}", lambda: call(*args, **more))


def every_crash(run: Callable[[Steps], object]) -> list[tuple[int, bool]]:
    """Every step of a run at which it can crash, and whether before or after it."""
    steps = Steps()
    run(steps)
    assert steps.calls
    return list(itertools.product(range(len(steps.calls)), (False, True)))


def crashed(run: Callable[[Steps], object], at: int, *, after: bool) -> str:
    """Run until the crash and describe its place."""
    with pytest.raises(Crash) as crash:
        run(Steps(at, after=after))
    return f"{'after' if after else 'before'} {crash.value} (step {at})"
