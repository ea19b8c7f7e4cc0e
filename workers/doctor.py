"""Examine every configured part: whether it can be used, its version, and for a problem what to do next.

Promise: every part is examined, also if another one fails, and no running workers are needed. Refusal: nothing is
changed, except that a new home gets the files that the first start of the workers would create.
"""

from __future__ import annotations

import os
import shutil
import sys
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, suppress
from dataclasses import replace
from importlib import import_module
from importlib.metadata import version as installed_version
from pathlib import Path
from uuid import UUID

from adapters import versions, wiring
from adapters.clock import now_us
from adapters.settings import Settings, open_parents, quoted, readers_of, without_password
from domain.features import registry
from domain.kernel.errors import EsError, InvalidSetting, OtherSystem, StoreBehind
from domain.kernel.events import Position
from domain.kernel.history import verified
from domain.kernel.ids import time_text
from domain.kernel.messages import Body
from domain.kernel.ports.event_store import EventStore
from domain.kernel.ports.read_model import GenerationState
from domain.kernel.ports.vault import Divergence
from workers.relay.process import PROCESS as RELAY
from workers.runtime.identity import copied_store, foreign_read_model, foreign_vault
from workers.users.owed import LISTED

FREE_DISK_NEEDED_BYTES = 1 << 20
FREE_DISK_WARNING_BYTES = 512 << 20
CLOCK_WARNING_US = 500_000
OWED_WARNING_US = 10_000_000
_OWED_LIMIT = 1000
_OK, _WARNING, _FAILED = "ok", "warning", "failed"
_FIX_FEATURE = "Install or upgrade the package of the module, or remove the module from ES_FEATURES or `features` in es.toml."
_MAKE_WRITABLE = "Make it writable for this user, or choose another folder with --home or ES_HOME."
_PUT_BACK = "Put it back where it was, or run `es down` and restore a backup."
_FIX_FIRST = "Fix this first, then run `es doctor` again."
_CHECKPOINTS = {"the process erasures": LISTED, "the relay": RELAY}
"""Who keeps a checkpoint in the vault, and under which name."""
_UNKNOWN: Body = {
    "version": "",
    "licence": "",
    "schema_version": None,
    "clock_offset_s": None,
    "detail": "",
    "next": "",
    "code": "",
}


def examine(settings: Settings, *, tell: Callable[[str], None] | None = None) -> list[Body]:
    """With `tell`, also compare everything that is stored; it is called with the progress.

    `{"part", "state", "version", "licence", "schema_version", "clock_offset_s", "detail", "next", "code"}` per finding.

    `state` is ok, warning or failed. Unknown fields are empty or null.
    """
    checks: dict[str, Callable[[Settings], Iterator[Body]]] = {
        "broker": _broker,
        "event store": _store,
        "vault": _vault,
        "read models": _read_models,
    }
    across = {"identity": _identity, "history": _history, "erasures": _erasures}  # these open several parts
    # The home first: the other checks need it. Those run in parallel, so that the timeouts of silent parts overlap.
    findings = [*_examined(settings, "es", _program), *_examined(settings, "home", _home)]
    usable, problems = _features(settings)
    findings += problems
    settings = replace(settings, features=usable)
    if missing := list(_missing(settings)):
        # Opening a part creates its file, and an empty one would stand in for the one that is to be put back.
        for finding in missing:
            del checks[finding["part"]]
        findings += missing
        tell = None
    else:
        checks |= across
    with ThreadPoolExecutor(len(checks)) as pool:
        found = pool.map(lambda check: _examined(settings, *check), checks.items())
        findings += [finding for part in found for finding in part]
    if tell is not None:
        findings += _stored(settings, tell)
    return findings


def _examined(settings: Settings, part: str, check: Callable[[Settings], Iterator[Body]]) -> list[Body]:
    try:
        return list(check(settings))
    except EsError as error:
        return [_finding(part, _FAILED, detail=str(error), next=error.hint, code=error.code)]
    except OSError as error:
        why = error.strerror or type(error).__name__
        return [_finding(part, _FAILED, detail=why, next=_FIX_FIRST, code="unavailable")]
    except Exception as error:
        detail, next_ = f"examining it failed with {type(error).__name__}", "Report this: it is a bug."
        return [_finding(part, _FAILED, detail=detail, next=next_, code="internal")]


def _finding(part: str, state: str = _OK, **known: object) -> Body:
    assert known.keys() <= _UNKNOWN.keys(), known
    return {"part": part, "state": state} | _UNKNOWN | known


def _program(_: Settings) -> Iterator[Body]:
    yield _finding("es", version=installed_version("es"), detail=f"Python {sys.version.split()[0]}")


