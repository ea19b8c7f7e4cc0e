"""A feature of an outside package with personal data of users: leases of flats. `ES_FEATURES=tests.support.leases` registers it.

A lease has a tenant, and can be handed over to another one: that event holds data of two persons. The worker draws its id.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Annotated, ClassVar

from domain.kernel.aggregate import Aggregate
from domain.kernel.commands import Command, Input
from domain.kernel.errors import EsError, InvalidInput, Kind
from domain.kernel.events import Event, Recorded
from domain.kernel.feature import Feature, Role
from domain.kernel.ids import parse_id
from domain.kernel.personal import ERASED, Erased, Of, Personal, PersonalText, Sealed
from domain.kernel.projection import Add, Change, Operation, Projection, Put, Row

# --- events ----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class LeaseSigned(Event):
    tenant_id: int
    tenant: Annotated[PersonalText, Of("tenant_id")]
    flat: str
    type: ClassVar[str] = "lease-signed.v1"


@dataclass(frozen=True, slots=True)
class LeaseHandedOver(Event):
    from_id: int
    from_name: Annotated[PersonalText, Of("from_id")]
    to_id: int
    to_name: Annotated[PersonalText, Of("to_id")]
    type: ClassVar[str] = "lease-handed-over.v1"


@dataclass(frozen=True, slots=True)
class RentPaid(Event):
    amount: int
    type: ClassVar[str] = "rent-paid.v1"


# --- state -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Lease:
    tenant_id: int = 0
    tenant: PersonalText = ERASED
    paid: int = 0


def evolve(lease: Lease, event: Event) -> Lease:
    match event:
        case LeaseSigned(tenant_id=tenant_id, tenant=tenant):
            return Lease(tenant_id, tenant)
        case LeaseHandedOver(to_id=to_id, to_name=to_name):
            return replace(lease, tenant_id=to_id, tenant=to_name)
        case RentPaid(amount=amount):
            return replace(lease, paid=lease.paid + amount)
    return lease


# --- commands --------------------------------------------------------------------------------


def parse_lease_id(value: object) -> int:
    return parse_id(value, field="lease_id")


def parse_person_id(value: object) -> int:
    return parse_id(value, field="person")


def parse_name(value: object) -> Personal:
    if not isinstance(value, str) or not value:
        raise InvalidInput("name", "must be text")
    return Personal(value)


def parse_amount(value: object) -> int:
    return parse_id(value, field="amount")


LeaseId = Annotated[int, Input(parse_lease_id, "The lease's id.", "ID")]


@dataclass(frozen=True, slots=True)
class SignLease(Command):
    """Sign a lease."""

    lease_id: int
    tenant_id: Annotated[int, Input(parse_person_id, "The tenant's user id.", "ID")]
    tenant: Annotated[Personal, Input(parse_name, "The tenant's name.", "NAME"), Of("tenant_id")]
    flat: Annotated[str, Input(str, "The flat.", "FLAT")]
    wire: ClassVar[str] = "sign-lease"
    request: ClassVar[str] = "leases.sign"
    creates: ClassVar[bool] = True


@dataclass(frozen=True, slots=True)
class HandOverLease(Command):
    """Hand a lease over to another tenant."""

    lease_id: LeaseId
    to_id: Annotated[int, Input(parse_person_id, "The new tenant's user id.", "ID")]
    to_name: Annotated[Personal, Input(parse_name, "The new tenant's name.", "NAME"), Of("to_id")]
    wire: ClassVar[str] = "hand-over-lease"
    request: ClassVar[str] = "leases.hand-over"


@dataclass(frozen=True, slots=True)
class PayRent(Command):
    """Pay rent."""

    lease_id: LeaseId
    amount: Annotated[int, Input(parse_amount, "How much.", "AMOUNT")]
    wire: ClassVar[str] = "pay-rent"
    request: ClassVar[str] = "leases.pay"


# --- decisions -------------------------------------------------------------------------------


class NoSuchLease(EsError):
    code = "lease-not-found"
    kind = Kind.NOT_FOUND
    hint = "List the leases with `es leases list`."

    def __str__(self) -> str:
        return "there is no such lease"


class TenantErased(EsError):
    code = "tenant-erased"
    kind = Kind.REFUSED
    hint = "A lease of an erased tenant cannot be handed over."

    def __str__(self) -> str:
        return "the tenant is erased"


def decide(lease: Lease, command: SignLease | HandOverLease | PayRent) -> Sequence[Event] | EsError:
    match command:
        case SignLease(tenant_id=tenant_id, tenant=tenant, flat=flat):
            return [LeaseSigned(tenant_id, tenant, flat)]
    if not lease.tenant_id:
        return NoSuchLease()
    match command:
        case HandOverLease(to_id=to_id, to_name=to_name):
            if isinstance(lease.tenant, Erased):
                return TenantErased()
            return [LeaseHandedOver(lease.tenant_id, lease.tenant, to_id, to_name)]
        case PayRent(amount=amount):
            return [RentPaid(amount)]


LEASE: Aggregate[Lease, SignLease | HandOverLease | PayRent] = Aggregate(
    name="lease",
    initial=Lease(),
    evolve=evolve,
    decide=decide,
    events=(LeaseSigned, LeaseHandedOver, RentPaid),
    commands=(SignLease, HandOverLease, PayRent),
)

# --- projection ------------------------------------------------------------------------------


class Leases(Projection):
    """A row for each lease, with the sealed name of its tenant."""

    name = "leases"
    prefixes = (LEASE.prefix,)
    key = "lease_id"
    columns: ClassVar = {"tenant": "TEXT", "flat": "TEXT", "paid": "INTEGER"}

    def apply(self, recorded: Recorded, event: Event, row: Row | None) -> Sequence[Operation]:
        lease_id = LEASE.id_of(recorded.stream)
        match event:
            case LeaseSigned(tenant=Sealed(text=tenant), flat=flat):
                return [Put(lease_id, {"tenant": tenant, "flat": flat, "paid": 0})]
            case LeaseHandedOver(to_name=Sealed(text=tenant)):
                return [Change(lease_id, {"tenant": tenant})]
            case RentPaid(amount=amount):
                return [Add(lease_id, {"paid": amount})]
        return []


AGGREGATES = (LEASE,)
PROJECTIONS = (Leases(),)
FEATURE = Feature(name="leases", help="Let flats.", model=__name__, roles=(Role("leases", needs=("ids",)),))
