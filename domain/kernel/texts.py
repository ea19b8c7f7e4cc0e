"""Check one line of text from outside: a name, an address.

Promise: every character of an accepted text shows something. Refusal: a refusal names the field and the code point,
never the value.
"""

from __future__ import annotations

import re
import unicodedata

from domain.kernel.errors import InvalidInput

_UNPRINTABLE = frozenset({"Cc", "Cs", "Co", "Cn", "Zl", "Zp"})
_INVISIBLE = frozenset({"Cf", "Zs"})
_BIDI_OVERRIDES = frozenset("\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069")
_SHOWS_NOTHING = re.compile(
    # Default_Ignorable_Code_Point of Unicode 15.1 (DerivedCoreProperties.txt)
    "[\u00ad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u202a-\u202e\u2060-\u206f\u3164"
    "\ufe00-\ufe0f\ufeff\uffa0\ufff0-\ufff8\U0001bca0-\U0001bca3\U0001d173-\U0001d17a\U000e0000-\U000e0fff"
    # and what else has no ink: annotation marks, the blank Braille pattern, the null notehead
    "\ufff9-\ufffb\u2800\U0001d159]"
)
_NON_JOINER, _JOINER, _EMOJI_STYLE = "\u200c", "\u200d", "\ufe0f"
_VIRAMA_CLASS = 9
_PICTURES = frozenset({"So", "Sk", "Sm"})


def one_line(field: str, value: object, limit: int) -> str:
    """Trim and normalise (NFC) one line of visible text of 1 to `limit` characters. Raises InvalidInput."""
    if not isinstance(value, str):
        raise InvalidInput(field, "must be text")
    if len(value) > 8 * limit:  # before normalising, which takes long for megabytes
        raise InvalidInput(field, f"is longer than {limit} characters")
    if not value.isprintable():  # some unprintable characters are allowed, such as a joiner in a name
        _refuse_unprintable(field, value)
    is_ascii = value.isascii()  # then it is in NFC, and each of its printable characters shows something
    text = (value if is_ascii else unicodedata.normalize("NFC", value)).strip()
    if not text:
        raise InvalidInput(field, "is empty")
    for found in () if is_ascii else _SHOWS_NOTHING.finditer(text):
        if not _shapes_its_neighbours(text, found.start()):
            raise InvalidInput(field, f"contains a character that shows nothing (U+{ord(found[0]):04X})")
    if len(text) > limit:
        raise InvalidInput(field, f"is longer than {limit} characters")
    return text


def shows_nothing(text: str) -> bool:
    """Whether the text contains a character that shows nothing, also one that shapes its neighbours."""
    return not text.isascii() and _SHOWS_NOTHING.search(text) is not None


def _refuse_unprintable(field: str, value: str) -> None:
    for character in value:
        category = unicodedata.category(character)
        if category == "Cs":
            raise InvalidInput(field, "contains a lone surrogate, which is not text")
        if category in _UNPRINTABLE or character in _BIDI_OVERRIDES:
            raise InvalidInput(field, "contains a control or unprintable character")
    if all(unicodedata.category(character) in _INVISIBLE for character in value):
        raise InvalidInput(field, "is empty")


def _shapes_its_neighbours(text: str, index: int) -> bool:
    """Whether a joiner or an emoji style is where writing needs it: it changes what its neighbours show.

    A joiner after a virama (RFC 5892, appendix A), a non-joiner between Arabic letters, and joined emoji.
    """
    before, after = text[index - 1 : index], text[index + 1 : index + 2]
    if not before:
        return False
    after_virama = unicodedata.combining(before) == _VIRAMA_CLASS
    if text[index] == _NON_JOINER:
        return after_virama or (_is_arabic(before) and _is_arabic(after))
    if text[index] == _JOINER:
        return after_virama or ((_is_picture(before) or before == _EMOJI_STYLE) and _is_picture(after))
    if text[index] == _EMOJI_STYLE:
        return _is_picture(before) or (before in "#*0123456789" and after == "\u20e3")
    return False


def _is_arabic(character: str) -> bool:
    return character != "" and unicodedata.bidirectional(character) in ("AL", "NSM")


def _is_picture(character: str) -> bool:
    return character != "" and not shows_nothing(character) and unicodedata.category(character) in _PICTURES
