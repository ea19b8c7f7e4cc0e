"""A benchmark ends by its alarm or a signal with an exception, so that it cleans up."""

from __future__ import annotations

import signal

import pytest

from scripts.bench.time_limit import TimeIsUp, is_quick, limited


def test_the_alarm_ends_the_block_and_says_how_long_it_had() -> None:
    with pytest.raises(TimeIsUp, match="stopped after 600 s"), limited(600):
        signal.raise_signal(signal.SIGALRM)


def test_a_signal_ends_the_block_with_its_exit_code() -> None:
    with pytest.raises(SystemExit) as end, limited(600):
        signal.raise_signal(signal.SIGTERM)
    assert end.value.code == 128 + signal.SIGTERM


def test_the_alarm_and_the_handlers_are_those_of_before_afterwards() -> None:
    numbers = (signal.SIGALRM, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    with limited(600):
        pass

    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.alarm(0) == 0


@pytest.mark.parametrize(("value", "expected"), [("1", True), ("0", False), ("", False)])
def test_quick_is_set_by_the_environment(value: str, expected: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("QUICK", value)
    assert is_quick() is expected
