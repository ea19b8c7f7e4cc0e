"""Open the service of the `erasures` role: three followers, so that keys, cleaning and claims do not wait for each other."""

from __future__ import annotations

import os
import time

from adapters.clock import now_us
from adapters.wiring import keyring_of, open_dead_letters
from domain.kernel.command_handler import CommandHandler
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.vault import Vault
from domain.kernel.uuid7 import Uuid7s
from domain.users.account import USER
from domain.users.traces import person_fields
from workers.erasures.claims import ClaimsProcess, followed_types
from workers.erasures.cleaning import Cleaning
from workers.erasures.people import PeopleFinder
from workers.erasures.process import ErasureProcess
from workers.erasures.service import ErasuresService
from workers.runtime.claims import UniqueClaims
from workers.runtime.shared_tail import SharedTail
from workers.runtime.worker import Worker
from workers.users.claims import Claims
from workers.users.owed import ERASING, Listing


def open_service(worker: Worker) -> ErasuresService:
    store, vault, codec, log = worker.store(), worker.vault(), worker.codec, worker.log
    listing = Listing(store=store, codec=codec, vault=vault, now_us=now_us, log=log)
    cleaning = _cleaning(worker, store, vault)
    unique = UniqueClaims(
        worker.registry.aggregates, store=store, codec=codec, vault=vault, now_us=now_us, pause=time.sleep
    )
    tail = SharedTail(store, types=[*ERASING, *followed_types(unique)])
    process = ErasureProcess(
        store=store,
        vault=vault,
        listing=listing,
        people=PeopleFinder(
            store=store, codec=codec, vault=vault, keyring=keyring_of(vault, even_owed=True), log=log
        ),
        now_us=now_us,
        log=log,
        on_destroyed=cleaning.wake,
        tail=tail,
    )
    claims = Claims(
        store=store,
        codec=codec,
        vault=vault,
        now_us=now_us,
        new_id=Uuid7s(now_us, os.urandom),
        pause=time.sleep,
    )
    worker.follow("erasures", process.run)
    worker.follow("cleaning", cleaning.run)
    settling = ClaimsProcess(store=store, vault=vault, claims=claims, unique=unique, log=log, tail=tail)
    worker.follow("claims", settling.run)
    return ErasuresService(
        store=store,
        codec=codec,
        vault=vault,
        listing=listing,
        process=process,
        cleaning=cleaning,
        now_us=now_us,
    )


def _cleaning(worker: Worker, store: EventStore, vault: Vault) -> Cleaning:
    keyring = keyring_of(vault)
    dead_letters = None  # the local transport has none
    if not worker.settings.is_local:
        dead_letters = open_dead_letters(worker.settings, worker.registry.role_names)
    return Cleaning(
        store=store,
        codec=worker.codec,
        vault=vault,
        people=PeopleFinder(store=store, codec=worker.codec, vault=vault, keyring=keyring, log=worker.log),
        handler=CommandHandler(USER, store=store, codec=worker.codec, keyring=keyring, pause=time.sleep),
        dead_letters=dead_letters,
        log=worker.log,
        fields=person_fields(worker.registry.aggregates),
    )
