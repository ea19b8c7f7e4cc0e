"""Whole load runs: load processes against real workers, and against scripted ones that stall, fail or are missing."""

from __future__ import annotations

import json
import os
import shutil
import signal
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from pathlib import Path
from typing import Any

import pytest

from adapters.local.address import listen, socket_path
from adapters.local.server import LocalServer
from adapters.settings import Settings, load_settings
from domain.kernel.errors import AnsweredError, Kind
from domain.kernel.messages import LATER, Body, Reply, Request
from load.histograms import Histogram
from load.journal import journals_of
from load.processes import LoadProcessFailed
from load.results import Run, Second, Tally
from load.run import run
from load.scenario import Scenario
from load.scenario_file import parse_scenario
from tests.support.processes import ROOT, all_processes, start_python
from tests.support.system import System, new_root
from tests.support.transports import Transport
from tests.support.waiting import DEADLINE_S, eventually

MIX = """
[mix]
create = 4
get = 8
find = 2
list = 1
rename = 3
change-email = 2
delete = 1
ids = 2
ids-range = { weight = 1, count = 2000 }
"""


def scenario(text: str, settings: Settings | None = None) -> Scenario:
    return parse_scenario(text, Path("test.toml"), features=settings.features if settings else ())


def timed(duration: str, rate: str, more: str = "", mix: str = MIX) -> str:
    # A request may start late: the speed of this machine is not tested.
    return f'start_within = "60s"\ntimeout = "120s"\n{more}\n[[phases]]\nduration = "{duration}"\nrate = {rate}\n{mix}'


def lines_of(folder: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for path in journals_of(folder) for line in path.read_text().splitlines()]


def replies(tally: Tally) -> int:
    return tally.succeeded + sum(tally.errors.values())


def total(found: Run) -> Counter[str]:
    counts: Counter[str] = Counter()
    for tally in found.totals.values():
        counts.update(wanted=tally.wanted, dropped=tally.dropped, replies=replies(tally))
        assert Histogram(tally.latency).count == replies(tally)
    return counts


# --- real workers ------------------------------------------------------------------------------


def test_a_run_over_real_workers_has_every_reply_and_every_user(shared: System, tmp_path: Path) -> None:
    text = timed("4s", "[20, 60]", "processes = 2\ncallers = 500", MIX)
    told: list[Second] = []

    found = run(
        scenario(text), shared.settings, folder=tmp_path, on_second=lambda second, _: told.append(second)
    )

    assert (found.ended, found.duration_s, len(found.seconds)) == ("done", 4.0, 4)
    assert total(found) == {"wanted": 160, "dropped": 0, "replies": 160}
    assert {code for tally in found.totals.values() for code in tally.errors} == set()
    assert [second.number for second in found.seconds] == [0, 1, 2, 3]
    wanted = [sum(tally.wanted for tally in second.operations.values()) for second in found.seconds]
    assert wanted == pytest.approx([25, 35, 45, 55], abs=2)
    assert sum(tally.wanted for second in told for tally in second.operations.values()) == 160
    assert found.tool["cpu_s"] > 0
    assert found.profile.keys() == {"broker", "store", "database", "vault"}
    assert not [name for name in found.profile.values() if ":" in name or "/" in name], "no URLs"
    assert found.scenario["phases"] == [
        {"name": "phase 1", "from_s": 0.0, "to_s": 4.0, "from_per_s": 20.0, "to_per_s": 60.0}
    ]
    assert Run.from_json(found.to_json(), "it") == found

    lines = lines_of(tmp_path)
    created = {line["n"]: line for line in lines if line.get("op") == "create"}
    users = {user["user_id"]: user for user in shared.users()}
    journals = [path.name for path in journals_of(tmp_path)]
    assert journals == ["journal-0.ndjson", "journal-1.ndjson"]
    assert sorted(path.name for path in tmp_path.iterdir()) == journals, "no load process wrote an error"
    made = [line["ok"]["user_id"] for line in lines if "user_id" in line.get("ok", {})]
    assert created
    assert set(made) <= users.keys()


