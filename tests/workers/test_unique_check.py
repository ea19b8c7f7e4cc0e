"""The deep check of claims on unique values: it reports what is lost or foreign, and nothing that is under way."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import closing
from pathlib import Path

import pytest

from adapters import wiring
from adapters.log import Log
from adapters.settings import load_settings
from domain.kernel.ports.vault import Claim
from tests.support.accounts import ADA, erase
from tests.support.parts import Crash, before_call, replaced
from tests.support.wallets import BOTH, WALLET, Wallets, close_wallet, open_wallet, rename_wallet
from workers import deep_check
from workers.deep_check import Problems
from workers.unique_check import UniqueCheck

_ALL = range(-99, 2000)


@pytest.fixture
def wallets(tmp_path: Path, log: Log) -> Iterator[Wallets]:
    with closing(Wallets(tmp_path / "wallets", log)) as wallets:
        yield wallets


def problems_of(wallets: Wallets, **parts: object) -> list[str]:
    found: list[str] = []
    given = {"store": wallets.store, "vault": wallets.vault, "pause": lambda _: None, **parts}
    check = UniqueCheck(
        wallets.aggregates,
        codec=wallets.codec,
        problems=lambda part, problem: found.append(f"{part}: {problem}"),
        **given,  # type: ignore[arg-type]
    )
    streams = {recorded.stream for recorded in wallets.store.read_all(0, 1000)}
    check.check_streams(streams)
    check.check_subjects([*_ALL], lambda some: dict.fromkeys(some & streams))
    return sorted(found)


def test_sound_instances_have_no_finding(wallets: Wallets) -> None:
    ada = wallets.a_user(ADA)
    wallets.did(open_wallet(5, owner=ada))
    wallets.did(open_wallet(6, "other", owner=ada))
    wallets.did(rename_wallet(6, "Other", owner=ada))
    wallets.did(rename_wallet(6, "third", owner=ada))
    wallets.did(close_wallet(5))  # its claims are to be released yet
    with pytest.raises(Crash):
        wallets.ask(open_wallet(8), vault=before_call(wallets.vault, "settle_claims", lambda: crash()))
    assert problems_of(wallets) == []

    wallets.done(erase(ada))
    assert problems_of(wallets) == []
    wallets.run()

    assert problems_of(wallets) == []


def crash() -> None:
    raise Crash


def test_an_open_instance_without_a_claim_is_reported(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))
    wallets.did(open_wallet(6, "other"))
    wallets.change_vault("DELETE FROM email_claims WHERE stream = 'wallet-5'")
    wallets.change_vault("DELETE FROM email_claims WHERE stream = 'wallet-6' AND rule = 'number'")

    assert problems_of(wallets) == [
        "vault: wallet-5 has no claim on its label and its number",
        "vault: wallet-6 has no claim on its number",
    ]


def test_a_confirmed_claim_of_a_stream_without_events_is_reported(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))
    wallets.change_vault("UPDATE email_claims SET stream = 'wallet-7' WHERE rule = 'number'")

    assert problems_of(wallets) == [
        "vault: wallet-5 has no claim on its number",
        "vault: wallet-7 has a claim on its number, but no events",
    ]


def test_a_claim_that_a_command_makes_meanwhile_is_no_finding(wallets: Wallets) -> None:
    wallets.did(open_wallet(5))

    wallets.did(close_wallet(5))
    wallets.settling().run(lambda: False)

    def then_open(streams: Sequence[str], *, now_us: int) -> list[Claim]:
        found = wallets.vault.claims_on(streams, now_us=now_us)
        wallets.ask(open_wallet(5))
        return found

    assert problems_of(wallets, vault=replaced(wallets.vault, claims_on=then_open)) == []
    assert wallets.held(5) == BOTH


def test_the_whole_check_reports_no_claim_of_an_outside_aggregate(tmp_path: Path, wallets: Wallets) -> None:
    environment = {"ES_HOME": str(tmp_path / "home"), "ES_FEATURES": "tests.support.wallets"}
    settings = load_settings(environment=environment)
    wiring.prepare_home(settings)
    with (
        closing(wiring.open_store(settings.store)) as store,
        closing(wiring.open_vault(settings)) as vault,
        closing(wiring.open_read_model(settings)),
    ):
        for request in (open_wallet(5), open_wallet(6, "other"), close_wallet(6)):
            (reply,) = wallets.ask(request, store=store, vault=vault)
            assert isinstance(reply, dict), reply
        wallets.unique_claims(store=store, vault=vault).settle([WALLET.stream_of(6)])
    problems = Problems()

    said = deep_check.compare(settings, problems, lambda _: None)

    assert [*problems.listed()] == []
    assert said == "3 events, 0 users, 1 keys and 0 rows were compared"
