"""`es doctor`: parts of other systems, copied stores, and followers of another history."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from pathlib import Path
from uuid import UUID, uuid4

import pytest

from adapters import wiring
from adapters.place import Place
from adapters.settings import Settings, load_settings
from adapters.sqlite.event_store import SqliteStore
from domain.kernel.events import NO_STREAM
from domain.kernel.history import History, Mark
from domain.kernel.messages import Body
from tests.support.builders import append, some_events
from tests.support.rabbitmq import rabbit_broker
from tests.support.servers import RabbitMQ
from tests.support.vaults import NOW_US
from workers import doctor
from workers.adopt import adopt
from workers.relay.process import PROCESS as RELAY
from workers.users.owed import LISTED

Examine = Callable[..., dict[str, Body]]


@pytest.fixture
def settings_of(tmp_path: Path) -> Callable[..., Settings]:
    return lambda **parts: load_settings(environment={"ES_HOME": str(tmp_path / "home"), **parts})


@pytest.fixture
def examine(settings_of: Callable[..., Settings]) -> Examine:
    """The findings by part. Of several findings for one part it is the last."""
    return lambda **parts: {found["part"]: found for found in doctor.examine(settings_of(**parts))}


def problems(found: dict[str, Body]) -> dict[str, tuple[str, str]]:
    """State and code of every finding that is not ok."""
    return {part: (each["state"], each["code"]) for part, each in found.items() if each["state"] != "ok"}


# --- history ---------------------------------------------------------------------------------


def test_a_follower_of_another_history_is_named_with_the_last_position_that_agrees(
    examine: Examine, settings_of: Callable[..., Settings]
) -> None:
    settings = settings_of()
    examine()
    with (
        closing(wiring.open_store(settings.store)) as store,
        closing(wiring.open_vault(settings)) as vault,
    ):
        append(store, "thing-1", NO_STREAM, some_events(3))
        first, second, _ = (Mark(e.position, e.event_id) for e in store.read_stream("thing-1"))
        vault.save_checkpoint(RELAY, History(second.position, (first, second)))
        vault.save_checkpoint(LISTED, History(2, (first, Mark(2, uuid4()))))
    assert problems(examine()) == {"history": ("failed", "store-behind")}

    detail = examine()["history"]["detail"]

    assert "the process erasures" in detail
    assert "up to position 2: they agree up to position 1" in detail


def test_a_divergence_is_told_until_an_operator_has_seen_it(
    examine: Examine, settings_of: Callable[..., Settings]
) -> None:
    examine()
    with closing(wiring.open_vault(settings_of())) as vault:
        vault.save_checkpoint(LISTED, History(41))
        vault.rewind_checkpoint(LISTED, History(0), now_us=NOW_US)

    found = examine()["history"]

    assert (found["state"], found["code"]) == ("warning", "other-history")
    assert "had read up to position 41, and went on from position 0" in found["detail"]
    adopt(settings_of(), moved=True, named=[], apply=True)
    assert "history" not in examine()


# --- identity --------------------------------------------------------------------------------


def test_a_part_of_another_system_is_named(examine: Examine, settings_of: Callable[..., Settings]) -> None:
    settings = settings_of()
    examine()
    assert ", system " not in examine()["event store"]["detail"], "an examination gives no ids"
    for open_part, number in (
        (lambda: wiring.open_store(settings.store), 1),
        (lambda: wiring.open_vault(settings), 2),
    ):
        with closing(open_part()) as part:
            part.claim_system(UUID(int=number))

    found = examine()

    assert problems(found) == {"identity": ("failed", "foreign-part")}
    assert "vault belongs to system" in found["identity"]["detail"]
    assert str(UUID(int=1)) in found["event store"]["detail"]


def test_a_copied_store_is_named_beside_a_part_outside_its_home(
    examine: Examine, settings_of: Callable[..., Settings], postgres_url: str
) -> None:
    settings = settings_of()
    examine()
    with closing(wiring.open_store(settings.store)) as store:
        store.claim_system(UUID(int=1))
        assert isinstance(store, SqliteStore)
        store.record_place(Place("elsewhere", "/srv/es/events.db", 7).to_text())
    assert problems(examine()) == {}

    found = examine(ES_DATABASE=postgres_url)

    assert problems(found) == {"identity": ("failed", "copied-store")}
    assert "elsewhere:/srv/es/events.db" in found["identity"]["detail"]
    assert "es adopt" in found["identity"]["next"]


def test_a_broker_of_another_system_is_named_and_stays_as_it_is(
    examine: Examine, settings_of: Callable[..., Settings], rabbitmq: RabbitMQ
) -> None:
    examine()
    with closing(wiring.open_store(settings_of().store)) as store:
        store.claim_system(UUID(int=1))
    with rabbit_broker(rabbitmq) as url:
        assert problems(examine(ES_BROKER=url)) == {}, "nothing is marked"
        wiring.claim_broker(settings_of(ES_BROKER=url), UUID(int=2))

        found = examine(ES_BROKER=url)

    assert problems(found) == {"identity": ("failed", "foreign-part")}
    assert "RabbitMQ belongs to system" in found["identity"]["detail"]
