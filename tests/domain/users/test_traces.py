"""A person in text of any form: every spelling is found, and nothing of another person."""

from __future__ import annotations

import json

import pytest

from domain.users.traces import Traces, request_letter, text_letter
from tests.support.waiting import assert_within

ADDRESS, NAME = "josé@exämple.com", "José  “Łukasz” O'Neill"
PERSON = Traces(["7000000000000000007", "0b5c"], [ADDRESS, "old@example.org"], [NAME])


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
    ],
    ids=ascii,
)
def test_every_spelling_of_a_known_value_is_found_in_text(text: str) -> None:
    assert PERSON.are_in(text_letter(text))


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
    assert not PERSON.are_in(text_letter(text))


def test_a_name_decides_only_about_a_request_that_names_no_person() -> None:
    assert PERSON.are_in(request_letter({"body": {"input": {"nam": NAME}}}))
    assert not PERSON.are_in(request_letter({"body": {"input": {"user_id": "8", "name": NAME}}}))
    assert not PERSON.are_in(request_letter({"body": {"input": {"email": "x@y.zz", "name": NAME}}}))
    assert PERSON.are_in(request_letter({"body": {"input": {"user_id": 7000000000000000007}}}))
    assert PERSON.are_in(request_letter({"kind": "users.find", "body": {"email": ADDRESS}}))


def test_a_huge_or_deep_letter_is_searched_at_once() -> None:
    deep: object = ADDRESS
    for _ in range(100_000):
        deep = [deep]

    def search() -> None:
        assert PERSON.are_in(request_letter({"body": deep}))
        for text in ("a" * 1_000_000, "\\" * 1_000_000, "a@" * 300_000, "\\u00e9" * 150_000):
            letter = text_letter(text)
            assert not PERSON.are_in(letter)
            assert len(list(letter.addresses())) < 300_000

    assert_within(8.0, search)
