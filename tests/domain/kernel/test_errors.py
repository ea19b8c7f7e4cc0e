"""Every designed error has a name, a kind, a hint, and survives the wire; none tells personal data."""

from __future__ import annotations

import inspect
import json
import re
from collections import Counter
from types import ModuleType

import pytest

from domain.kernel import errors
from domain.kernel.errors import AnsweredError, EsError, Kind, Refusal
from domain.users import errors as user_errors
from tests.support.builders import domain_modules

SAMPLES: list[EsError] = [
    errors.InvalidInput("email", "is empty"),
    errors.UnknownRequest("make-tea"),
    errors.InvalidSetting("store", "is not a URL"),
    user_errors.EmailTaken(),
    user_errors.EmailReserved(),
    user_errors.NotYetThen(42, 3),
    user_errors.UserNotFound(42),
    user_errors.NoUserWithEmail(),
    user_errors.UserIsDeleted(42),
    user_errors.UserIsErased(42),
    user_errors.ReservationLost(),
    errors.CommandIdReused("0b5c"),
    errors.VersionConflict("user-42", 3, 5),
    errors.DuplicateEventId("user-42"),
    errors.PartUnavailable("vault", "it is locked"),
    errors.Damaged("event store", "page 7 is torn"),
    errors.StoreBehind(5, 9),
    errors.MessageTooLarge("the answer", 1 << 20),
    errors.UnknownEventType("user-promoted.v9"),
    errors.KeyUnavailable("no key-encryption key"),
    errors.Tampered(42, "email"),
]
_each = pytest.mark.parametrize("error", SAMPLES, ids=lambda error: type(error).__name__)

EXPECTED_KINDS = {
    "invalid-input": Kind.INVALID,
    "unknown-request": Kind.INVALID,
    "request-too-large": Kind.INVALID,
    "invalid-setting": Kind.INVALID,
    "email-taken": Kind.REFUSED,
    "email-reserved": Kind.REFUSED,
    "not-yet-then": Kind.NOT_FOUND,
    "user-not-found": Kind.NOT_FOUND,
    "user-deleted": Kind.REFUSED,
    "user-erased": Kind.REFUSED,
    "reservation-lost": Kind.UNAVAILABLE,
    "command-id-reused": Kind.REFUSED,
    "version-conflict": Kind.UNAVAILABLE,
    "duplicate-event-id": Kind.REFUSED,
    "unavailable": Kind.UNAVAILABLE,
    "damaged": Kind.DAMAGED,
    "store-behind": Kind.DAMAGED,
    "unknown-event-type": Kind.DAMAGED,
    "key-unavailable": Kind.UNAVAILABLE,
    "tampered": Kind.DAMAGED,
}
"""Scripts look at codes and at exit codes, which follow kinds: both are public and don't change by accident."""


BASES = (EsError, Refusal, AnsweredError)
"""Classes that no rule and no failure has to itself."""


def _defined_in(module: ModuleType) -> list[type[EsError]]:
    classes = [
        value for value in vars(module).values() if inspect.isclass(value) and issubclass(value, EsError)
    ]
    return [class_ for class_ in classes if class_ not in BASES]


EVERY_ERROR = sorted(
    {class_ for module in domain_modules() for class_ in _defined_in(module)},
    key=lambda class_: class_.__name__,
)


def test_no_error_is_missing_from_these_tests() -> None:
    sampled = {type(sample) for sample in SAMPLES}

    missing = [class_.__name__ for class_ in _defined_in(errors) if class_ not in sampled]

    assert missing == [], "give the new error a sample and an expected kind"


@_each
def test_code_and_kind_are_what_scripts_rely_on(error: EsError) -> None:
    assert EXPECTED_KINDS[error.code] is error.kind


def test_a_code_belongs_to_one_error_unless_callers_need_not_tell_them_apart() -> None:
    counts = Counter(class_.code for class_ in EVERY_ERROR)

    assert [code for code, count in counts.items() if count > 1] == ["user-not-found"]
    assert "internal" not in counts


