"""Parsing of names, e-mail addresses, reasons of an erasure and user ids."""

from __future__ import annotations

import unicodedata
from collections.abc import Callable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from domain.kernel.errors import InvalidInput
from domain.kernel.personal import Personal
from domain.users.commands import (
    BASES,
    DEFAULT_BASIS,
    EMAIL_LOCAL_MAX_CHARACTERS,
    EMAIL_MAX_CHARACTERS,
    NAME_MAX_CHARACTERS,
    basis_of_text,
    parse_basis,
    parse_email,
    parse_name,
    parse_user_id,
)
from domain.users.mail_domains import spellings
from tests.support.waiting import assert_within, in_cpu_time

Parser = Callable[[object], Personal | str]
FIELDS: dict[Parser, tuple[str, int]] = {
    parse_name: ("name", NAME_MAX_CHARACTERS),
    parse_email: ("email", EMAIL_MAX_CHARACTERS),
}
"""The field that a refusal names and the maximum length, by parser."""
each_parser = pytest.mark.parametrize("parse", FIELDS)


def text_of(parsed: Personal | str) -> str:
    return parsed.value if isinstance(parsed, Personal) else parsed


def test_a_user_id_is_a_decimal_number_and_a_refusal_names_the_field() -> None:
    assert parse_user_id("9223372036854775807") == 2**63 - 1
    with pytest.raises(InvalidInput, match="user_id is not an id"):
        parse_user_id("9223372036854775808")


# --- the reason of an erasure ----------------------------------------------------------------


def test_the_reason_of_an_erasure_is_a_code() -> None:
    assert [parse_basis(code) for code in BASES] == list(BASES)
    assert DEFAULT_BASIS in BASES


ACCEPTED = {*BASES, "GDPR Art. 17"}


# Hypothesis also draws texts that it finds in the code, so texts that are accepted have to be left out.
@given(
    value=st.text().filter(lambda text: text not in ACCEPTED)
    | st.sampled_from(["other", "GDPR-REQUEST", " retention", "", None, 1, ["retention"]])
)
def test_any_other_reason_is_refused_with_the_list_of_codes(value: object) -> None:
    with pytest.raises(InvalidInput) as refused:
        parse_basis(value)

    assert refused.value == InvalidInput("basis", f"must be one of {', '.join(BASES)}")


def test_the_default_text_of_earlier_versions_stands_for_its_code() -> None:
    # Their commands may still wait on a broker.
    assert parse_basis("GDPR Art. 17") == "gdpr-request"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("GDPR Art. 17", "gdpr-request"),
        ("Ada Lovelace asked", "other"),
        ("retention", "other"),
        (None, "other"),
    ],
)
def test_a_stored_text_becomes_a_code(text: object, code: str) -> None:
    assert basis_of_text(text) == code


# --- every text ------------------------------------------------------------------------------


@each_parser
@pytest.mark.parametrize("value", [None, 1, 1.5, True, b"ada@example.com", [], {"a": 1}], ids=repr)
def test_a_value_of_another_type_is_refused(parse: Parser, value: object) -> None:
    with pytest.raises(InvalidInput, match="must be text"):
        parse(value)


@each_parser
@pytest.mark.parametrize("value", ["", " ", "   ", "\u00a0", "\u2003 \u3000"], ids=ascii)
def test_an_empty_text_is_refused(parse: Parser, value: str) -> None:
    with pytest.raises(InvalidInput, match="is empty"):
        parse(value)


@each_parser
@pytest.mark.parametrize(
    "character",
    [
        *(chr(code) for code in (*range(0x20), *range(0x7F, 0xA0))),  # C0, DEL, C1
        "\u2028",  # line separator
        "\u2029",  # paragraph separator
        "\ud800",  # a lone surrogate
        "\ue000",  # private use
        "\uffff",  # never a character
        "\U0010ffff",
        *"\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069",  # bidirectional overrides and isolates
    ],
    ids=ascii,
)
def test_an_unprintable_character_is_refused_at_any_place(parse: Parser, character: str) -> None:
    good = "ada@example.com"
    for value in (character + good, good[:2] + character + good[2:], good + character, character):
        with pytest.raises(InvalidInput, match=r"surrogate|unprintable"):
            parse(value)


