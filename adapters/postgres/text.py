"""Text with U+0000, which PostgreSQL cannot store, in an encoded form.

In a value U+0000 is stored as `\\0`, and a backslash as `\\\\`. In a key U+0000 is stored as U+0001 U+0001, and
U+0001 as U+0001 U+0002: this form keeps the order of keys.
"""

from __future__ import annotations

from typing import Any


def encoded_text(text: str) -> str:
    return text.replace("\\", "\\\\").replace("\0", "\\0") if "\0" in text or "\\" in text else text


def encoded(value: Any) -> Any:
    return encoded_text(value) if isinstance(value, str) else value


def decoded(value: Any) -> Any:
    if isinstance(value, str) and "\\" in value:
        return "\\".join(part.replace("\\0", "\0") for part in value.split("\\\\"))
    return value


def encoded_key(key: Any) -> Any:
    if isinstance(key, str) and ("\0" in key or "\1" in key):
        return key.replace("\1", "\1\2").replace("\0", "\1\1")
    return key


def decoded_key(key: Any) -> Any:
    if isinstance(key, str) and "\1" in key:
        return key.replace("\1\1", "\0").replace("\1\2", "\1")
    return key