def _home(settings: Settings) -> Iterator[Body]:
    wiring.prepare_home(settings)
    for parent in open_parents(settings.home):
        detail = f"other users can rename or replace {settings.home}, because they can write to {parent}"
        yield _finding(
            "home", _WARNING, detail=detail, next=f"Run `chmod go-w {quoted(parent)}`, or move the home."
        )
    free = shutil.disk_usage(settings.home).free
    if not os.access(settings.home, os.W_OK):
        yield _finding("home", _FAILED, detail=f"{settings.home} is read-only", next=_MAKE_WRITABLE)
    elif free < FREE_DISK_NEEDED_BYTES:
        detail = f"the disk is full: {free >> 10} KiB free in {settings.home}"
        yield _finding(
            "home", _FAILED, detail=detail, next="Free disk space, then retry.", code="unavailable"
        )
    elif free < FREE_DISK_WARNING_BYTES:
        detail = f"{free >> 20} MiB free in {settings.home}"
        yield _finding("home", _WARNING, detail=detail, next="Free disk space before it runs out.")
    else:
        yield _finding("home", detail=f"{settings.home}, {free >> 30} GiB free")


def _features(settings: Settings) -> tuple[tuple[str, ...], list[Body]]:
    """The modules of `settings.features` that can be used, and a finding for each other one."""
    known = registry(settings.features)
    findings = [
        _finding(
            f"feature {each.module}",
            _FAILED,
            detail=str(each.error),
            next=each.error.hint,
            code=InvalidSetting.code,
        )
        for each in known.broken
    ]
    usable = known.modules
    for module, feature in zip(known.modules, known.features[-len(known.modules) :], strict=False):
        try:
            for needed in (*(role.service for role in feature.roles), *feature.queries):
                import_module(needed)
        except Exception as error:  # code of other packages can fail in any way
            part, detail = f"feature {module}", f"{type(error).__name__}: {error}"
            findings.append(
                _finding(part, _FAILED, detail=detail, next=_FIX_FEATURE, code=InvalidSetting.code)
            )
            usable = tuple(each for each in usable if each != module)
    return usable, findings


def _broker(settings: Settings) -> Iterator[Body]:
    if settings.is_local:
        yield _finding("broker", version="local", detail="Unix sockets; no broker is needed")
        return
    yield _finding(
        "broker", version=versions.broker_version(settings).name, detail=without_password(settings.broker)
    )


def _missing(settings: Settings) -> Iterator[Body]:
    """The event store or the vault, if its file is missing in a home that is not new."""
    files = {
        part: Path(url.removeprefix("sqlite:"))
        for part, url in (
            ("event store", settings.store),
            ("vault", settings.vault),
            ("read models", settings.database),
        )
        if url.startswith("sqlite:")
    }
    missing = [part for part, file in files.items() if not file.exists()]
    if len(missing) < len(files):
        for part in missing:
            if part != "read models":  # they are computed again
                detail = f"{files[part]} is missing, although other files of the home are there"
                yield _finding(part, _FAILED, detail=detail, next=_PUT_BACK, code="unavailable")


def _store(settings: Settings) -> Iterator[Body]:
    store = wiring.open_store(settings.store)
    try:
        detail = f"{without_password(settings.store)}, head at position {store.head()}"
        if (system_id := store.system_id()) is not None:
            detail += f", system {system_id}"
        schema_version = versions.schema_version(store)
    finally:
        store.close()
    yield _versioned("event store", versions.store_version(settings), detail, schema_version)


def _vault(settings: Settings) -> Iterator[Body]:
    vault = wiring.open_vault(settings)  # raises if the key-encryption key is missing or does not fit
    in_systemd = settings.kek_file.parent == Path(os.environ.get("CREDENTIALS_DIRECTORY", "/none"))
    if (detail := readers_of(settings.kek_file)) and not in_systemd:  # there only the unit's user can enter
        next_ = f"Run `chmod go= {quoted(settings.kek_file)}`, or set the mode 0400 where it is mounted."
        yield _finding("key", _WARNING, detail=detail, next=next_, code="key-readable")
    vault.close()
    detail = f"{without_password(settings.vault)}, the key-encryption key fits"
    found = versions.database_version(settings.vault)
    yield _versioned("vault", found, detail, versions.schema_version(vault))


def _read_models(settings: Settings) -> Iterator[Body]:
    read_model = wiring.open_read_model(settings)
    read_model.close()
    detail = without_password(settings.database)
    found = versions.database_version(settings.database)
    yield _versioned("read models", found, detail, versions.schema_version(read_model))


def _identity(settings: Settings) -> Iterator[Body]:
    """Whether the parts carry the id of the store's system, and whether the store is a copy."""
    with suppress(EsError), ExitStack() as opened:  # a part that cannot be opened has its own finding
        store = opened.enter_context(closing(wiring.open_store(settings.store)))
        system_id = store.system_id()
        if system_id is None:
            return  # no worker has opened it yet: it is new, or of an earlier version
        yield from map(_stranger, filter(None, [copied_store(store, settings)]))
        for check in (_foreign_vault, _foreign_read_model, _foreign_broker):
            with suppress(EsError):
                yield from map(_stranger, filter(None, [check(settings, store, system_id)]))


def _foreign_vault(settings: Settings, store: EventStore, system_id: UUID) -> OtherSystem | None:
    with closing(wiring.open_vault(settings)) as vault:
        return foreign_vault(vault, store, system_id)


