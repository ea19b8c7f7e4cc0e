"""Open the service of the `erasures` role: three followers, each with its own parts, so that none waits for another."""

from __future__ import annotations

import time
from uuid import uuid4

from adapters.clock import now_us
from adapters.wiring import keyring_of, open_dead_letters
from domain.kernel.command_handler import CommandHandler
from domain.users.account import USER
from workers.erasures.claims import ClaimsProcess
from workers.erasures.cleaning import Cleaning
from workers.erasures.people import PeopleFinder
from workers.erasures.process import ErasureProcess
from workers.erasures.service import ErasuresService
from workers.runtime.worker import Worker
from workers.users.claims import Claims
from workers.users.owed import Listing


def open_service(worker: Worker) -> ErasuresService:
    cleaning = _cleaning(worker)
    process = _process(worker, cleaning)
    worker.follow("erasures", process.run)
    worker.follow("cleaning", cleaning.run)
    worker.follow("claims", _claims(worker).run)
    store, vault = worker.store(), worker.vault()
    listing = Listing(store=store, codec=worker.codec, vault=vault, now_us=now_us, log=worker.log)
    return ErasuresService(
        store=store,
        codec=worker.codec,
        vault=vault,
        listing=listing,
        process=process,
        cleaning=cleaning,
        now_us=now_us,
    )


def _process(worker: Worker, cleaning: Cleaning) -> ErasureProcess:
    store, vault = worker.store(), worker.vault()
    listing = Listing(store=store, codec=worker.codec, vault=vault, now_us=now_us, log=worker.log)
    keyring = keyring_of(vault, even_owed=True)
    return ErasureProcess(
        store=store,
        vault=vault,
        listing=listing,
        people=PeopleFinder(store=store, codec=worker.codec, vault=vault, keyring=keyring, log=worker.log),
        now_us=now_us,
        log=worker.log,
        on_destroyed=cleaning.wake,
    )


def _cleaning(worker: Worker) -> Cleaning:
    store, vault = worker.store(), worker.vault()
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
    )


def _claims(worker: Worker) -> ClaimsProcess:
    store, vault = worker.store(), worker.vault()
    claims = Claims(
        store=store, codec=worker.codec, vault=vault, now_us=now_us, new_id=uuid4, pause=time.sleep
    )
    return ClaimsProcess(store=store, vault=vault, claims=claims, log=worker.log)
