"""Messages from outside: their nesting is counted before anything can fail at it, and each error fits in a reply."""

from __future__ import annotations

import json
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.errors import EsError, InvalidInput, MessageTooLarge, UnknownEventType, UnknownRequest
from domain.kernel.messages import MAX_DEPTH, MAX_MESSAGE_BYTES, encode, is_shallow, parse_json

TEXTS = st.text(st.sampled_from('[]{}",:\\a \n\ud800é'), max_size=30)
VALUES: st.SearchStrategy[Any] = st.recursive(
    TEXTS | st.none() | st.integers() | st.booleans(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=12,
)


def depth(value: Any) -> int:
    if not isinstance(value, list | dict):
        return 0
    return 1 + max(map(depth, value.values() if isinstance(value, dict) else value), default=0)


@given(VALUES, st.booleans(), st.sampled_from([None, 1]))
def test_the_counted_depth_is_that_of_the_value(value: Any, ascii_only: bool, indent: int | None) -> None:
    text = json.dumps(value, ensure_ascii=ascii_only, indent=indent)

    shallow = [is_shallow(text, levels=levels) for levels in range(depth(value) + 2)]

    brackets = text.count("[") + text.count("{")
    assert shallow[depth(value) :] == [True, True]
    assert not any(shallow[: depth(value)]), f"{brackets} brackets"


@given(TEXTS)
def test_any_text_is_a_value_or_a_value_error(text: str) -> None:
    try:
        parsed = parse_json(text.encode("utf-8", "surrogatepass"))
    except ValueError:
        return
    assert parsed == json.loads(text)


@pytest.mark.parametrize("nested", ["[", '{"a":', '[{"a":', '["\\"",['])
@pytest.mark.parametrize("times", [MAX_DEPTH + 1, 600, 990, 200_000])
def test_deep_nesting_is_a_value_error_at_any_depth(nested: str, times: int) -> None:
    with pytest.raises(ValueError):
        parse_json((nested * times).encode())


def _nested(levels: int) -> Any:
    value: Any = 1
    for _ in range(levels):
        value = [value]
    return value


@pytest.mark.parametrize(
    ("message", "error"),
    [
        ("x" * MAX_MESSAGE_BYTES, MessageTooLarge),
        (_nested(MAX_DEPTH + 1), InvalidInput),
        (_nested(100_000), InvalidInput),
    ],
    ids=["size", "depth", "depth beyond Python's"],
)
def test_a_message_beyond_a_limit_is_not_encoded(message: Any, error: type[EsError]) -> None:
    with pytest.raises(error, match="the request"):
        encode(message, "the request")


@pytest.mark.parametrize(
    "error",
    [
        UnknownRequest("\ud800" * MAX_MESSAGE_BYTES),
        UnknownEventType("\x00" * MAX_MESSAGE_BYTES),
        InvalidInput("x" * MAX_MESSAGE_BYTES, "is wrong", "\x00" * MAX_MESSAGE_BYTES),
    ],
)
def test_an_error_that_repeats_its_input_is_small_in_a_reply(error: EsError) -> None:
    assert len(encode(error.to_wire(), "the reply")) < MAX_MESSAGE_BYTES / 20
