"""Everything that a service of your own imports: events, commands, aggregates, projections, and a client.

    import es

    @es.event("wallet-opened.v1")
    class WalletOpened(es.Event):
        currency: str

    @es.command("wallets.open", creates=True, done="opened wallet {wallet_id}")
    class OpenWallet(es.Command):
        wallet_id: es.Id
        currency: Annotated[str, es.choice(("EUR", "USD"), "Its currency.")]

A module with `FEATURE`, `AGGREGATES` and `PROJECTIONS` is a service. Its name in `ES_FEATURES` registers it; nothing
else is edited. Promise: names in `__all__` keep their meaning. Refusal: a module behind a name is imported only when
the name is used, so `import es` costs next to nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from domain.kernel.aggregate import Aggregate as Aggregate
    from domain.kernel.aggregate import Upcaster as Upcaster
    from domain.kernel.commands import NEW as NEW
    from domain.kernel.commands import Command as Command
    from domain.kernel.commands import Input as Input
    from domain.kernel.commands import parse_command as parse_command
    from domain.kernel.commands import to_input as to_input
    from domain.kernel.errors import EsError as EsError
    from domain.kernel.errors import InvalidInput as InvalidInput
    from domain.kernel.errors import Kind as Kind
    from domain.kernel.errors import Refusal as Refusal
    from domain.kernel.events import Event as Event
    from domain.kernel.events import Position as Position
    from domain.kernel.events import Recorded as Recorded
    from domain.kernel.feature import Feature as Feature
    from domain.kernel.feature import Role as Role
    from domain.kernel.ids import parse_id as parse_id
    from domain.kernel.ids import parse_time_us as parse_time_us
    from domain.kernel.ids import time_text as time_text
    from domain.kernel.ids import time_us_of_id as time_us_of_id
    from domain.kernel.personal import ERASED as ERASED
    from domain.kernel.personal import Erased as Erased
    from domain.kernel.personal import Of as Of
    from domain.kernel.personal import Personal as Personal
    from domain.kernel.personal import PersonalText as PersonalText
    from domain.kernel.personal import Sealed as Sealed
    from domain.kernel.personal import Unreadable as Unreadable
    from domain.kernel.process import Answered as Answered
    from domain.kernel.process import Cancel as Cancel
    from domain.kernel.process import Effect as Effect
    from domain.kernel.process import End as End
    from domain.kernel.process import Process as Process
    from domain.kernel.process import Rules as Rules
    from domain.kernel.process import Send as Send
    from domain.kernel.process import SetTimer as SetTimer
    from domain.kernel.process import StopTimer as StopTimer
    from domain.kernel.process import TimedOut as TimedOut
    from domain.kernel.process import by_stream as by_stream
    from domain.kernel.projection import Add as Add
    from domain.kernel.projection import Change as Change
    from domain.kernel.projection import Delete as Delete
    from domain.kernel.projection import Key as Key
    from domain.kernel.projection import Operation as Operation
    from domain.kernel.projection import Projection as Projection
    from domain.kernel.projection import Put as Put
    from domain.kernel.projection import Row as Row
    from domain.kernel.unique import Unique as Unique
    from domain.kernel.unique import UniqueTaken as UniqueTaken
    from domain.users.account import UserDeleted as UserDeleted
    from domain.users.account import UserErased as UserErased
    from domain.users.account import UserRegistered as UserRegistered
    from es.client import Answer as Answer
    from es.client import Client as Client
    from es.client import Damaged as Damaged
    from es.client import Failure as Failure
    from es.client import Invalid as Invalid
    from es.client import NotFound as NotFound
    from es.client import Refused as Refused
    from es.client import Sendable as Sendable
    from es.client import Unavailable as Unavailable
    from es.client import new_command_id as new_command_id
    from es.declare import StatedError as StatedError
    from es.declare import command as command
    from es.declare import event as event
    from es.declare import not_found as not_found
    from es.declare import refusal as refusal
    from es.fields import Flag as Flag
    from es.fields import Id as Id
    from es.fields import NewId as NewId
    from es.fields import Text as Text
    from es.fields import Time as Time
    from es.fields import choice as choice
    from es.fields import flag as flag
    from es.fields import personal as personal
    from es.fields import text as text
    from es.fields import time as time
    from es.fields import whole as whole

_NAMES = {
    "domain.kernel.aggregate": ("Aggregate", "Upcaster"),
    "domain.kernel.commands": ("NEW", "Command", "Input", "parse_command", "to_input"),
    "domain.kernel.errors": ("EsError", "InvalidInput", "Kind", "Refusal"),
    "domain.kernel.events": ("Event", "Position", "Recorded"),
    "domain.kernel.feature": ("Feature", "Role"),
    "domain.kernel.ids": ("parse_id", "parse_time_us", "time_text", "time_us_of_id"),
    "domain.kernel.personal": ("ERASED", "Erased", "Of", "Personal", "PersonalText", "Sealed", "Unreadable"),
    "domain.kernel.projection": (
        "Add",
        "Change",
        "Delete",
        "Key",
        "Operation",
        "Projection",
        "Put",
        "Row",
    ),
    "domain.kernel.process": (
        "Answered",
        "Cancel",
        "Effect",
        "End",
        "Process",
        "Rules",
        "Send",
        "SetTimer",
        "StopTimer",
        "TimedOut",
        "by_stream",
    ),
    "domain.kernel.unique": ("Unique", "UniqueTaken"),
    "domain.users.account": ("UserDeleted", "UserErased", "UserRegistered"),
    "es.client": (
        "Answer",
        "Client",
        "Damaged",
        "Failure",
        "Invalid",
        "NotFound",
        "Refused",
        "Sendable",
        "Unavailable",
        "new_command_id",
    ),
    "es.declare": ("StatedError", "command", "event", "not_found", "refusal"),
    "es.fields": (
        "Flag",
        "Id",
        "NewId",
        "Text",
        "Time",
        "choice",
        "flag",
        "personal",
        "text",
        "time",
        "whole",
    ),
}
"""The public names, by the module that has them."""
_MODULES = {name: module for module, names in _NAMES.items() for name in names}

__all__ = sorted(_MODULES)


def __getattr__(name: str) -> Any:
    module = _MODULES.get(name)
    if module is None:
        raise AttributeError(f"module 'es' has no attribute {name!r}")
    found = globals()[name] = getattr(import_module(module), name)
    return found


def __dir__() -> list[str]:
    return sorted({*globals(), *_MODULES})
