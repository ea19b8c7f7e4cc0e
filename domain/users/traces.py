"""Find a person in messages that no stream holds, such as dead letters: by id, command, e-mail address or name.

Promise: every spelling of a value that this program accepts is found, also inside JSON escapes. Refusal: a name
alone does not make a request theirs if the request names a user or an address, because names are not unique.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from domain.kernel.errors import InvalidInput
from domain.users.commands import parse_email
from domain.users.mail_domains import spellings

# Bounded: a text of a megabyte without an address must not take quadratic time.
_ADDRESS = re.compile(r"[^\s\"'<>(),:;=\[\]{}|\\@]{1,64}@[^\s\"'<>(),:;=\[\]{}|\\@]{1,254}")
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED_AT_MOST = 3
"""JSON inside a JSON string is escaped twice."""


@dataclass(frozen=True)
class Letter:
    """The comparable text of one request, or of a whole message that holds no requests."""

    texts: tuple[str, ...]
    names_its_person: bool
    """Whether it is a request that names a user or an address."""

    def addresses(self) -> Iterator[str]:
        """Everything that looks like an e-mail address, in its stored form."""
        for text in self.texts:
            for found in _ADDRESS.findall(text):
                try:
                    yield parse_email(found.strip(".")).value
                except InvalidInput:
                    continue


def request_letter(request: Mapping[str, Any]) -> Letter:
    """The letter of a request: of all texts in it, at any depth."""
    found: list[str] = []
    waiting: list[Any] = [request]
    names_its_person = False
    while waiting:  # no recursion: the depth is the sender's choice
        match waiting.pop():
            case dict() as items:
                waiting += [*items, *items.values()]
                if isinstance(id_ := items.get("user_id"), int | str):
                    names_its_person = True
                    found.append(str(id_))
            case list() as values:
                waiting += values
            case str() as text:
                found.append(text)
                names_its_person = names_its_person or "@" in text
    return Letter((folded(" | ".join(found)),), names_its_person)


def text_letter(text: str) -> Letter:
    r"""The letter of a message that cannot be parsed: its text as it is, and without escapes of JSON or `\xe9`."""
    texts = [text]
    for _ in range(_ESCAPED_AT_MOST):
        if "\\" not in texts[-1]:
            break
        texts.append(_unescaped(texts[-1]))
    return Letter(tuple(map(folded, texts)), names_its_person=False)


class Traces:
    """The known values of one person."""

    def __init__(self, ids: Iterable[str], addresses: Iterable[str], names: Iterable[str]) -> None:
        """`ids` are the user id and the command ids. `addresses` and `names` are as the stream holds them."""
        self._ids = _Values(ids, before=r"(?<!\w)", after=r"(?!\w)")
        spelled = [spelling for address in addresses for spelling in (address, *_spellings(address))]
        self._addresses = _Values(spelled, before=r"(?<![\w.+-])", after=r"(?![\w-]|\.\w)")
        self._names = _Values(names, before=r"(?<!\w)", after=r"(?!\w)")

    def are_in(self, letter: Letter) -> bool:
        for text in letter.texts:
            if self._ids.are_in(text) or self._addresses.are_in(text):
                return True
            if not letter.names_its_person and self._names.are_in(text):
                return True
        return False


def _spellings(address: str) -> tuple[str, ...]:
    try:
        return spellings(parse_email(address).value)
    except InvalidInput:  # stored by an earlier version, which accepted more
        return ()


class _Values:
    """Texts to search for, each between the given borders."""

    def __init__(self, values: Iterable[str], *, before: str, after: str) -> None:
        self._values = [value for value in {folded(value).strip() for value in values} if value]
        self._patterns = [re.compile(before + re.escape(value) + after) for value in self._values]

    def are_in(self, text: str) -> bool:
        # The plain search first: it is ten times as fast, and most letters are about others.
        return any(
            value in text and pattern.search(text) is not None
            for value, pattern in zip(self._values, self._patterns, strict=True)
        )


def folded(text: str) -> str:
    """The text in a form in which its spellings are equal: case, composition, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code, byte, letter = found.groups()
        return _CONTROLS.get(letter, letter) if letter else chr(int(code or byte, 16))

    # Two escapes of a surrogate pair are one character.
    return _ESCAPE.sub(character, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
