"""The errors of the whole domain: codes, hints and rules."""

from __future__ import annotations

import re
from collections import Counter

import pytest

from domain.kernel.errors import EsError, Refusal
from tests.support.builders import domain_modules
from tests.support.error_contract import errors_in

EVERY_ERROR = sorted(
    {class_ for module in domain_modules() for class_ in errors_in(module)},
    key=lambda class_: class_.__name__,
)


def test_only_errors_with_one_meaning_for_callers_share_a_code() -> None:
    counts = Counter(class_.code for class_ in EVERY_ERROR)

    assert [code for code, count in counts.items() if count > 1] == ["user-not-found"]
    assert "internal" not in counts


@pytest.mark.parametrize("error_class", EVERY_ERROR, ids=lambda error_class: error_class.__name__)
def test_every_error_has_a_code_a_hint_and_a_message(error_class: type[EsError]) -> None:
    assert re.fullmatch(r"[a-z]+(-[a-z]+)*", error_class.code)
    assert error_class.hint.endswith(".")
    assert error_class.__str__ is not EsError.__str__, "it says what happened"


def test_every_refusal_names_its_rule() -> None:
    refusals = [class_ for class_ in EVERY_ERROR if issubclass(class_, Refusal)]

    assert len(refusals) >= 5
    without_rule = [class_.__name__ for class_ in refusals if "Rule:" not in (class_.__doc__ or "")]
    assert without_rule == ["ReservationLost"]
