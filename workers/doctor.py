"""Examine every configured part: reachable or not, its version, what is wrong and what to do next.

Promise: it looks and changes nothing that isn't made at a first start anyway. It is a process of its own,
so that the command line needn't open a store, and it works while the workers are down.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from importlib.metadata import version as installed_version

from adapters import wiring
from adapters.settings import Settings, without_password
from domain.errors import EsError
from domain.messages import Body

FREE_DISK_WARNING_BYTES = 512 << 20
CLOCK_WARNING_US = 500_000
_OK, _WARNING, _FAILED = "ok", "warning", "failed"


def examine(settings: Settings) -> list[Body]:
    """A finding per part: `{"part", "state": ok|warning|failed, "version", "detail", "next", "code"}`."""
    checks: list[tuple[str, Callable[[Settings], Iterator[Body]]]] = [
        ("es", _program),
        ("home", _home),
        ("broker", _broker),
        ("event store", _store),
        ("vault", _vault),
        ("read models", _read_models),
    ]
    findings: list[Body] = []
    for part, check in checks:
        try:
            findings += check(settings)
        except EsError as error:
            findings.append(_finding(part, _FAILED, detail=str(error), next_=error.hint, code=error.code))
    return findings


def _finding(
    part: str, state: str = _OK, *, version: str = "", detail: str = "", next_: str = "", code: str = ""
) -> Body:
    return {"part": part, "state": state, "version": version, "detail": detail, "next": next_, "code": code}


def _program(_: Settings) -> Iterator[Body]:
    yield _finding("es", version=installed_version("es"), detail=f"Python {sys.version.split()[0]}")


def _home(settings: Settings) -> Iterator[Body]:
    wiring.prepare_home(settings)
    free = shutil.disk_usage(settings.home).free
    if not os.access(settings.home, os.W_OK):
        yield _finding("home", _FAILED, detail=f"{settings.home} is read-only", next_="Make it writable.")
    elif free < FREE_DISK_WARNING_BYTES:
        detail = f"{free >> 20} MiB free in {settings.home}"
        yield _finding("home", _WARNING, detail=detail, next_="Free disk space before it runs out.")
    else:
        yield _finding("home", detail=f"{settings.home}, {free >> 30} GiB free")


def _broker(settings: Settings) -> Iterator[Body]:
    if settings.is_local:
        yield _finding("broker", version="local", detail="Unix sockets, nothing to run")
        return
    yield _finding(
        "broker", version=wiring.broker_version(settings).name, detail=without_password(settings.broker)
    )
    for queue in wiring.open_dead_letters(settings, wiring.usual_roles(settings)).counts():
        if not queue.workers:
            next_ = f"Start one: `es workers run {queue.role}`, or `es up`."
            yield _finding(f"queue {queue.role}", _WARNING, detail="no worker takes from it", next_=next_)
        if queue.dead:
            next_ = f"Look at them: `es dead show {queue.role}`."
            yield _finding(f"queue {queue.role}", _WARNING, detail=f"{queue.dead} dead letters", next_=next_)


def _store(settings: Settings) -> Iterator[Body]:
    found = wiring.store_version(settings)
    store = wiring.open_store(settings.store, settings.home / "events.db")
    try:
        note = f", {found.note}" if found.note else ""
        detail = f"{without_password(settings.store)}{note}, ends at position {store.head()}"
    finally:
        store.close()
    yield _versioned("event store", found, detail)


def _vault(settings: Settings) -> Iterator[Body]:
    found = wiring.database_version(settings.vault)
    vault = wiring.open_vault(settings)  # raises when the key-encryption key isn't there or doesn't fit
    vault.close()
    yield _versioned("vault", found, f"{without_password(settings.vault)}, the key-encryption key fits")


def _read_models(settings: Settings) -> Iterator[Body]:
    found = wiring.database_version(settings.database)
    read_model = wiring.open_read_model(settings)
    read_model.close()
    yield _versioned("read models", found, without_password(settings.database))


def _versioned(part: str, found: wiring.Version, detail: str) -> Body:
    if found.warning:
        return _finding(part, _WARNING, version=found.name, detail=found.warning, next_=found.next)
    if abs(found.clock_offset_us) > CLOCK_WARNING_US:
        seconds = found.clock_offset_us / 1_000_000
        return _finding(
            part,
            _WARNING,
            version=found.name,
            detail=f"its clock is {seconds:+.1f} s from this machine's",
            next_="Synchronise both with NTP: ids sort by the store's time.",
        )
    return _finding(part, version=found.name, detail=detail)
