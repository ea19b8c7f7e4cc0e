"""Requests over Unix sockets, one per role: the embedded transport.

A frame is its length in 4 bytes, big-endian, then a JSON object: `{"id", "kind", "body"}` one way,
`{"id", "ok"}` or `{"id", "error": {"code", "kind", "message", "hint"}}` the other. Frames are pipelined;
an id belongs to its connection. Several workers of a role accept from one listening socket.

Promise: a caller gets the answer of the connection it asked on, or asks again. Refusal: nothing outside
the standard library is imported here, because every short-lived command pays for it.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from domain.kernel.errors import MessageTooLarge
from domain.kernel.messages import Body, to_json

MAX_FRAME_BYTES = 1 << 20
_LENGTH = struct.Struct(">I")


def frame(message: Mapping[str, Any], *, what: str = "the request") -> bytes:
    raw = to_json(message).encode("utf-8", "surrogatepass")
    if len(raw) > MAX_FRAME_BYTES:
        raise MessageTooLarge(what, MAX_FRAME_BYTES)
    return _LENGTH.pack(len(raw)) + raw


def take_frames(buffer: bytearray) -> list[Body]:
    """Whole frames from the front of `buffer`, which keeps the rest. Raises ValueError on anything else."""
    messages: list[Body] = []
    start = 0
    while len(buffer) - start >= _LENGTH.size:
        (length,) = _LENGTH.unpack_from(buffer, start)
        if length > MAX_FRAME_BYTES:
            raise ValueError("oversized frame")
        end = start + _LENGTH.size + length
        if len(buffer) < end:
            break
        message = json.loads(str(buffer[start + _LENGTH.size : end], "utf-8", "surrogatepass"))
        if not isinstance(message, dict):
            raise ValueError("a frame must hold an object")
        messages.append(message)
        start = end
    del buffer[:start]
    return messages
