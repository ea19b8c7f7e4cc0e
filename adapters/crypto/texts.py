"""The texts of sealed values: a whole one, and the short one of an event.

    es1:<subject>:<event id, 32 hex>:<box>    whole: it says what it was sealed for, so it can be copied, as into read models
    es2:<box>                                 short: the event that stores it says the rest

Both hold the same box (`sealing.py`). Promise: what `short` shortens, `whole` restores, for the same subject and event.
"""

from __future__ import annotations

_WHOLE = "es1:"
SHORT = "es2:"


def head(subject: int | str, event_id: bytes) -> str:
    """What a whole text begins with. The subject is an id or its decimal digits."""
    return f"{_WHOLE}{subject}:{event_id.hex()}:"


def short(text: str, begin: str) -> str:
    """A whole text without its head. Another text stays as it is."""
    return SHORT + text[len(begin) :] if text.startswith(begin) else text


def whole(text: str, begin: str) -> str:
    """A short text with its head. Another text stays as it is: earlier versions stored whole ones in events."""
    return begin + text[len(SHORT) :] if text.startswith(SHORT) else text
