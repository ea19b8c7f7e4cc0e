r"""Recognise people in messages that no stream holds, such as dead letters: by id, command, e-mail address or name.

Addresses and names are compared by keyed tags only: those of an erased person outlive the data key, and tell nothing.

Promise: every spelling of a value that this program accepts is found, also inside escapes of JSON or `\xe9`. Refusal: a
request of another user is not theirs, and a name alone decides nothing about a request that names a user or an address.
"""

from __future__ import annotations

import re
import unicodedata
from collections import defaultdict
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property
from types import MappingProxyType
from typing import Any
from uuid import UUID

from domain.kernel.aggregate import Aggregate
from domain.kernel.errors import InvalidInput
from domain.kernel.ids import parse_id
from domain.kernel.personal import subject_fields
from domain.kernel.ports.vault import OwedTag
from domain.users.commands import NAME_MAX_CHARACTERS, parse_email
from domain.users.mail_domains import spellings

Tags = Callable[[Sequence[str]], list[bytes]]
"""The keyed tags of texts: `Vault.tags`."""
Holders = Callable[[Sequence[str]], Mapping[str, int]]
"""The users who have addresses now: `Vault.holders`."""
PersonFields = Mapping[str, Collection[str]]
"""By kind of request: the fields with the ids of users, besides `user_id`."""

# Bounded: a text of a megabyte without an address must not take quadratic time.
_ADDRESS = re.compile(r"([^\s@\"(),:;<>\[\\\]]{1,64})@([^\s@\"(),:;<>\[\\\]]{1,254})")
_INSIDE = re.compile(r"[\w.+-]")
"""Before an address, none of these."""
_GOES_ON = re.compile(r"[\w-]|\.\w")
"""After an address, none of these."""
_BORDERS = 8
"""At how many signs such as ' or = an address may start, and end: they may be part of it."""
_TOKEN = re.compile(r"\w+")
_WORD = re.compile(r"\w+|[^\w\s]")
_UUID = re.compile(r"(?<!\w)[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}(?!\w)")
_TAGGED_AT_ONCE = 4096
_ESCAPE = re.compile(r"\\(?:u([0-9a-fA-F]{4})|x([0-9a-fA-F]{2})|(.))", re.DOTALL)
_CONTROLS = {"b": "\b", "f": "\f", "n": "\n", "r": "\r", "t": "\t"}
_ESCAPED_AT_MOST = 3
"""JSON inside a JSON string is escaped twice."""


# --- messages --------------------------------------------------------------------------------


@dataclass(frozen=True)
class Letter:
    """The text of one request, or of a whole message that holds no requests, as it is and with fewer escapes."""

    texts: tuple[str, ...]
    users: frozenset[int] = frozenset()
    """The users that a request names."""
    names_its_person: bool = False
    """Whether it is a request that names a user or an address."""

    @cached_property
    def folded(self) -> list[str]:
        return [folded(text) for text in self.texts]

    def ids(self) -> set[str]:
        """Everything that may be a user id or a command id."""
        return {id_ for text in self.folded for id_ in (*_TOKEN.findall(text), *_UUID.findall(text))}

    def addresses(self) -> set[str]:
        """Everything that looks like an e-mail address. Of `'a@b.cc` also `a@b.cc`."""
        return {found for text in {*self.texts, *self.folded} if "@" in text for found in _addresses(text)}

    def names(self, words: int) -> Iterator[str]:
        """Everything that may be a name of so many words."""
        for text in self.folded:
            found = _WORD.findall(text)
            for start in range(len(found) - words + 1):
                yield " ".join(found[start : start + words])


def person_fields(aggregates: Iterable[Aggregate[Any, Any]]) -> PersonFields:
    """The fields of commands that an `Of` refers to."""
    return {
        command.request: {*subject_fields(command).values()}
        for aggregate in aggregates
        for command in aggregate.commands
        if command.request and subject_fields(command)
    }


def letter_of(item: Mapping[str, Any], fields: PersonFields = MappingProxyType({})) -> Letter:
    """The letter of a request, or of a message without requests: `{"unreadable": text}`."""
    text = item.get("unreadable")
    if isinstance(text, str) and len(item) == 1:
        return _text_letter(text)
    kind = item.get("kind")
    return _request_letter(item, {"user_id", *(fields.get(kind, ()) if isinstance(kind, str) else ())})


def _request_letter(request: Mapping[str, Any], names: Collection[str]) -> Letter:
    """All texts of a request, at any depth. `names` are those of the fields with ids of users."""
    found: list[str] = []
    users: set[int] = set()
    waiting: list[Any] = [request]
    names_its_person = False
    while waiting:  # no recursion: the depth is the sender's choice
        match waiting.pop():
            case dict() as items:
                waiting += [*items, *items.values()]
                for name in names:
                    if isinstance(id_ := items.get(name), int | str):
                        names_its_person = True
                        found.append(str(id_))
                        users.update(_parsed_id(id_))
            case list() as values:
                waiting += values
            case str() as text:
                found.append(text)
                names_its_person = names_its_person or "@" in text
    return Letter((" | ".join(found),), frozenset(users), names_its_person)


