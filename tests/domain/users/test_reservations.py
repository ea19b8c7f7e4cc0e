"""Decisions on reservations for any batches, without a database."""

from __future__ import annotations

from collections.abc import Iterator
from uuid import UUID

from hypothesis import given
from hypothesis import strategies as st

from domain.kernel.ports.vault import AlreadyHeld, ClaimAnswer, ClaimId, ClaimRequest, HeldByOther, Reserved
from domain.users.reservations import Held, Reservations

ADDRESSES = ("a@example.com", "b@example.com", "c@example.com")
Wish = tuple[int, int, bool]
"""An address, a command, and whether it registers a user or changes the address of user 1."""

wishes = st.tuples(st.integers(0, 2), st.integers(1, 4), st.booleans())


class Table:
    """The rows that a vault stores."""

    def __init__(self) -> None:
        self.claims: dict[bytes, Held] = {}
        self.registered: dict[UUID, int] = {}
        self.subjects: list[int] = []
        self._numbers = iter(range(100, 10_000))

    def reserve(self, batch: list[Wish]) -> Iterator[tuple[ClaimRequest, ClaimAnswer]]:
        decided = Reservations(dict(self.claims), dict(self.registered))
        for address, command, registers in batch:
            request = self._request(address, command, registers)
            yield request, decided.answer(request.text.encode(), request)
        assert decided.extended <= {
            ClaimId(claim.subject, claim.reservation_id) for claim in self.claims.values()
        }
        assert not decided.claimed.keys() & self.claims.keys(), "no claim is overwritten"
        assert not decided.minted.keys() & self.registered.keys(), "no command gets a second subject"
        self.claims |= decided.claimed
        self.registered |= decided.minted
        self.subjects += decided.minted.values()

    def _request(self, address: int, command: int, registers: bool) -> ClaimRequest:
        # A command keeps its kind: its id is even if it registers.
        command_id = UUID(int=command * 2 + (not registers))
        number = next(self._numbers)
        subject = number if registers else 1
        return ClaimRequest(ADDRESSES[address], subject, command_id, UUID(int=number), registers)


@given(st.lists(st.lists(wishes, max_size=6), max_size=5))
def test_an_address_has_one_holder_and_a_command_one_subject(batches: list[list[Wish]]) -> None:
    table = Table()
    owner: dict[str, tuple[int, UUID]] = {}
    person: dict[UUID, int] = {}
    for batch in batches:
        for request, answer in table.reserve(batch):
            if request.registers and not isinstance(answer, HeldByOther):
                assert answer.subject == person.setdefault(request.command_id, answer.subject)
            match answer:
                case Reserved(subject=subject):
                    claim = (subject, request.command_id)
                    assert owner.setdefault(request.text, claim) == claim
                case AlreadyHeld(subject=subject):
                    assert owner.get(request.text, (0,))[0] == subject or request.command_id in person
                case HeldByOther(subject=subject, confirmed=confirmed):
                    assert owner[request.text][0] == subject
                    assert not confirmed, "no reservation is confirmed here"

    held = {tag.decode(): (claim.subject, claim.command_id) for tag, claim in table.claims.items()}
    assert held == owner
    assert table.registered == person
    assert sorted(table.subjects) == sorted(set(person.values())), "one key for each"
