"""A person in text of any form: every spelling is found, and nothing of another person."""

from __future__ import annotations

import hmac
import json
from collections.abc import Sequence
from typing import Any

import pytest

from domain.users.traces import People, folded, is_about, letter_of, traces
from tests.support.waiting import assert_within, in_cpu_time

ADDRESS, NAME = "josé@exämple.com", "José  “Łukasz” O'Neill"
USER, OTHER = 7000000000000000007, 8
COMMAND = "0b5c9d0e-6b1f-4c55-9a2e-0123456789ab"


def tags(texts: Sequence[str]) -> list[bytes]:
    return [hmac.digest(bytes(32), text.encode(errors="surrogatepass"), "sha256") for text in texts]


def people(*others: tuple[int, list[str]]) -> People:
    found = People()
    addresses = [ADDRESS, "old@example.org", "o'neill@example.org", "straße@example.de"]
    found.add(USER, ["0b5c", COMMAND], traces(addresses, [NAME], tags))
    for user_id, theirs in others:
        found.add(user_id, [], traces(theirs, [], tags))
    return found


def found_in(item: dict[str, Any], known: People | None = None, **holders: int) -> set[int]:
    """`holders` are users by the local part of the address that they have now."""
    return is_about(
        known or people(),
        letter_of(item),
        tags=tags,
        holders=lambda addresses: {
            address: holders[local] for address in addresses if (local := address.split("@")[0]) in holders
        },
    )


def is_in_text(text: str) -> bool:
    return found_in({"unreadable": text}) == {USER}


@pytest.mark.parametrize(
    "text",
    [
        f'{{"email":"{ADDRESS}"',
        "JOSE\u0301@EXÄMPLE.com, please",
        "josé@xn--exmple-cua.com",
        "mailto:josé@ｅxämple.com.",
        json.dumps({"email": ADDRESS}),
        json.dumps(json.dumps({"text": f"\t{ADDRESS}"})),
        ADDRESS.encode("latin-1").decode("utf-8", "backslashreplace"),
        "x=old@example.org;",
        "josé “łukasz”\n o'neill was here",
        json.dumps(NAME)[:-1],
        "user-7000000000000000007",
        '"command_id":"0B5C"',
        COMMAND.upper(),
        COMMAND.replace("-", ""),
        "'o'neill@example.org'",
        "{STRASSE@example.de}",
        "Straße@Example.DE!",
        "ＯＬＤ＠ｅｘａｍｐｌｅ．ｏｒｇ",
    ],
    ids=ascii,
)
def test_every_spelling_of_a_known_value_is_found_in_text(text: str) -> None:
    assert is_in_text(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x.old@example.org",
        "old@example.org.uk",
        "old@example.org-x.com",
        "70000000000000000070 17000000000000000007",
        "José “Łukasz” O'Neilly",
        "jose@example.com",
        "0b5cd",
    ],
)
def test_a_part_of_another_value_is_not_found(text: str) -> None:
    assert not is_in_text(text)


def test_a_name_decides_only_about_a_request_that_names_no_person() -> None:
    assert found_in({"body": {"input": {"nam": NAME}}})
    assert not found_in({"body": {"input": {"user_id": "8", "name": NAME}}})
    assert not found_in({"body": {"input": {"email": "x@y.zz", "name": NAME}}})
    assert found_in({"body": {"input": {"user_id": USER}}})
    assert found_in({"kind": "users.find", "body": {"email": ADDRESS}})


def test_a_request_of_another_user_is_not_theirs_although_it_names_their_address() -> None:
    moved = {"input": {"user_id": "8", "email": ADDRESS}}

    assert found_in({"kind": "users.change-email", "body": moved}) == set()
    assert found_in({"kind": "users.change-email", "body": {**moved, "command_id": COMMAND}}) == {USER}


def test_an_address_that_another_user_has_now_is_not_theirs() -> None:
    for item in (
        {"kind": "users.create", "body": {"email": "old@example.org"}},
        {"unreadable": "old@example.org"},
    ):
        assert found_in(item, old=OTHER) == set()
        assert found_in(item, old=USER) == {USER}
        assert found_in(item) == {USER}


def test_an_address_that_two_erased_people_had_is_found_for_both() -> None:
    both = people((OTHER, ["old@example.org"]))

    assert found_in({"unreadable": "<old@example.org>"}, both) == {USER, OTHER}
    assert found_in({"unreadable": f"user-{OTHER}"}, both) == {OTHER}


def test_what_is_kept_to_recognise_a_person_contains_nothing_of_theirs() -> None:
    kept = repr(traces([ADDRESS], [NAME], tags))

    assert "example" not in kept
    assert folded(NAME) not in kept


def test_a_huge_or_deep_letter_is_searched_at_once() -> None:
    deep: object = ADDRESS
    for _ in range(100_000):
        deep = [deep]

    def search() -> None:
        assert found_in({"body": deep})
        for text in (
            "a" * 1_000_000,
            "\\" * 1_000_000,
            "a@" * 300_000,
            "\\u00e9" * 150_000,
            "a'" * 500_000,
            "a'a'a'a'a@a.b'b'b'b'b " * 10_000,
        ):
            assert not is_in_text(text)

    assert_within(12.0, in_cpu_time(search))
