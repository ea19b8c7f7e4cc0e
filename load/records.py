"""Dataclasses from parsed JSON, checked against their annotations.

Promise: a value of the wrong type, or a missing one without a default, is named by its path. Refusal: nothing is
converted, except whole numbers to float. Unknown names are ignored: a newer version may have added them.
"""

from __future__ import annotations

import types
from collections.abc import Callable, Mapping
from dataclasses import MISSING, fields
from functools import cache
from typing import Any, TypeVar, Union, get_args, get_origin, get_type_hints

T = TypeVar("T")


def build(cls: type[T], value: object) -> T:
    """An instance of the dataclass from an object of JSON. Raises ValueError, whose text begins with the path."""
    hint: Any = cls
    built: T = _builder(hint)(value, "")
    return built


_Builder = Callable[[Any, str], Any]


@cache
def _builder(hint: Any) -> _Builder:
    origin, arguments = get_origin(hint), get_args(hint)
    if origin in (Union, types.UnionType):
        (inner,) = (each for each in arguments if each is not type(None))
        of_inner = _builder(inner)
        return lambda value, path: None if value is None else of_inner(value, path)
    if origin is list:
        return _of_list(_builder(arguments[0]))
    if origin in (dict, Mapping):
        return _of_mapping(_builder(arguments[1]))
    if hint is Any:
        return lambda value, _path: value
    return _plain(hint) if hint in (int, float, str, bool) else _of_dataclass(hint)


def _of_list(of_item: _Builder) -> _Builder:
    def built(value: Any, path: str) -> Any:
        items = _expected(list, value, path)
        return [of_item(item, f"{path}[{index}]") for index, item in enumerate(items)]

    return built


def _of_mapping(of_value: _Builder) -> _Builder:
    def built(value: Any, path: str) -> Any:
        entries = _expected(dict, value, path)
        return {name: of_value(entry, f"{path}.{name}") for name, entry in entries.items()}

    return built


def _plain(cls: type) -> _Builder:
    def built(value: Any, path: str) -> Any:
        if cls is float and type(value) is int:
            return float(value)
        return _expected(cls, value, path)

    return built


def _of_dataclass(cls: Any) -> _Builder:
    hints = get_type_hints(cls)
    builders = {each.name: _builder(hints[each.name]) for each in fields(cls)}
    required = {
        each.name for each in fields(cls) if each.default is MISSING and each.default_factory is MISSING
    }

    def built(value: Any, path: str) -> Any:
        entries = _expected(dict, value, path)
        if missing := sorted(required - entries.keys()):
            raise ValueError(f"{_at(path, missing[0])} is missing")
        return cls(
            **{
                name: builders[name](entry, _at(path, name))
                for name, entry in entries.items()
                if name in builders
            }
        )

    return built


def _at(path: str, name: str) -> str:
    return f"{path}.{name}" if path else name


def _expected(cls: type[T], value: object, path: str) -> T:
    if type(value) is not cls:
        raise ValueError(f"{path or 'the whole'} is no {cls.__name__}")
    return value
