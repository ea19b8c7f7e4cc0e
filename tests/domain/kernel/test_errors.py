"""Errors of the kernel: fields, hints, and the form in which they cross a transport."""

from __future__ import annotations

from typing import Any

import pytest

from domain.kernel import errors, process_errors, unique, vault_errors
from domain.kernel.errors import AnsweredError, EsError, Kind
from tests.support.error_contract import ErrorContract, each_of, errors_in

SAMPLES: dict[EsError, tuple[str, Kind]] = {
    errors.InvalidInput("email", "is empty"): ("invalid-input", Kind.INVALID),
    errors.UnknownRequest("make-tea"): ("unknown-request", Kind.INVALID),
    errors.InvalidSetting("store", "is not a URL"): ("invalid-setting", Kind.INVALID),
    errors.CommandIdReused("0b5c"): ("command-id-reused", Kind.REFUSED),
    errors.CommandCancelled(): ("command-cancelled", Kind.REFUSED),
    errors.ClaimLost(): ("claim-lost", Kind.UNAVAILABLE),
    unique.UniqueTaken("wallet", "owner_id and label"): ("unique-taken", Kind.REFUSED),
    unique.UniqueReserved("wallet", "number"): ("unique-reserved", Kind.REFUSED),
    process_errors.ProcessFailed("transfer", "fails"): ("process-failed", Kind.DAMAGED),
    process_errors.ProcessRulesUnknown("transfer", 3): ("process-rules-unknown", Kind.DAMAGED),
    errors.PersonErased(42): ("person-erased", Kind.REFUSED),
    errors.PersonNotFound(42): ("person-not-found", Kind.NOT_FOUND),
    errors.VersionConflict("user-42", 3, 5): ("version-conflict", Kind.UNAVAILABLE),
    errors.DuplicateEventId("user-42"): ("duplicate-event-id", Kind.REFUSED),
    errors.PartUnavailable("vault", "it is locked"): ("unavailable", Kind.UNAVAILABLE),
    errors.Damaged("event store", "page 7 is torn"): ("damaged", Kind.DAMAGED),
    errors.ForeignPart("vault", "1b2c", "3d4e"): ("foreign-part", Kind.DAMAGED),
    errors.CopiedStore("host:/home/events.db", "vault postgresql://server/es"): (
        "copied-store",
        Kind.DAMAGED,
    ),
    errors.StoreBehind(5, 9): ("store-behind", Kind.DAMAGED),
    errors.OtherHistory(9): ("other-history", Kind.UNAVAILABLE),
    errors.MessageTooLarge("the reply", 1 << 20): ("request-too-large", Kind.INVALID),
    errors.UnknownEventType("user-promoted.v9"): ("unknown-event-type", Kind.DAMAGED),
    errors.KeyUnavailable("no key-encryption key"): ("key-unavailable", Kind.UNAVAILABLE),
    errors.KeyMissing("the vault has no key of user 42"): ("key-missing", Kind.UNAVAILABLE),
    errors.KeyDamaged(42): ("key-damaged", Kind.DAMAGED),
    errors.SealedByNewer(42, "email"): ("sealed-by-newer", Kind.DAMAGED),
    errors.Tampered(42, "email"): ("tampered", Kind.DAMAGED),
}


@each_of(SAMPLES)
class TestErrorsOfTheKernel(ErrorContract):
    pass


def test_every_error_of_the_kernel_has_a_sample() -> None:
    assert {*errors_in(errors), *errors_in(process_errors), *errors_in(unique)} == {
        type(sample) for sample in SAMPLES
    }


def test_an_error_of_the_base_class_has_a_wire_form_without_details() -> None:
    wire = EsError().to_wire()

    assert wire["code"] == "internal"
    assert wire["message"]
    assert wire["hint"].endswith(".")


def test_an_error_may_have_a_hint_of_its_own() -> None:
    error = errors.PartUnavailable("event store", "the disk is full", "Free disk space, then retry.")

    assert error.to_wire()["hint"] == "Free disk space, then retry."


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (vault_errors.residue_left(), "vault is unavailable: "),
        (vault_errors.vault_emptied(), "personal data cannot be opened: the vault is empty"),
        (errors.PartUnavailable("read models", "x"), "read models are unavailable: x"),
    ],
    ids=["residue", "emptied", "plural"],
)
def test_an_outage_names_its_part(error: EsError, message: str) -> None:
    assert str(error).startswith(message)
    assert error.kind is Kind.UNAVAILABLE


# --- the caller's side -----------------------------------------------------------------------


@pytest.mark.parametrize("missing", ["code", "kind", "message", "hint"])
def test_a_wire_form_without_a_part_is_refused(missing: str) -> None:
    wire = {name: text for name, text in EsError().to_wire().items() if name != missing}

    with pytest.raises(KeyError, match=missing):
        AnsweredError.from_wire(wire)


def test_a_wire_form_with_an_unknown_kind_is_refused() -> None:
    with pytest.raises(ValueError, match="catastrophic"):
        AnsweredError.from_wire(EsError().to_wire() | {"kind": "catastrophic"})


# --- fields ----------------------------------------------------------------------------------


def test_fields_are_given_by_place_or_by_name() -> None:
    by_place = errors.VersionConflict("user-42", 3, 5)

    assert errors.VersionConflict(stream="user-42", expected=3, actual=5) == by_place
    assert errors.VersionConflict("user-42", actual=5, expected=3) == by_place
    assert repr(by_place) == "VersionConflict(stream='user-42', expected=3, actual=5)"


@pytest.mark.parametrize(
    ("values", "named"),
    [
        ((), {}),
        (("s", 1), {}),
        (("s", 1, 2, 3), {}),
        (("s", 1, 2), {"more": 3}),
        ((), {"stream": "s", "actual": 1}),
    ],
    ids=["none", "too few", "too many", "unknown", "one missing"],
)
def test_an_error_takes_exactly_its_fields(values: tuple[Any, ...], named: dict[str, Any]) -> None:
    with pytest.raises(TypeError, match="VersionConflict takes the fields"):
        errors.VersionConflict(*values, **named)


def test_a_different_field_makes_another_error() -> None:
    assert errors.VersionConflict("user-42", 3, 5) != errors.VersionConflict("user-42", 3, 6)


def test_equal_errors_have_one_hash() -> None:
    assert len({errors.DuplicateEventId("a"), errors.DuplicateEventId("a")}) == 1
    assert len({errors.DuplicateEventId("a"), errors.DuplicateEventId("b")}) == 2
