"""Parts that are restored from an older backup while the workers are down: what callers see from the first moment on."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path

import apsw

from adapters.wiring import open_caller, open_vault
from domain.kernel.errors import EsError, Kind
from domain.kernel.messages import Body
from domain.kernel.ports.vault import LivingKey
from tests.support.people import people
from tests.support.postgres import copied_tables
from tests.support.system import System
from tests.support.waiting import DEADLINE_S, eventually


def back_up(system: System, names: Sequence[str]) -> Path:
    """Copy databases of a system whose workers are down, as SQLite does."""
    folder = system.root / "backup"
    folder.mkdir()
    for name in names:
        with closing(apsw.Connection(str(system.home / name))) as connection:
            connection.execute("VACUUM INTO ?", (str(folder / name),))
    return folder


def restore(system: System, folder: Path) -> None:
    for copy in folder.iterdir():
        for suffix in ("-wal", "-shm"):
            system.home.joinpath(copy.name + suffix).unlink(missing_ok=True)
        copy.rename(system.home / copy.name)


def answers_until_erased(system: System, user_id: str) -> list[Body | EsError]:
    """Ask for a user all the time, from before the workers start until the user is shown as erased."""
    answers: list[Body | EsError] = []
    deadline_s = time.monotonic() + DEADLINE_S
    starting = system.start("up", stdout=subprocess.DEVNULL)
    while time.monotonic() < deadline_s:
        try:
            with closing(open_caller(system.settings)) as caller:
                answer = caller.ask("projections", "users.get", {"user_id": user_id})
        except EsError as error:
            answers.append(error)
            continue
        answers.append(answer)
        if answer["status"] == "erased":
            break
    assert starting.wait(DEADLINE_S) == 0
    return answers


def test_an_erased_person_is_never_shown_after_vault_and_rows_were_restored(system: System) -> None:
    ada = system.up().create("canary@example.com", "Canary")
    system.caught_up()
    system.es("down").ok()
    backup = back_up(system, ["vault.db", "read.db"])
    system.up()
    system.bulk(
        "create", people(1500)
    ).ok()  # the projection has to come past them before it meets the erasure
    system.erase(ada)
    system.es("down").ok()
    restore(system, backup)

    answers = answers_until_erased(system, ada)

    outages = [answer for answer in answers if isinstance(answer, EsError)]
    assert all(error.kind is Kind.UNAVAILABLE for error in outages), outages
    assert not [answer for answer in answers if isinstance(answer, dict) and answer["email"]]
    assert isinstance(answers[-1], dict)
    assert answers[-1]["name"] is None


def test_users_are_those_of_the_store_after_it_was_restored(system: System) -> None:
    kept = system.up().create("kept@example.com", "Kept")
    system.es("down").ok()
    backup = back_up(system, ["events.db"])
    system.up()
    system.bulk("create", people(200, prefix="lost")).ok()
    system.caught_up()
    system.es("down").ok()
    restore(system, backup)
    system.up()
    system.es("ids", "fence", "--yes")
    system.bulk("create", people(300, prefix="new"))

    def shown() -> bool:
        return {user["user_id"] for user in system.users()} == {kept, *system.registered().values()}

    eventually(lambda: system.es("users", "list", "--json").code == 0, "the projection was rebuilt")
    eventually(shown, "all users of the store are shown, and no other ones")
    assert [each for each in system.log("projections", "--json") if each["action"] == "other-history"]


def test_an_erasure_is_repeated_after_a_restore_beside_the_workers(on_postgres: System) -> None:
    system = on_postgres  # over SQLite workers notice that their file was replaced, and end
    ada, bob = system.create("ada@example.com", "Ada"), system.create("bob@example.com", "Bob")

    def living() -> set[str]:
        with closing(open_vault(system.settings)) as vault:
            keys = vault.data_keys([int(ada), int(bob)], even_owed=True)
        return {str(subject) for subject, key in keys.items() if isinstance(key, LivingKey)}

    with copied_tables(system.settings.vault, "vault") as restore:
        system.erase(ada)
        restore()
    assert living() == {ada, bob}

    eventually(lambda: living() == {bob}, "the key is destroyed again, without a restart")
    eventually(lambda: not system.es("gdpr", "status", "--json").ok().objects, "nothing is owed")
