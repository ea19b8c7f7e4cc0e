"""`es adopt` over real parts: what changes, what stays, and what a kill in the middle leaves."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek, read_kek
from adapters.log import Log
from adapters.settings import Settings
from domain.kernel.errors import CopiedStore, EsError, ForeignPart, InvalidInput, PartUnavailable
from tests.support.homes import copied_home, ids_of
from tests.support.vaults import register
from workers import adopt as adopting
from workers.adopt import adopt
from workers.runtime.control import Control
from workers.runtime.supervisor import take_lock
from workers.runtime.worker import Worker

SettingsOf = Callable[..., Settings]
Opened = Callable[[Settings], UUID | None]


@pytest.fixture
def opened(log: Log) -> Iterator[Opened]:
    """Opens all parts as a worker does, and closes them; the id of the system."""
    with ExitStack() as ending:

        def made(settings: Settings) -> UUID | None:
            control = Control(None, role="users", instance=1)
            worker = Worker("users", settings, threading.Event(), control, log)
            ending.callback(worker.close)
            worker.vault(), worker.read_model()
            worker.close()
            return worker.system_id()

        yield made


@pytest.fixture
def shared_parts(postgres_url: str, tmp_path: Path) -> dict[str, str]:
    make_kek(tmp_path / "keys" / "kek")
    return {"ES_VAULT": postgres_url, "ES_KEK_FILE": str(tmp_path / "keys" / "kek")}


def test_a_copy_becomes_a_system_of_its_own(settings_of: SettingsOf, opened: Opened) -> None:
    original, copied = settings_of("original"), settings_of("copied")
    system_id = opened(original)
    copied_home(original, copied)

    plan = adopt(copied, moved=False, named=[], apply=False)

    assert [part["part"] for part in plan["parts"]] == ["store", "vault", "database", "key"]
    assert {part["becomes"] for part in plan["parts"]} == {"a new id"}
    assert str(original.home) in plan["original"]
    assert ids_of(copied) == {system_id}, "a plan changes nothing"
    new_id = UUID(adopt(copied, moved=False, named=[], apply=True)["system"])
    assert new_id != system_id
    assert ids_of(copied) == {new_id}
    assert read_kek(copied.kek_file)[1] == new_id
    assert read_kek(copied.kek_file)[0] == read_kek(original.kek_file)[0]
    assert opened(copied) == new_id
    assert opened(original) == system_id


def test_a_part_outside_the_home_changes_only_if_it_is_named(
    settings_of: SettingsOf, opened: Opened, shared_parts: dict[str, str]
) -> None:
    original, copied = settings_of("original", **shared_parts), settings_of("copied", **shared_parts)
    system_id = opened(original)
    copied_home(original, copied)
    with pytest.raises(CopiedStore):
        opened(copied)

    done = adopt(copied, moved=False, named=[], apply=True)

    (vault,) = (part for part in done["parts"] if part["part"] == "vault")
    assert (vault["outside"], vault["system"], vault["becomes"]) == (True, str(system_id), "")
    with pytest.raises(ForeignPart, match="vault"):
        opened(copied)
    assert opened(original) == system_id
    new_id = UUID(adopt(copied, moved=False, named=["vault"], apply=True)["system"])
    assert opened(copied) == new_id
    with pytest.raises(ForeignPart, match="vault"):
        opened(original)


def test_a_moved_home_keeps_its_ids(
    settings_of: SettingsOf, opened: Opened, shared_parts: dict[str, str]
) -> None:
    original, moved = settings_of("original", **shared_parts), settings_of("moved", **shared_parts)
    system_id = opened(original)
    copied_home(original, moved)

    adopt(moved, moved=True, named=[], apply=True)

    assert opened(moved) == system_id
    assert ids_of(moved) == {system_id}


@pytest.mark.parametrize("step", range(5))
def test_a_killed_adoption_is_refused_by_name_and_finished_by_a_repetition(
    settings_of: SettingsOf, opened: Opened, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    settings = settings_of()
    system_id = opened(settings)
    with closing(wiring.open_vault(settings)) as vault:
        register(vault, 1)
    left = iter([True] * step)
    with monkeypatch.context() as killing:
        for module, name in ((adopting, "_claim"), (wiring, "give_key"), (adopting, "record_place")):
            killing.setattr(module, name, _until(left, getattr(module, name)))
        with pytest.raises(_Killed):
            adopt(settings, moved=False, named=[], apply=True)

    if 1 <= step < 4:
        with pytest.raises((ForeignPart, EsError), match="system"):
            opened(settings)
    new_id = UUID(adopt(settings, moved=False, named=[], apply=True)["system"])

    assert new_id != system_id
    assert opened(settings) == new_id
    assert ids_of(settings) == {new_id}


class _Killed(BaseException):
    """The end of the process."""


def _until(left: Iterator[bool], step: Callable[..., Any]) -> Callable[..., Any]:
    def taken(*args: Any, **named: Any) -> Any:
        if not next(left, False):
            raise _Killed
        return step(*args, **named)

    return taken


def test_a_home_in_use_is_not_adopted(settings_of: SettingsOf, opened: Opened) -> None:
    settings = settings_of()
    opened(settings)
    with closing(take_lock(settings)) as lock:
        lock.tell("listening")
        with pytest.raises(PartUnavailable, match="workers use"):
            adopt(settings, moved=False, named=[], apply=True)


@pytest.mark.parametrize(("named", "reason"), [("broker", "must be one of"), ("vault", "is inside it")])
def test_only_parts_outside_the_home_are_named(settings_of: SettingsOf, named: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason):
        adopt(settings_of(), moved=False, named=[named], apply=False)


def test_a_home_without_a_store_has_nothing_to_adopt(settings_of: SettingsOf) -> None:
    settings = settings_of()

    with pytest.raises(PartUnavailable, match="is missing"):
        adopt(settings, moved=False, named=[], apply=True)
    assert not list(settings.home.glob("*.db"))