@each_parser
def test_a_text_of_two_megabytes_is_refused_at_once(parse: Parser) -> None:
    huge = ["a" * 2_000_000, "\u0344" * 2_000_000, " " * 2_000_000, "a@" * 1_000_000, "\ud800" * 2_000_000]

    def refuse() -> None:
        for text in huge:
            with pytest.raises(InvalidInput):
                parse(text)

    assert_within(0.5, in_cpu_time(refuse))


@each_parser
@given(value=st.text(st.characters(), max_size=300) | st.text("aA@.-_ß\u0130\u030c\u0323é ", max_size=300))
@example(value="J\u030c@example.com")  # lower case turns it into letters that NFC composes
@example(value="\u0130" * 64 + "@example.com")  # lower case makes it longer
@example(value="a@" + "\u0130" * 200 + ".tr")
def test_a_parsed_text_is_stable_and_within_its_limit(parse: Parser, value: str) -> None:
    field, limit = FIELDS[parse]
    try:
        text = text_of(parse(value))
    except InvalidInput as refused:
        text, refusal = "", refused
    if not text:
        assert refusal.field == field
        return

    assert 1 <= len(text) <= limit
    assert text == text.strip()
    assert unicodedata.is_normalized("NFC", text)
    assert text_of(parse(text)) == text, "parsing it again changes nothing"


@each_parser
@given(value=st.text(min_size=4))
def test_a_refusal_never_repeats_the_value(parse: Parser, value: str) -> None:
    canary = f"\0{value}\0"

    with pytest.raises(InvalidInput) as refused:
        parse(canary)

    assert canary not in str(refused.value)
    assert canary not in repr(refused.value)


# --- names -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "name",
    ["A", "Ada Lovelace", "O'Brien", "Łukasz", "李小龍", "محمد", "👩‍🔬 Ada", "N" * NAME_MAX_CHARACTERS],
)
def test_a_name_is_kept_as_it_is(name: str) -> None:
    assert parse_name(name) == Personal(name)


def test_a_name_is_trimmed_and_composed() -> None:
    assert parse_name(" \u00a0Jose\u0301 ") == Personal("Jos\u00e9")


def test_the_limit_of_a_name_counts_after_composing_and_trimming() -> None:
    composes = "e\u0301" * NAME_MAX_CHARACTERS
    grows = "\u0958" * NAME_MAX_CHARACTERS  # NFC writes it as two characters

    assert parse_name(f"  {composes}  ") == Personal("\u00e9" * NAME_MAX_CHARACTERS)
    for too_long in ("N" * (NAME_MAX_CHARACTERS + 1), grows):
        with pytest.raises(InvalidInput, match=f"longer than {NAME_MAX_CHARACTERS}"):
            parse_name(too_long)


SHOW_NOTHING = [
    *"\u00ad\u034f\u061c\u115f\u1160\u17b4\u180e\u200b\u200c\u200d\u200e\u2060\u2064\u3164\ufe00\ufe0f\ufeff\uffa0",
    *"\U000e0020\U000e0101\ufff9\u2800\U0001d159",
]


@each_parser
@pytest.mark.parametrize("character", SHOW_NOTHING, ids=ascii)
def test_a_character_that_shows_nothing_is_refused_at_any_place(parse: Parser, character: str) -> None:
    good = "ada@example.com"
    for value in (character, character + good, good[:2] + character + good[2:], good + character):
        with pytest.raises(InvalidInput, match=r"shows nothing|is empty"):
            parse(value)


@pytest.mark.parametrize("name", ["علی‌رضا", "क्‍ष", "❤️ Ada", "👩🏽‍💻", "🏳️‍🌈", "4️⃣"])
def test_a_joiner_that_changes_its_neighbours_is_kept_in_a_name(name: str) -> None:
    assert parse_name(name) == Personal(name)
    with pytest.raises(InvalidInput):
        parse_email(f"{name}@example.com")


# --- e-mail addresses ------------------------------------------------------------------------


@pytest.mark.parametrize(
    "email",
    [
        "ada@example.com",
        "a@b.c",
        "ada.lovelace+tag@sub.example.co.uk",
        "o'brien_1-2%x@example.com",
        "jos\u00e9@ex\u00e4mple.com",
        "用户@例子.公司",
        "ada@1.2.3.4",
    ],
)
def test_an_email_address_is_accepted(email: str) -> None:
    assert parse_email(email) == Personal(email)


def test_an_email_address_has_one_form_for_all_its_spellings() -> None:
    assert parse_email("  Ada.LOVELACE@Example.COM ") == Personal("ada.lovelace@example.com")
    assert parse_email("JOSE\u0301@example.com") == parse_email("jos\u00e9@example.com")


