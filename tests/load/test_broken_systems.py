"""The ledger catches systems that are broken on purpose, over real workers, and clears a healthy one that is killed."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest

import es
from load.cleanup import Cleaned, cleanup
from load.journal import journals_of
from load.ledger import check
from load.results import Second
from load.run import run
from load.scenario_file import parse_scenario
from tests.support.driving import Driving, LoadProcess
from tests.support.processes import ROOT, start_python
from tests.support.profiles import Profile
from tests.support.system import System
from tests.support.waiting import eventually

BROKEN = Path(__file__).with_name("broken")

pytestmark = pytest.mark.slow


@contextmanager
def broken(system: System, how: str) -> Iterator[Driving]:
    """Drive a system whose workers are broken."""
    paths = os.pathsep.join([str(BROKEN), str(ROOT)])
    system.environment |= {"PYTHONPATH": paths, "ES_TEST_BREAK": how}
    system.up()
    folder = system.root / "run"
    folder.mkdir(mode=0o700)
    driving = Driving(system.settings, folder)
    try:
        yield driving
    finally:
        driving.stop()


def sent(reply: object) -> dict[str, str]:
    assert isinstance(reply, dict), "the request failed"
    return reply


@pytest.mark.parametrize("how", ["doubled", "doubled-other"])
def test_doubled_effects_are_caught(system: System, how: str) -> None:
    with broken(system, how) as driving:
        process = driving.process()
        for number in range(5):
            user_id = sent(process.create(number))["user_id"]
            sent(process.send("users.rename", user_id=user_id, name="Ada King"))

        ledger = driving.check()

    assert (ledger.commands, ledger.twice, ledger.lost, ledger.shared_ids) == (10, 10, 0, 0)
    assert not ledger.is_clean


def test_an_answer_before_the_commit_is_caught(system: System) -> None:
    with broken(system, "early") as driving:
        process = driving.process()
        for number in range(5):
            sent(process.create(number))
        system.kill("users")

        ledger = driving.check()

    assert (ledger.accepted, ledger.lost, ledger.twice, ledger.wrong) == (5, 1, 0, 0)
    assert ledger.findings[0]["command_id"] == process.replies[-1]["command_id"]


def test_commands_that_are_lost_under_kill_9_are_caught(system: System) -> None:
    with broken(system, "very-early") as driving:
        driving.start(4, LoadProcess.create)
        for _ in range(2):
            driving.answered(100)
            system.kill("users")
        driving.stop()
        system.kill("users")

        ledger = driving.check()

    stored = system.registered()
    lost = [reply for reply in driving.replies if reply["command_id"] not in stored]
    assert lost
    assert (ledger.lost, ledger.twice) == (len(lost), 0)
    assert ledger.accepted == len(driving.replies)


def test_a_read_model_that_skips_an_event_is_caught(system: System) -> None:
    with broken(system, "skipping") as driving:
        process = driving.process()
        for number in range(4):
            user_id = sent(process.create(number))["user_id"]
            if number % 2:
                sent(process.send("users.rename", user_id=user_id, name="Ada King"))
                # The row is at the right version after it.
                sent(process.send("users.change-email", user_id=user_id, email=f"king{number}@example.com"))

        ledger = driving.check()

    assert (ledger.wrong, ledger.lost, ledger.twice) == (2, 0, 0)
    assert {found["why"] for found in ledger.findings} == {"the row differs from the stream in name"}


@pytest.mark.parametrize(("how", "shared"), [("shared-ids", 6), ("ids-of-users", 3)])
def test_an_id_that_is_given_twice_is_caught(system: System, how: str, shared: int) -> None:
    with broken(system, how) as driving:
        processes = [driving.process(), driving.process()]
        for number in range(4):
            sent(processes[0].create(number))
        for number in range(6 if how == "shared-ids" else 1):
            sent(processes[number % 2].send("ids.next", count="3"))

        ledger = driving.check()

    assert (ledger.shared_ids, ledger.lost, ledger.twice) == (shared, 0, 0)


def a_turn(process: LoadProcess, number: int) -> None:
    """Register a user, change it in several ways, some of which change nothing or are refused, and draw ids."""
    created = process.create(number)
    if created is not None:
        user_id = created["user_id"]
        process.send("users.rename", user_id=user_id, name=f"Renamed {number}")
        process.send("users.rename", user_id=user_id, name=f"Renamed {number}")
        process.send("users.change-email", user_id=user_id, email=f"Moved{number}@Example.com")
        process.send("users.change-email", user_id=user_id, email="taken@example.com")
        if number % 3 == 0:
            process.send("users.delete", user_id=user_id)
            process.send("users.rename", user_id=user_id, name="Late")
        if number % 7 == 0:
            process.send("users.erase", user_id=user_id, basis="gdpr-request")
    process.send("ids.next", count="5")


@pytest.mark.parametrize(
    "profile", [Profile("embedded"), Profile("distributed")], indirect=True, ids=lambda each: each.name
)
def test_a_healthy_system_is_clean_through_kill_9(running: System) -> None:
    running.create("taken@example.com", "Other")
    folder = running.root / "run"
    folder.mkdir(mode=0o700)
    driving = Driving(running.settings, folder)
    try:
        driving.start(4, a_turn)
        for role in ("users", "ids", "projections", "erasures", "users"):
            driving.answered(60)
            running.kill(role)

        def interrupted() -> bool:
            running.kill("users")
            return driving.unanswered > 0

        eventually(interrupted, "a command is not answered")
        running.ready()
        driving.answered(60)
    finally:
        driving.stop()

    ledger = driving.check()

    assert ledger.is_clean, ledger
    assert ledger.unanswered == driving.unanswered > 0
    assert ledger.commands == ledger.accepted + ledger.refused + ledger.unanswered
    assert min(ledger.accepted, ledger.refused, ledger.ids) > 50
    print(ledger)

    found = clean_up(driving, running)
    assert found.is_complete, found
    assert {user["status"] for user in running.users()} == {"active", "deleted", "erased"}
    assert [user["email"] for user in running.users() if user["status"] == "active"] == ["taken@example.com"]
    assert clean_up(driving, running, erase=True) == found
    assert {user["status"] for user in running.users()} == {"active", "erased"}
    assert driving.check().is_clean


def test_the_work_of_processes_is_not_taken_for_a_second_effect(system: System) -> None:
    """Transfers between wallets: processes send the same commands as the run, to wallets of the run."""
    system.environment |= {"ES_FEATURES": "examples.wallets", "PYTHONPATH": str(ROOT)}
    owner = system.up().create()
    driving = Driving(system.settings, system.root)
    process = driving.process()
    wallets = [
        sent(process.send("wallets.open", owner_id=owner, label=f"label {number}"))["wallet_id"]
        for number in range(3)
    ]
    for wallet_id in wallets:
        sent(process.send("wallets.deposit", wallet_id=wallet_id, amount="100"))
    ends = [
        sent(process.send("wallets.transfer", source_id=source, target_id=target, amount=amount))
        for source, target in pairwise(wallets)
        for amount in ("30", "10", "500")
    ]
    assert process.send("wallets.open", owner_id=owner, label="label 0") is None
    eventually(
        lambda: sum(event["type"] == "transfer-settled.v1" for event in system.events()) == len(ends),
        "the transfers have ended",
    )

    ledger = driving.check()

    assert ledger.is_clean, ledger
    assert (ledger.accepted, ledger.refused, ledger.ids) == (12, 1, 9)


_SCENARIO = """
start_within = "60s"
timeout = "5s"
processes = 2
callers = 200
[[phases]]
duration = "6s"
rate = 80
[mix]
create = 5
get = 1
rename = 3
change-email = 2
delete = 1
ids = 2
"""


def test_a_load_run_over_killed_workers_is_checked_from_its_journals(running: System) -> None:
    folder = running.root / "run"
    folder.mkdir(mode=0o700)
    with es.Client(settings=running.settings) as client:
        since = str(client.ask("events.read", {"from_end": True})["position"])

    def kill_at(second: Second, _: object) -> None:
        if second.number % 2:
            running.kill("users")

    found = run(
        parse_scenario(_SCENARIO, Path("test.toml")), running.settings, folder=folder, on_second=kill_at
    )
    ledger = check(running.ready().settings, journals_of(folder), since_position=since)

    assert ledger.is_clean, ledger
    sent = {name: found.totals[name] for name in ("create", "rename", "change-email", "delete")}
    assert ledger.accepted == sum(tally.succeeded for tally in sent.values())
    assert ledger.commands == sum(tally.wanted - tally.dropped for tally in sent.values())
    assert ledger.ids > ledger.accepted / 3
    assert cleanup(running.settings, journals_of(folder), since_position=since, erase=False).is_complete
    assert {user["status"] for user in running.users()} == {"deleted"}


_LOADING = """
import sys
from pathlib import Path
from adapters.settings import load_settings
from tests.support.driving import LoadProcess
process = LoadProcess(load_settings(home_flag=sys.argv[1], environment={}), Path(sys.argv[2]))
number = int(sys.argv[3])
while True:
    print(process.create(number)["user_id"], flush=True)
    number += 2
"""


def test_the_journals_of_killed_load_processes_are_checked(running: System) -> None:
    driving = Driving(running.settings, running.root)
    journals = [running.root / f"{number}.ndjson" for number in range(2)]
    loading = [
        start_python(_LOADING, str(running.home), str(journal), str(number))
        for number, journal in enumerate(journals)
    ]
    created = 0
    for process in loading:
        with process:
            assert process.stdout is not None
            created += sum(bool(process.stdout.readline()) for _ in range(50))
            process.kill()

    ledger = check(running.settings, journals, since_position=driving.since)

    assert created == 100
    assert ledger.is_clean, ledger
    assert ledger.accepted >= created
    assert ledger.accepted + ledger.unanswered == ledger.commands


def clean_up(driving: Driving, system: System, *, erase: bool = False) -> Cleaned:
    return cleanup(system.settings, driving.journals, since_position=driving.since, erase=erase)
