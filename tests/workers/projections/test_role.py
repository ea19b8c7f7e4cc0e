"""The role `projections` at its start: nothing is shown before the erasures that the vault does not know are listed."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from adapters import wiring
from adapters.log import Log
from adapters.settings import Settings, load_settings
from adapters.sqlite.read_model import SqliteReadModel
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Body, Later, Request
from domain.kernel.ports.transport import Service
from tests.support.accounts import ADA, GRACE, erase
from tests.support.read_side import ReadSide
from tests.support.waiting import eventually
from workers.projections.projector import Projector
from workers.runtime.control import Control
from workers.runtime.worker import Worker


@pytest.fixture(params=["sqlite", "postgresql"])
def settings(request: pytest.FixtureRequest, tmp_path: Path) -> Settings:
    home, kek = tmp_path / "home", tmp_path / "kek"
    home.mkdir(mode=0o700)
    kek.touch(0o600)
    kek.write_text(bytes(range(32)).hex())
    environment = {"ES_HOME": str(home), "ES_KEK_FILE": str(kek)}
    if request.param == "postgresql":
        environment["ES_VAULT"] = request.getfixturevalue("postgres_url")
    return load_settings(environment=environment)


@contextmanager
def a_read_side(settings: Settings, log: Log) -> Iterator[ReadSide]:
    with closing(SqliteReadModel(settings.home / "read.db")) as read_model:
        side = ReadSide(settings.home, read_model, log)
        if not settings.vault.startswith("sqlite:"):
            side.vault.close()
            side.vault = wiring.open_vault(settings)
        with closing(side):
            yield side


@pytest.fixture
def people(settings: Settings, log: Log) -> tuple[int, int]:
    """An erased person and another one. Vault and rows are as before the erasure, like those of an older backup."""
    with a_read_side(settings, log) as side:
        ada, grace = side.a_user(ADA), side.a_user(GRACE)
        side.project()
        side.done(erase(ada))
    return ada, grace


@pytest.fixture
def worker(settings: Settings, log: Log) -> Iterator[Worker]:
    control = Control(None, role="projections", instance=1)
    made = Worker("projections", settings, threading.Event(), control, log)
    yield made
    made.close()


def answer(service: Service, kind: str, **body: object) -> Body:
    request = Request(kind, dict(body))

    def replied() -> Body | None:
        (reply,) = service.handle([request])
        assert isinstance(reply, dict | Later), reply
        return reply if isinstance(reply, dict) else None

    return eventually(replied, "an answer")


def stay_behind(projector: Projector, stopped: Callable[[], bool]) -> None:
    """A projector that has compared its history, and is slow: its rows are those of the backup."""
    projector.reached = 0


def test_a_person_whose_erasure_a_restored_vault_forgot_is_never_shown(
    people: tuple[int, int], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    ada, grace = map(str, people)
    monkeypatch.setattr(Projector, "run", stay_behind)

    service = worker.open()

    shown = answer(service, "users.get", user_id=ada)
    assert (shown["status"], shown["email"], shown["name"]) == ("erased", None, None)
    assert answer(service, "users.get", user_id=grace)["email"] == GRACE
    listed = {user["user_id"]: user["email"] for user in answer(service, "users.list")["users"]}
    assert listed == {ada: None, grace: GRACE}


def test_a_long_list_of_erasures_is_waited_for_with_its_progress(
    people: tuple[int, int], worker: Worker, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr("workers.projections.role._LISTING_S", -1.0)
        with pytest.raises(PartUnavailable, match="is at position 0 of 3"):
            worker.open()

    worker.open()