def _text_letter(text: str) -> Letter:
    texts = [text]
    for _ in range(_ESCAPED_AT_MOST):
        if "\\" not in texts[-1]:
            break
        texts.append(_unescaped(texts[-1]))
    return Letter(tuple(texts))


def _parsed_id(value: object) -> Iterator[int]:
    try:
        yield parse_id(value)
    except InvalidInput:
        return


def _addresses(text: str) -> Iterator[str]:
    for found in _ADDRESS.finditer(text):
        at, (first, last) = found.start(2) - 1, found.span()
        starts = [i for i in range(first, at) if i == 0 or not _INSIDE.match(text, i - 1)]
        ends = [i for i in range(at + 2, last + 1) if not _GOES_ON.match(text, i)]
        for start in {*starts[:1], *starts[-_BORDERS:]}:
            for end in {*ends[:_BORDERS], *ends[-1:]}:
                yield text[start:end].strip(".")


# --- people ----------------------------------------------------------------------------------


def traces(addresses: Iterable[str], names: Iterable[str], tags: Tags) -> list[OwedTag]:
    """The tags by which former addresses and names are recognised in every spelling."""
    texts = {(spelling, 0) for address in addresses for spelling in _spellings(address)}
    for name in names:
        if words := _WORD.findall(folded(name)):
            texts.add((" ".join(words), len(words)))
    ordered = sorted(texts)
    found = tags([text for text, _ in ordered])
    return [OwedTag(tag, words) for tag, (_, words) in zip(found, ordered, strict=True)]


@dataclass
class People:
    """What is known of some people, who are searched for together."""

    ids: dict[str, int] = field(default_factory=dict)
    """User ids and command ids."""
    addresses: defaultdict[bytes, set[int]] = field(default_factory=lambda: defaultdict(set))
    names: defaultdict[int, defaultdict[bytes, set[int]]] = field(
        default_factory=lambda: defaultdict(lambda: defaultdict(set))
    )
    """By their number of words."""

    def add(self, subject: int, commands: Iterable[UUID | str], kept: Iterable[OwedTag]) -> None:
        """`kept` are tags of `traces`, and of claims."""
        self.ids[str(subject)] = subject
        for command in commands:
            self.ids[folded(str(command))] = self.ids[folded(str(command)).replace("-", "")] = subject
        for each in kept:
            known = self.names[each.words] if each.words else self.addresses
            known[each.tag].add(subject)


def is_about(people: People, letter: Letter, *, tags: Tags, holders: Holders) -> set[int]:
    """Those of these people whose data a letter holds; empty if it is about none of them.

    Not theirs is a request that names another user, and an address that another user has now.
    """
    found = {people.ids[id_] for id_ in letter.ids() if id_ in people.ids}
    if found or letter.users:
        return found
    for address in letter.addresses() if people.addresses else ():
        theirs = {one for tag in tags(_spellings(address)) for one in people.addresses.get(tag, ())}
        if theirs and (owner := _owner(address, holders)) is not None:
            theirs &= {owner}
        found |= theirs
    if not found and not letter.names_its_person:
        for words, known in people.names.items():
            found |= {one for tag in _name_tags(letter, words, tags) for one in known.get(tag, ())}
    return found


def _owner(address: str, holders: Holders) -> int | None:
    found = holders(_spellings(address))
    return next((found[each] for each in _spellings(address) if each in found), None)


def _name_tags(letter: Letter, words: int, tags: Tags) -> Iterator[bytes]:
    waiting: set[str] = set()
    for name in letter.names(words):
        if len(name) <= 2 * NAME_MAX_CHARACTERS:  # a space may be added between each two signs
            waiting.add(name)
        if len(waiting) == _TAGGED_AT_ONCE:
            yield from tags([*waiting])
            waiting.clear()
    yield from tags([*waiting])


def _spellings(address: str) -> list[str]:
    """The forms of an address that are tagged: stored, punycode, and folded for one that is no longer accepted."""
    found = {address, folded(address)}
    with suppress(InvalidInput):  # stored by an earlier version, which accepted more
        found.update(spellings(parse_email(address).value))
    return sorted(found)


def folded(text: str) -> str:
    """The text in a form in which its spellings are equal: case, composition, width and white space."""
    return " ".join(unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", text).casefold()).split())


def _unescaped(text: str) -> str:
    def character(found: re.Match[str]) -> str:
        code, byte, letter = found.groups()
        return _CONTROLS.get(letter, letter) if letter else chr(int(code or byte, 16))

    # Two escapes of a surrogate pair are one character.
    return _ESCAPE.sub(character, text).encode("utf-16", "surrogatepass").decode("utf-16", "replace")
