"""Transfers between wallets while workers are killed: the sum is constant at every position, and each transfer ends."""

from __future__ import annotations

import random
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import closing
from typing import Any

import pytest

import es
from adapters.settings import load_settings
from adapters.wiring import open_codec, open_store
from domain.kernel.events import BEGINNING, Event, Recorded
from examples.wallets.transfers import TRANSFER, RequestTransfer
from examples.wallets.wallet import WALLET, CloseWallet, Deposit, OpenWallet
from tests.support import effort
from tests.support.money import Ledger, ledger
from tests.support.processes import ROOT, kill
from tests.support.profiles import Profile, a_system
from tests.support.system import System
from tests.support.waiting import eventually

FEATURE = "examples.wallets"
VICTIMS = ("wallets", "processes", "users", "ids", "projections")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.own_store("the events of the feature are unknown to systems without it"),
]


@pytest.fixture
def system(profile: Profile, request: pytest.FixtureRequest) -> Iterator[System]:
    with a_system(profile, request) as made:
        made.environment |= {"ES_FEATURES": FEATURE, "PYTHONPATH": str(ROOT), "WALLETS_DEADLINE_S": "20"}
        yield made.up()


@pytest.fixture
def client(system: System) -> Iterator[es.Client]:
    with es.Client(settings=load_settings(environment=system.environment)) as made:
        yield made


def done(answers: Iterator[Any]) -> list[Any]:
    return [answer for answer in answers if isinstance(answer, es.Answer)]


def read(system: System) -> Ledger:
    """The ledger of everything that is stored."""
    codec = open_codec((FEATURE,))

    def events() -> Iterator[tuple[Recorded, Event]]:
        with closing(open_store(system.settings.store)) as store:
            prefixes = [WALLET.prefix, TRANSFER.prefix]
            at = BEGINNING
            while page := list(store.read_all(at, 1000, prefixes=prefixes)):
                yield from ((recorded, codec.decode(recorded)) for recorded in page)
                at = page[-1].position

    return ledger(events())


def sent_until_answered(client: es.Client, commands: list[tuple[Any, str]]) -> list[Any]:
    """Repeat the commands that were not answered, with their ids, as a careful caller does."""
    answers: dict[str, Any] = {}

    def all_answered() -> bool:
        left = [(command, id_) for command, id_ in commands if id_ not in answers]
        answering = client.send_many([command for command, _ in left], [id_ for _, id_ in left])
        for (_, id_), answer in zip(left, answering, strict=True):
            if not isinstance(answer, es.Unavailable):
                answers[id_] = answer
        return len(answers) == len(commands)

    eventually(all_answered, "every command has an answer", within_s=effort.BULK_S)
    return [answers[id_] for _, id_ in commands]


@pytest.mark.parametrize(
    "profile", [Profile("embedded"), Profile("distributed")], ids=["embedded", "distributed"], indirect=True
)
def test_money_is_neither_lost_nor_made_while_workers_are_killed(system: System, client: es.Client) -> None:
    """Owners open wallets, pay each other more than they have now and then, and some close a wallet meanwhile."""
    chosen = random.Random(effort.SEED)
    print(f"ES_TEST_SEED={effort.SEED}")
    owners = [int(system.create(f"owner{number}@example.com", "Owner")) for number in range(3)]
    opened = done(client.send_many([OpenWallet(owner, f"w{n}") for owner in owners for n in range(4)]))
    wallets = [answer.id for answer in opened]
    assert (
        len(done(client.send_many([Deposit(wallet, effort.MONEY) for wallet in wallets])))
        == len(wallets)
        == 12
    )

    count = effort.TRANSFERS
    assert count % effort.STRIKES == 0
    pairs = [chosen.sample(wallets, 2) for _ in range(count)]
    transfers = [RequestTransfer(one, other, chosen.randint(1, 60)) for one, other in pairs]
    kills: Counter[str] = Counter()
    size = count // effort.STRIKES
    for number in range(effort.STRIKES):
        batch = transfers[number * size : (number + 1) * size]
        answers = sent_until_answered(client, [(command, es.new_command_id()) for command in batch])
        assert len(done(iter(answers))) == len(batch), answers
        victim = chosen.choice(VICTIMS)
        kills[victim] += 1
        kill(system.processes(victim))
        if number % (effort.STRIKES // effort.SUPERVISOR_STRIKES) == 1:
            system.kill_everything()
            system.up()
            kills["all"] += 1
            sent_until_answered(client, [(CloseWallet(wallets[0]), es.new_command_id())])
    print(dict(kills))

    def settled() -> Ledger | None:
        found = read(system)
        return found if len(found.outcomes) == count else None

    began_s = time.monotonic()
    eventually(settled, "every transfer is settled", within_s=effort.BULK_S)
    print(f"settled {time.monotonic() - began_s:.1f} s after the last request")
    found = read(system)
    found.check_end()
    outcomes = Counter(outcome for (outcome,) in found.outcomes.values())
    print(dict(outcomes))
    assert outcomes["completed"], "some transfers move money"
    assert found.deposited == effort.MONEY * len(wallets)
    rows = {
        f"wallet-{row['wallet_id']}": row["balance"] for row in client.list("wallets.balances", fresh=True)
    }
    assert {wallet: balance for wallet, balance in rows.items() if balance} == dict(+found.balances)