@_each
def test_an_error_says_what_happened_and_what_to_do_next(error: EsError) -> None:
    message, hint = str(error), error.hint

    assert message
    assert not message.endswith(".")
    assert "\n" not in message
    assert hint.endswith(".")
    assert type(error).__name__ not in message, "a message is for people"


@_each
def test_the_message_contains_every_field_that_tells_what_happened(error: EsError) -> None:
    told = {name: value for name, value in vars(error).items() if name not in ("hint", "__notes__")}

    assert [name for name, value in told.items() if str(value) not in str(error)] == []


@_each
def test_an_error_crosses_a_transport_as_text(error: EsError) -> None:
    wire = json.loads(json.dumps(error.to_wire()))

    assert wire == {"code": error.code, "kind": error.kind.value, "message": str(error), "hint": error.hint}


@_each
def test_an_error_can_be_raised_and_caught_as_its_base(error: EsError) -> None:
    with pytest.raises(EsError) as caught:
        raise error

    assert caught.value is error


@_each
def test_errors_are_compared_by_type_and_fields(error: EsError) -> None:
    twin = type(error)(**{name: value for name, value in vars(error).items() if not name.startswith("__")})

    assert twin == error
    assert error != EsError()
    assert [other for other in SAMPLES if other == error] == [error]


def test_a_field_that_differs_makes_another_error() -> None:
    assert errors.VersionConflict("user-42", 3, 5) != errors.VersionConflict("user-42", 3, 6)


@pytest.mark.parametrize("error_class", EVERY_ERROR, ids=lambda error_class: error_class.__name__)
def test_every_error_of_the_domain_has_a_code_and_a_hint(error_class: type[EsError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error_class.code)
    assert error_class.hint.endswith(".")
    assert error_class.__str__ is not EsError.__str__, "it says what happened"


def test_an_error_that_nobody_designed_still_has_a_wire_form_without_details() -> None:
    wire = EsError().to_wire()

    assert wire["code"] == "internal"
    assert wire["message"]
    assert wire["hint"].endswith(".")


def test_refusals_name_a_rule() -> None:
    refusals = [class_ for class_ in EVERY_ERROR if issubclass(class_, Refusal)]

    assert len(refusals) >= 5
    assert [class_.__name__ for class_ in refusals if "Rule:" not in (class_.__doc__ or "")] == [
        "ReservationLost"
    ]


def test_a_hint_can_be_given_by_who_knows_better() -> None:
    error = errors.PartUnavailable("event store", "the disk is full", "Free disk space, then repeat.")

    assert error.to_wire()["hint"] == "Free disk space, then repeat."


# --- the caller's end of the wire ------------------------------------------------------------


@_each
def test_an_answered_error_is_what_the_worker_meant(error: EsError) -> None:
    answered = AnsweredError.from_wire(json.loads(json.dumps(error.to_wire())))

    assert answered.to_wire() == error.to_wire()
    assert (answered.code, answered.kind, answered.hint) == (error.code, error.kind, error.hint)
    assert str(answered) == str(error)


@pytest.mark.parametrize("missing", ["code", "kind", "message", "hint"])
def test_what_lacks_a_part_is_no_answered_error(missing: str) -> None:
    wire = {name: text for name, text in user_errors.EmailTaken().to_wire().items() if name != missing}

    with pytest.raises(KeyError, match=missing):
        AnsweredError.from_wire(wire)


def test_an_unknown_kind_is_no_answered_error() -> None:
    with pytest.raises(ValueError, match="catastrophic"):
        AnsweredError.from_wire(user_errors.EmailTaken().to_wire() | {"kind": "catastrophic"})


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
def test_an_error_takes_exactly_its_fields(values: tuple[object, ...], named: dict[str, object]) -> None:
    with pytest.raises(TypeError, match="VersionConflict takes the fields"):
        errors.VersionConflict(*values, **named)


def test_equal_errors_have_one_hash() -> None:
    assert len({user_errors.UserNotFound(1), user_errors.UserNotFound(1)}) == 1
    assert len({user_errors.UserNotFound(1), user_errors.UserNotFound(2)}) == 2