def test_a_real_process_for_each_request_is_counted_as_any_other(shared: System, tmp_path: Path) -> None:
    text = timed("2s", "4", 'mode = "process"\ncallers = 20', MIX)

    found = run(scenario(text), shared.settings, folder=tmp_path)

    assert total(found) == {"wanted": 8, "dropped": 0, "replies": 8}
    assert {code for tally in found.totals.values() for code in tally.errors} == set()
    sent = [line for line in lines_of(tmp_path) if line.get("op") == "create"]
    oks = {line["ok"]["command_id"] for line in lines_of(tmp_path) if "command_id" in line.get("ok", {})}
    assert sent
    assert {line["id"] for line in sent} <= oks, "the command ids are those of the journal"


WALLETS = """
[mix]
create = 2
[[operations]]
name = "open"
command = "wallets.open"
weight = 3
input = { owner_id = "{user}", label = "purse {1..1000000000}" }
[[operations]]
name = "deposit"
command = "wallets.deposit"
weight = 5
input = { wallet_id = "{wallets.open}", amount = "{1..100}" }
[[operations]]
name = "transfer"
command = "wallets.transfer"
weight = 3
input = { source_id = "{wallets.open}", target_id = "{wallets.open}", amount = "{1..100}" }
[[operations]]
name = "erase"
command = "users.erase"
weight = 1
input = { user_id = "{user}", basis = "gdpr-request" }
"""


def test_commands_of_another_service_work_on_what_the_run_made(system: System, tmp_path: Path) -> None:
    system.environment |= {"ES_FEATURES": "examples.wallets", "PYTHONPATH": str(ROOT)}
    system.up()

    found = run(scenario(timed("3s", "20", "", WALLETS), system.settings), system.settings, folder=tmp_path)

    assert found.totals.keys() == {"create", "open", "deposit", "transfer", "erase"}
    assert all(tally.succeeded for tally in found.totals.values())
    errors = {name: tally.errors for name, tally in found.totals.items() if tally.errors}
    assert errors == {}
    assert total(found) == {"wanted": 60, "dropped": 0, "replies": 60}


# --- scripted workers ----------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Settings]:
    root = new_root()
    with ExitStack() as removing:
        removing.callback(shutil.rmtree, root)
        yield load_settings(environment={"ES_HOME": str(root), "ES_AUTOSTART": "0"})


@contextmanager
def workers(settings: Settings, tmp_path: Path, answer: Callable[[Request], Reply]) -> Iterator[None]:
    """Workers of the roles `users`, `projections` and `ids` that answer by a function."""
    with closing(Transport(settings, tmp_path / "worker.log")) as transport, ExitStack() as serving:
        for role in ("users", "projections", "ids"):
            server = LocalServer(listen(socket_path(settings.run, role)))
            serving.enter_context(closing(server))
            serving.enter_context(transport.serving(server, answer))
        yield


def fine(request: Request) -> Body:
    if "command_id" in request.body:
        id_ = request.body["command_id"]
        return {"command_id": id_, "user_id": str(hash(id_) % 10**18 + 1), "version": 0, "position": 1}
    return {"ranges": []}


CREATES = "[mix]\ncreate = 1\n"


def test_a_stall_is_in_the_latency_of_what_was_meant_to_start_meanwhile(
    home: Settings, tmp_path: Path
) -> None:
    stall: list[float] = []

    def stalling(request: Request) -> Reply:
        if not stall:
            stall.append(time.monotonic())
        return fine(request) if time.monotonic() > stall[0] + 1.0 else LATER

    folder = tmp_path / "run"
    folder.mkdir()
    with workers(home, tmp_path, stalling):
        found = run(scenario(timed("2s", "100", "callers = 512", CREATES)), home, folder=folder)

    assert total(found) == {"wanted": 200, "dropped": 0, "replies": 200}
    latency = Histogram(found.totals["create"].latency)
    long = sum(count for ms, count in latency.buckets() if ms >= 500)
    assert long >= 45, "everything that was meant to start in the first half of the stall"
    assert latency.at_ms(99) >= 900  # type: ignore[operator]


