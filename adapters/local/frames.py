"""The frames on a local socket.

A frame is its length in 4 bytes, big-endian, then a JSON object: `{"id", "kind", "body"}` for a request,
`{"id", "ok"}` or `{"id", "error": {"code", "kind", "message", "hint"}}` for its reply. Frames are pipelined;
an id is unique on its connection.

Promise: a frame is read whole or not at all. Refusal: anything that is not a frame raises an error, because
nothing after it can be trusted.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Mapping
from typing import Any

from domain.kernel.errors import MessageTooLarge
from domain.kernel.messages import Body, to_json

MAX_FRAME_BYTES = 1 << 20
CHUNK_BYTES = 1 << 18
"""How much is sent or received at once."""
_LENGTH = struct.Struct(">I")


def frame(message: Mapping[str, Any], *, what: str = "the request") -> bytes:
    """The frame of a message. Raises MessageTooLarge, in which `what` names the message."""
    raw = to_json(message).encode("utf-8", "surrogatepass")
    if len(raw) > MAX_FRAME_BYTES:
        raise MessageTooLarge(what, MAX_FRAME_BYTES)
    return _LENGTH.pack(len(raw)) + raw


def take_frames(buffer: bytearray) -> list[Body]:
    """Take the whole frames from the front of `buffer`, which keeps the rest.

    Raises ValueError or RecursionError on anything else.
    """
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