@pytest.mark.parametrize(
    "email",
    [
        "ada",
        "ada@",
        "@example.com",
        "ada@example",
        "ada@@example.com",
        "a@b@example.com",
        "ada@example..com",
        "ada@.example.com",
        "ada@example.com.",
        ".ada@example.com",
        "ada.@example.com",
        "a..da@example.com",
        "ada lovelace@example.com",
        "ada@exam ple.com",
        "ada@ example.com",
        "ada\u00a0b@example.com",
        "<ada@example.com>",
        "Ada <ada@example.com>",
        '"ada"@example.com',
        "ada@[127.0.0.1]",
        "ada,grace@example.com",
        "ada;grace@example.com",
        "mailto:ada@example.com",
        "ada(comment)@example.com",
        "ada\\b@example.com",
        "ada＠example.com",
    ],
    ids=ascii,
)
def test_a_text_that_is_no_email_address_is_refused(email: str) -> None:
    with pytest.raises(InvalidInput, match="is not an e-mail address"):
        parse_email(email)


@pytest.mark.parametrize("invisible", ["\u200b", "\u200e", "\u2060", "\ufeff", "\u00ad"], ids=ascii)
def test_an_address_with_an_invisible_character_is_refused(invisible: str) -> None:
    # Addresses are unique, so two of them must not look the same.
    with pytest.raises(InvalidInput):
        parse_email(f"ada{invisible}@example.com")


@pytest.mark.parametrize(
    "spelling",
    ["ada@xn--exmple-cua.com", "ADA@XN--EXMPLE-CUA.COM", "ada@ｅxa\u0308mple。com", "ada@EXÄMPLE.com"],
    ids=ascii,
)
def test_the_spellings_of_a_domain_are_one_address(spelling: str) -> None:
    assert parse_email(spelling) == Personal("ada@exämple.com")
    assert spellings("ada@exämple.com") == ("ada@exämple.com", "ada@xn--exmple-cua.com")


def test_a_letter_of_a_domain_is_never_replaced_by_another() -> None:
    assert parse_email("ada@xn--strae-oqa.de") == Personal("ada@straße.de")
    assert parse_email("ada@straße.de") != parse_email("ada@strasse.de")


@pytest.mark.parametrize(
    "label", ["xn--", "xn--abc-", "xn--a", "xn--99999999", "xn--EXMPLE-cua-", "xn--ls8h\u00e9"]
)
def test_a_domain_that_is_no_valid_punycode_is_refused(label: str) -> None:
    with pytest.raises(InvalidInput):
        parse_email(f"ada@{label}.com")


@given(label=st.text(st.characters(codec="utf-8"), min_size=1, max_size=12))
@example(label="\u212a")  # the Kelvin sign is a K
@example(label="xn--\u00e9")
def test_an_address_with_any_domain_is_stable_in_both_spellings(label: str) -> None:
    try:
        email = text_of(parse_email(f"a@{label}.com"))
    except InvalidInput:
        return
    assert [text_of(parse_email(spelling)) for spelling in spellings(email)] == [email] * len(
        spellings(email)
    )


def test_the_part_before_the_at_sign_has_a_limit() -> None:
    longest = "a" * EMAIL_LOCAL_MAX_CHARACTERS

    assert parse_email(f"{longest}@example.com") == Personal(f"{longest}@example.com")
    with pytest.raises(InvalidInput, match=f"more than {EMAIL_LOCAL_MAX_CHARACTERS} characters before the @"):
        parse_email(f"{longest}a@example.com")


def test_an_address_has_a_limit() -> None:
    longest = "ada@" + "a" * (EMAIL_MAX_CHARACTERS - len("ada@.com")) + ".com"

    assert len(text_of(parse_email(longest))) == EMAIL_MAX_CHARACTERS
    with pytest.raises(InvalidInput, match=f"longer than {EMAIL_MAX_CHARACTERS}"):
        parse_email("a" + longest)


def test_an_address_that_is_costly_to_match_is_refused_at_once() -> None:
    costly = ["a." * 120 + "@", "a@" + "b." * 120, "a@" + "-." * 120 + "@", "@" * 250, "." * 250]

    def refuse() -> None:
        for email in costly:
            with pytest.raises(InvalidInput):
                parse_email(email)

    assert_within(0.5, in_cpu_time(refuse))