def test_more_than_the_workers_can_do_is_dropped_or_unavailable_and_counted(
    home: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    text = f'callers = 20\ntimeout = "1s"\n[[phases]]\nduration = "2s"\nrate = 200\n{CREATES}'
    with workers(home, tmp_path, lambda _: LATER):
        found = run(scenario(text), home, folder=folder)

    [tally] = found.totals.values()
    assert tally.wanted == 400
    assert tally.dropped >= 300
    assert tally.errors == {"unavailable": 400 - tally.dropped}
    sent = [line for line in lines_of(folder) if "op" in line]
    assert len(sent) == 400 - tally.dropped, "what was dropped was not sent"


def test_a_run_that_is_stopped_waits_for_its_requests_and_says_so(home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    stop = threading.Event()
    with workers(home, tmp_path, fine):
        found = run(
            scenario(timed("1h", "50", "processes = 2", CREATES)),
            home,
            folder=folder,
            on_second=lambda second, _: stop.set() if second.number == 1 else None,
            stop=stop,
        )

    assert found.ended == "interrupted"
    assert found.duration_s < 3600
    counts = total(found)
    assert counts["wanted"] == counts["replies"] > 0
    assert max(second.number for second in found.seconds) <= found.duration_s


def test_a_threshold_with_abort_on_fail_ends_the_run(home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def failing(request: Request) -> Reply:
        return AnsweredError("out-of-order", Kind.DAMAGED, "a text", "A hint.")

    text = timed(
        "1h", "200", "", f"{CREATES}[thresholds]\nerror_rate = {{ below = 0.5, abort_on_fail = true }}"
    )
    with workers(home, tmp_path, failing):
        found = run(scenario(text), home, folder=folder)

    assert found.ended == "aborted: error_rate is 1, the limit is 0.5"
    assert [verdict.passed for verdict in found.verdicts] == [False]
    assert found.totals["create"].succeeded == 0


def load_processes(folder: Path) -> Sequence[int]:
    return [pid for pid, words in all_processes() if "load.generator" in words and _has_open(pid, folder)]


def _has_open(pid: int, folder: Path) -> bool:
    try:
        return any(os.readlink(each).startswith(str(folder)) for each in Path(f"/proc/{pid}/fd").iterdir())
    except OSError:
        return False


def test_a_load_process_that_dies_is_an_error_and_the_others_are_ended(
    home: Settings, tmp_path: Path
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def kill_one(second: Second, _: object) -> None:
        if second.number == 0 and len(found := load_processes(folder)) == 2:
            os.kill(found[0], signal.SIGKILL)

    with workers(home, tmp_path, fine), pytest.raises(LoadProcessFailed) as raised:
        run(scenario(timed("1h", "20", "processes = 2", CREATES)), home, folder=folder, on_second=kill_one)

    assert "was ended by signal 9" in str(raised.value)
    assert not load_processes(folder)


def test_an_error_in_the_caller_ends_the_load_processes(home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()

    def interrupt(*_: object) -> None:
        assert load_processes(folder)
        raise KeyboardInterrupt

    with workers(home, tmp_path, fine), pytest.raises(KeyboardInterrupt):
        run(scenario(timed("1h", "20", "", CREATES)), home, folder=folder, on_second=interrupt)

    assert not load_processes(folder)


def test_a_journal_of_an_earlier_run_is_not_overwritten(home: Settings, tmp_path: Path) -> None:
    (tmp_path / "journal-0.ndjson").write_text("earlier\n")

    with pytest.raises(AnsweredError, match="journal") as raised:
        run(scenario(timed("1s", "1", "", CREATES)), home, folder=tmp_path)

    assert raised.value.code == "journal-failed"
    assert (tmp_path / "journal-0.ndjson").read_text() == "earlier\n"


def test_without_workers_every_request_is_unavailable(home: Settings, tmp_path: Path) -> None:
    found = run(scenario(timed("1s", "20", "", CREATES)), home, folder=tmp_path)

    assert found.totals["create"].errors == {"unavailable": 20}


def test_arrivals_end_if_the_coordinator_is_killed(home: Settings, tmp_path: Path) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    code = f"""
import sys
from pathlib import Path
from adapters.settings import load_settings
from load.run import run
from load.scenario_file import parse_scenario
settings = load_settings(environment={{"ES_HOME": {str(home.home)!r}}})
run(parse_scenario({timed("1h", "20", "", CREATES)!r}, Path("a.toml")), settings, folder=Path({str(folder)!r}))
"""
    with workers(home, tmp_path, fine):
        coordinator = start_python(code)
        try:
            eventually(lambda: lines_of_if_any(folder), "it sends requests")
            assert load_processes(folder)
        finally:
            coordinator.kill()
            coordinator.communicate(timeout=DEADLINE_S)
        eventually(lambda: not load_processes(folder), "its load process has ended")


def lines_of_if_any(folder: Path) -> bool:
    return any(path.stat().st_size for path in journals_of(folder))
