"""The system id: workers refuse parts, copies and brokers of another system by name, and serve nothing of them."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, closing
from pathlib import Path
from uuid import UUID, uuid4

import apsw
import pytest

from adapters import wiring
from adapters.crypto.kek import make_kek, read_kek
from adapters.log import Log
from adapters.place import Place
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.messages import SYSTEM
from adapters.settings import Settings
from domain.features import registry
from domain.kernel.errors import CopiedStore, EsError, ForeignPart, KeyUnavailable
from domain.kernel.events import NO_STREAM
from tests.support.builders import append, some_events
from tests.support.homes import FILES, copied_home, copy, ids_of, without_id
from tests.support.rabbitmq import Role, a_request, rabbit_broker
from tests.support.servers import RabbitMQ
from tests.support.vaults import register
from tests.support.waiting import DEADLINE_S, eventually
from workers.runtime.control import Control
from workers.runtime.identity import record_place
from workers.runtime.worker import Worker, run_role

SettingsOf = Callable[..., Settings]
Open = Callable[..., Worker]


@pytest.fixture
def a_worker(log: Log) -> Iterator[Open]:
    """A worker that has opened nothing yet."""
    with ExitStack() as ending:

        def made(settings: Settings, role: str = "users") -> Worker:
            control = Control(None, role=role, instance=1)
            return ending.enter_context(closing(Worker(role, settings, threading.Event(), control, log)))

        yield made


@pytest.fixture
def opened(a_worker: Open) -> Open:
    """A worker that has opened all parts."""

    def made(settings: Settings) -> Worker:
        worker = a_worker(settings)
        worker.vault(), worker.read_model()
        return worker

    return made


@pytest.fixture
def shared_parts(postgres_url: str, tmp_path: Path) -> dict[str, str]:
    """The settings of a vault in PostgreSQL, whose key lies outside every home."""
    make_kek(tmp_path / "keys" / "kek")
    return {"ES_VAULT": postgres_url, "ES_KEK_FILE": str(tmp_path / "keys" / "kek")}


def a_user(settings: Settings) -> None:
    """Add a person to the vault and the store."""
    with closing(wiring.open_vault(settings)) as vault, closing(wiring.open_store(settings.store)) as store:
        register(vault, 1)
        append(store, "user-1", NO_STREAM, some_events(1))


def place_of(settings: Settings) -> Place | None:
    with closing(apsw.Connection(str(settings.home / FILES["ES_STORE"]))) as connection:
        return Place.from_text(connection.execute("SELECT place FROM system").get)


# --- the parts of one system -----------------------------------------------------------------


def test_all_parts_of_a_new_home_carry_one_id(settings_of: SettingsOf, opened: Open) -> None:
    settings = settings_of()

    system_id = opened(settings).system_id()

    assert ids_of(settings) == {system_id}
    assert read_kek(settings.kek_file)[1] == system_id


def test_two_new_homes_are_two_systems(settings_of: SettingsOf, opened: Open) -> None:
    assert opened(settings_of("one")).system_id() != opened(settings_of("two")).system_id()


def test_a_home_of_an_earlier_version_gets_one_id(settings_of: SettingsOf, opened: Open) -> None:
    settings = settings_of()
    opened(settings).close()
    a_user(settings)
    without_id(settings, *FILES)
    settings.kek_file.write_text(settings.kek_file.read_text().splitlines()[0])

    system_id = opened(settings).system_id()

    assert ids_of(settings) == {system_id}
    assert read_kek(settings.kek_file)[1] is None, "the only copy of a key is not rewritten"


def test_a_vault_backup_of_an_earlier_version_joins_its_store(settings_of: SettingsOf, opened: Open) -> None:
    settings = settings_of()
    system_id = opened(settings).system_id()
    a_user(settings)
    without_id(settings, "ES_VAULT", "ES_DATABASE")

    assert opened(settings).system_id() == system_id
    assert ids_of(settings) == {system_id}


@pytest.mark.parametrize("name", ["ES_VAULT", "ES_DATABASE"])
def test_a_part_of_another_system_is_refused_by_name(
    settings_of: SettingsOf, opened: Open, name: str
) -> None:
    ours, theirs = settings_of("ours"), settings_of("theirs")
    system_id, other_id = opened(ours).system_id(), opened(theirs).system_id()
    parts = {name: f"sqlite:{theirs.home / FILES[name]}", "ES_KEK_FILE": str(ours.kek_file)}
    if name == "ES_VAULT":
        (ours.home / "kek").write_text(theirs.kek_file.read_text().splitlines()[0])
        (ours.home / "kek").chmod(0o600)
        parts["ES_KEK_FILE"] = str(ours.home / "kek")

    # Both lie outside the home, but the store is at its place.
    with pytest.raises(ForeignPart) as refused:
        opened(settings_of("ours", **parts))

    assert (refused.value.found, refused.value.expected) == (str(other_id), str(system_id))
    assert name in refused.value.hint
    assert "es adopt" in refused.value.hint
    assert ids_of(theirs) == {other_id}


@pytest.mark.parametrize("has_id", [True, False], ids=["with-id", "of-an-earlier-version"])
def test_an_empty_store_beside_a_vault_that_knows_people_is_refused(
    settings_of: SettingsOf, opened: Open, has_id: bool
) -> None:
    settings = settings_of()
    opened(settings).close()
    a_user(settings)
    if not has_id:
        without_id(settings, "ES_VAULT")
    (settings.home / "events.db").rename(settings.home / "old.db")
    for suffix in ("-wal", "-shm"):
        (settings.home / f"events.db{suffix}").unlink(missing_ok=True)
    settings.kek_file.write_text(settings.kek_file.read_text().splitlines()[0])

    for _ in range(2):  # the first attempt has given the store an id
        with pytest.raises(ForeignPart, match="vault"):
            opened(settings)
    with closing(wiring.open_store(settings.store)) as store:  # as an `ids` worker does
        append(store, "lane-1", NO_STREAM, some_events(1))
    with pytest.raises(ForeignPart, match="vault"):
        opened(settings)


def test_a_key_of_another_system_is_refused_by_name(settings_of: SettingsOf, opened: Open) -> None:
    settings = settings_of()
    opened(settings).close()
    key = settings.kek_file.read_text().splitlines()[0]
    other_id = uuid4()
    settings.kek_file.write_text(f"{key}\nsystem {other_id}\n")

    with pytest.raises(KeyUnavailable, match=str(other_id)) as refused:
        opened(settings)
    assert key not in str(refused.value)


@pytest.mark.parametrize("role", registry().role_names)
def test_every_role_refuses_what_it_opens(
    settings_of: SettingsOf, opened: Open, a_worker: Open, rabbitmq: RabbitMQ, role: str
) -> None:
    home = settings_of()
    opened(home).close()
    with rabbit_broker(rabbitmq) as url, open_channel(url) as channel:
        settings = settings_of(ES_BROKER=url)
        wiring.claim_broker(settings, UUID(int=7))
        with pytest.raises(
            ForeignPart, match="RabbitMQ belongs to system 00000000-0000-0000-0000-000000000007"
        ):
            a_worker(settings, role).open()
        channel.queue_delete(SYSTEM)

        parts = {"ids": [], "projections": ["ES_VAULT", "ES_DATABASE"], "processes": ["ES_DATABASE"]}
        for name in parts.get(role, ["ES_VAULT"]):
            with closing(apsw.Connection(str(home.home / FILES[name]))) as connection:
                connection.execute("UPDATE system SET id = ?", (UUID(int=8).bytes,))
            with pytest.raises(ForeignPart, match="system 00000000-0000-0000-0000-000000000008"):
                a_worker(settings, role).open()
            with closing(apsw.Connection(str(home.home / FILES[name]))) as connection:
                connection.execute("DELETE FROM system")


# --- copies ----------------------------------------------------------------------------------


def test_a_copy_with_all_its_parts_works_and_keeps_the_place_of_the_original(
    settings_of: SettingsOf, opened: Open
) -> None:
    original, copied = settings_of("original"), settings_of("copied")
    opened(original).close()
    a_user(original)
    copied_home(original, copied)

    assert opened(copied).system_id() == opened(original).system_id()
    assert place_of(copied) == place_of(original)


def test_a_copy_whose_vault_may_be_that_of_the_original_is_refused(
    settings_of: SettingsOf, opened: Open, shared_parts: dict[str, str]
) -> None:
    original, copied = settings_of("original", **shared_parts), settings_of("copied", **shared_parts)
    opened(original).close()
    copied_home(original, copied)

    with pytest.raises(CopiedStore) as refused:
        opened(copied)

    assert str(original.home / "events.db") in str(refused.value)
    assert "vault postgresql://" in str(refused.value)
    assert "read" not in str(refused.value), "the read models lie in the home"
    assert "es adopt --moved" in refused.value.hint
    opened(original)


def test_a_copy_on_the_broker_of_the_original_is_refused(
    settings_of: SettingsOf, opened: Open, rabbitmq: RabbitMQ
) -> None:
    with rabbit_broker(rabbitmq) as url:
        original, copied = settings_of("original", ES_BROKER=url), settings_of("copied", ES_BROKER=url)
        opened(original).close()
        copied_home(original, copied)

        with pytest.raises(CopiedStore, match="broker amqp://"):
            opened(copied)


def test_a_store_restored_in_place_works(
    settings_of: SettingsOf, opened: Open, shared_parts: dict[str, str]
) -> None:
    settings = settings_of(**shared_parts)
    system_id = opened(settings).system_id()
    opened(settings).close()
    copy(settings.home / "events.db", settings.home / "backup.db")
    (settings.home / "events.db").rename(settings.home / "damaged.db")
    copy(settings.home / "backup.db", settings.home / "events.db")

    assert opened(settings).system_id() == system_id
    assert place_of(settings) == Place.of(settings.home / "events.db"), "the next move is noticed by it"


def test_a_moved_home_works(settings_of: SettingsOf, opened: Open, shared_parts: dict[str, str]) -> None:
    settings = settings_of(**shared_parts)
    system_id = opened(settings).system_id()
    opened(settings).close()
    moved = settings.home.with_name("moved")
    settings.home.rename(moved)

    assert opened(settings_of("moved", **shared_parts)).system_id() == system_id
    assert place_of(settings_of("moved")) == Place.of(moved / "events.db")


@pytest.mark.parametrize(
    ("place", "is_same"),
    [
        (Place("a", "/es/events.db", 7), True),
        (Place("b", "/es/events.db", 7), True),
        (Place("a", "/other/events.db", 7), True),
        (Place("a", "/es/events.db", 8), True),
        (Place("a", "/other/events.db", 8), False),
        (Place("b", "/es/events.db", 8), False),
        (Place("b", "/other/events.db", 7), False),
    ],
)
def test_a_place_is_the_same_if_two_of_its_three_marks_are(place: Place, is_same: bool) -> None:
    assert Place("a", "/es/events.db", 7).is_same(place) is is_same
    assert Place.from_text(place.to_text()) == place


@pytest.mark.parametrize("text", ["", "nonsense", "[]", '{"host": "a"}', json.dumps({"host": 1, "path": 2})])
def test_a_text_that_is_no_place_is_none(text: str) -> None:
    assert Place.from_text(text) is None


# --- with a broker ---------------------------------------------------------------------------


def test_a_worker_of_another_system_ends_and_takes_no_request(
    settings_of: SettingsOf, opened: Open, rabbitmq: RabbitMQ, log: Log
) -> None:
    with rabbit_broker(rabbitmq, ["ids"]) as url:
        opened(settings_of("first", ES_BROKER=url)).close()
        role = Role(url, "ids")
        role.declare()
        role.put(a_request(1))

        with pytest.raises(ForeignPart, match="RabbitMQ"):
            _run("ids", settings_of("second", ES_BROKER=url), log, threading.Event())

        assert role.depth() == 1


def test_a_worker_whose_store_comes_late_ends_when_it_is_that_of_another_system(
    settings_of: SettingsOf, opened: Open, rabbitmq: RabbitMQ, log: Log
) -> None:
    with rabbit_broker(rabbitmq, ["ids"]) as url:
        opened(settings_of("first", ES_BROKER=url)).close()
        late = settings_of("late", ES_BROKER=url)
        (late.home / "events.db").mkdir()  # cannot be opened
        failed: list[EsError] = []
        stopping = threading.Event()

        def run() -> None:
            try:
                _run("ids", late, log, stopping)
            except EsError as error:
                failed.append(error)

        running = threading.Thread(target=run)
        running.start()
        try:
            role = Role(url, "ids")
            role.declare()
            role.put(a_request(1))
            eventually(lambda: role.depth() == 0, "the request is answered with the outage")
            (late.home / "events.db").rmdir()
            eventually(lambda: not running.is_alive(), "the worker ends")
        finally:
            stopping.set()
            running.join(DEADLINE_S)

        assert [type(error) for error in failed] == [ForeignPart]


def _run(role: str, settings: Settings, log: Log, stopping: threading.Event) -> None:
    control = Control(None, role=role, instance=1)
    run_role(role, settings, listen_fd=None, control=control, stopping=stopping, log=log)


# --- an operator's words ---------------------------------------------------------------------


def test_a_recorded_place_ends_the_refusal(
    settings_of: SettingsOf, opened: Open, shared_parts: dict[str, str]
) -> None:
    original, copied = settings_of("original", **shared_parts), settings_of("copied", **shared_parts)
    opened(original).close()
    copied_home(original, copied)
    with closing(wiring.open_store(copied.store)) as store:
        record_place(store, copied)

    with closing(opened(copied)) as worker:
        assert worker.system_id() is not None
