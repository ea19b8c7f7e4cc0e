"""The frames on a local socket.

A frame is its length in 4 bytes, big-endian, then a JSON object: `{"id", "kind", "body"}` for a request,
`{"id", "ok"}` or `{"id", "error": {"code", "kind", "message", "hint"}}` for its reply. Frames are pipelined;
an id is unique on its connection.

Promise: a frame is read whole or not at all. Refusal: anything that is not a frame raises an error, because
nothing after it can be trusted.
"""

from __future__ import annotations

import struct
import sys
from collections.abc import Mapping
from typing import Any

from domain.kernel.messages import MAX_MESSAGE_BYTES, Body, encode, parse_json

CHUNK_BYTES = 1 << 18
"""How much is sent or received at once."""
_LENGTH = struct.Struct(">I")


def frame(message: Mapping[str, Any], *, what: str = "the request") -> bytes:
    """The frame of a message. Raises MessageTooLarge or InvalidInput, in which `what` names the message."""
    raw = encode(message, what)
    return _LENGTH.pack(len(raw)) + raw


def has_frame(buffer: bytearray) -> bool:
    """Whether `buffer` begins with a whole frame. Raises ValueError if it can never become one."""
    if len(buffer) < _LENGTH.size:
        return False
    (length,) = _LENGTH.unpack_from(buffer)
    if length > MAX_MESSAGE_BYTES:
        raise ValueError("oversized frame")
    return len(buffer) >= _LENGTH.size + int(length)


def take_frames(buffer: bytearray, limit: int = sys.maxsize) -> list[tuple[Body, int]]:
    """Take whole frames from the front of `buffer`, which keeps the rest: the messages with their sizes in bytes.

    Raises ValueError on anything else.
    """
    messages: list[tuple[Body, int]] = []
    while len(messages) < limit and has_frame(buffer):
        (length,) = _LENGTH.unpack_from(buffer)
        end = _LENGTH.size + length
        message = parse_json(buffer[_LENGTH.size : end])
        if not isinstance(message, dict):
            raise ValueError("a frame must hold an object")
        messages.append((message, length))
        del buffer[:end]
    return messages