def _foreign_read_model(settings: Settings, store: EventStore, system_id: UUID) -> OtherSystem | None:
    with closing(wiring.open_read_model(settings)) as read_model:
        return foreign_read_model(read_model, registry(settings.features).projections, store, system_id)


def _foreign_broker(settings: Settings, _: EventStore, system_id: UUID) -> OtherSystem | None:
    try:
        if not settings.is_local:
            wiring.check_broker(settings, system_id)
    except OtherSystem as error:
        return error
    return None


def _stranger(error: OtherSystem) -> Body:
    return _finding("identity", _FAILED, detail=str(error), next=error.hint, code=error.code)


def _erasures(settings: Settings) -> Iterator[Body]:
    """Whether erasures are owed that fail, or that no worker carries out."""
    with (
        suppress(EsError),
        closing(wiring.open_vault(settings)) as vault,
    ):  # a vault that cannot be opened has its own
        owed = vault.owed(limit=_OWED_LIMIT)
        late = [each for each in owed if each.last_error or now_us() - each.listed_at_us > OWED_WARNING_US]
        if late:
            why = next((f": {each.last_error}" for each in late if each.last_error), "")
            more = " or more" if len(owed) == _OWED_LIMIT else ""
            detail = f"{len(late)}{more} erasures are decided and not completed{why}"
            next_ = "`es gdpr status` lists them; `es gdpr resume` tries at once."
            yield _finding("erasures", _FAILED, detail=detail, next=next_, code="erasure-owed")


def _history(settings: Settings) -> Iterator[Body]:
    """Whether the vault or a read model has processed events that the event store does not hold."""
    with suppress(EsError), ExitStack() as opened:  # a part that cannot be opened has its own finding
        store = opened.enter_context(closing(wiring.open_store(settings.store)))
        vault = opened.enter_context(closing(wiring.open_vault(settings)))
        read_model = opened.enter_context(closing(wiring.open_read_model(settings)))
        read = {name: vault.checkpoint(checkpoint) for name, checkpoint in _CHECKPOINTS.items()}
        for projection in registry(settings.features).projections:
            generations = read_model.generations(projection)
            current = [each.history for each in generations if each.state is GenerationState.CURRENT]
            read |= {f"the projection {projection.name}": history for history in current}
        head = store.head()  # after the checkpoints: workers may append meanwhile
        others = {name: verified(history, store.fit, head) for name, history in read.items()}
        for name, found in others.items():
            if found.diverged:
                yield _other_history(name, read[name].position, found.history.position, head)
        for divergence in vault.divergences():
            yield _seen_divergence(divergence)


def _other_history(name: str, seen: Position, back_to: Position, head: Position) -> Body:
    behind = StoreBehind(head, seen)
    ends = f", and the store ends at position {head}" if head < seen else ""
    agree = f"they agree up to position {back_to}" if back_to else "they do not agree anywhere"
    detail = f"{name} has read another history of the event store up to position {seen}: {agree}{ends}"
    return _finding("history", _FAILED, detail=detail, next=behind.hint, code=behind.code)


def _seen_divergence(divergence: Divergence) -> Body:
    names = {checkpoint: name for name, checkpoint in _CHECKPOINTS.items()}
    detail = (
        f"at {time_text(divergence.at_us)} {names.get(divergence.process, divergence.process)} found another history in the "
        f"event store: it had read up to position {divergence.seen}, and went on from position {divergence.back_to}"
    )
    next_ = "If the store was restored or exchanged on purpose, run `es down` and `es adopt --moved`: it keeps all ids and ends this warning."
    return _finding("history", _WARNING, detail=detail, next=next_, code="other-history")


def _stored(settings: Settings, tell: Callable[[str], None]) -> Iterator[Body]:
    from workers.deep_check import Problems, compare

    problems = Problems()

    def compared(settings: Settings) -> Iterator[Body]:
        yield _finding("deep check", detail=compare(settings, problems, tell))

    last = _examined(settings, "deep check", compared)  # what was found before it failed is kept
    for part, problem, cure, code in problems.listed():
        yield _finding(part, _FAILED, detail=problem, next=cure, code=code)
    yield from last


def _versioned(part: str, found: versions.Version, detail: str, schema_version: int | None) -> Body:
    state, next_ = _OK, ""
    if found.warning:
        state, detail, next_ = _WARNING, found.warning, found.next
    elif found.clock_offset_us is not None and abs(found.clock_offset_us) > CLOCK_WARNING_US:
        state, detail = (
            _WARNING,
            f"its clock differs from this machine's by {found.clock_offset_us / 1e6:+.1f} s",
        )
        next_ = "Synchronise both clocks with NTP: the time in an id is that of the event store."
    return _finding(
        part,
        state,
        version=found.name,
        licence=found.licence,
        schema_version=schema_version,
        clock_offset_s=None if found.clock_offset_us is None else found.clock_offset_us / 1e6,
        detail=detail,
        next=next_,
    )
