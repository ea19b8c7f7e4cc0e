"""The spellings of an e-mail address whose domain is not ASCII.

Promise: the punycode spelling, the Unicode spelling and their variants of width and case are one address. Addresses are
stored and claimed in the Unicode spelling, as all versions did; a claim on the punycode spelling of an earlier version
is found under `spellings`. Refusal: no letter is replaced by another one, as IDNA2003 does with ß: those are two domains.
"""

from __future__ import annotations

import unicodedata

from domain.kernel.errors import InvalidInput

_PREFIX = "xn--"
_DOTS = str.maketrans(dict.fromkeys("\u3002\uff61", "."))


def unicode_domain(domain: str) -> str:
    """The domain in the spelling that is stored. Raises InvalidInput for a label that is no punycode."""
    return ".".join(map(_unicode_label, _folded(domain).translate(_DOTS).split(".")))


def spellings(email: str) -> tuple[str, ...]:
    """A parsed address, and its punycode spelling if it has one."""
    if email.isascii():
        return (email,)
    local, _, domain = email.rpartition("@")
    return email, f"{local}@{'.'.join(map(_ascii_label, domain.split('.')))}"


def _unicode_label(label: str) -> str:
    if not label.startswith(_PREFIX):
        return label
    try:
        decoded = label.removeprefix(_PREFIX).encode("ascii").decode("punycode")
        is_canonical = (
            not decoded.isascii() and _folded(decoded) == decoded and _ascii_label(decoded) == label
        )
    except (ValueError, OverflowError):  # also UnicodeError
        is_canonical = False
    if not is_canonical:
        raise InvalidInput("email", "has a domain with a label that is no valid punycode")
    return decoded


def _ascii_label(label: str) -> str:
    return label if label.isascii() else _PREFIX + label.encode("punycode").decode("ascii")


def _folded(text: str) -> str:
    # Twice: lower case can undo the normalisation, and the normalisation can yield a capital letter.
    for _ in range(2):
        text = unicodedata.normalize("NFKC", text).lower()
    return unicodedata.normalize("NFKC", text)
