"""Errors of user accounts."""

from __future__ import annotations

from domain.kernel.errors import EsError, Kind
from domain.users import errors
from tests.support.error_contract import ErrorContract, each_of, errors_in

SAMPLES: dict[EsError, tuple[str, Kind]] = {
    errors.EmailTaken(): ("email-taken", Kind.REFUSED),
    errors.EmailReserved(): ("email-reserved", Kind.REFUSED),
    errors.NotYetThen(42, 3): ("not-yet-then", Kind.NOT_FOUND),
    errors.UserNotFound(42): ("user-not-found", Kind.NOT_FOUND),
    errors.NoUserWithEmail(): ("user-not-found", Kind.NOT_FOUND),
    errors.UserIsDeleted(42): ("user-deleted", Kind.REFUSED),
    errors.UserIsErased(42): ("user-erased", Kind.REFUSED),
    errors.ReservationLost(): ("reservation-lost", Kind.UNAVAILABLE),
}


@each_of(SAMPLES)
class TestErrorsOfUsers(ErrorContract):
    pass


def test_every_error_of_users_has_a_sample() -> None:
    assert set(errors_in(errors)) == {type(sample) for sample in SAMPLES}
