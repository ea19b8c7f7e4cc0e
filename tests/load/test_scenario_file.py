"""Scenario files: their form, and the refusal of everything wrong by name."""

from __future__ import annotations

import json
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.kernel.errors import Kind
from load.keys import InvalidScenario
from load.scenario import Operation, Phase, Scenario, Threshold
from load.scenario_file import parse_scenario, read_scenario
from tests.support.effort import EXAMPLES

FILE = Path("folder/ramp.toml")
FEATURES = ("examples.wallets",)
WHOLE = """
name = "the ramp"
seed = 7
mode = "process"
processes = 2
callers = 100
timeout = "1m30s"
start_within = "50ms"

[[phases]]
name = "warm-up"
duration = "5s"
rate = 50
warm_up = true

[[phases]]
duration = "1m"
rate = [50, 500.5]

[[phases]]
pause = "500ms"

[mix]
create = 5
get = 20.5
ids-range = { weight = 2, count = 5000 }

[[operations]]
name = "open"
command = "wallets.open"
weight = 1
input = { owner_id = "{user}", label = "purse {1..100}" }

[[operations]]
command = "wallets.deposit"
weight = 10
input = { wallet_id = "{wallets.open}", amount = "{1..100}" }

[thresholds]
"create.p99_ms" = 50
open.p50_ms = 20
error_rate = { below = 0.01, abort_on_fail = true }
per_s = { above = 100 }
lag_ms = 1000
"""
MINIMAL = '[[phases]]\nduration = "1s"\nrate = 1\n[mix]\nids = 1\n'


def parsed(text: str) -> Scenario:
    return parse_scenario(text, FILE, features=FEATURES)


def test_a_scenario_is_read_from_a_file(tmp_path: Path) -> None:
    path = tmp_path / "ramp.toml"
    path.write_text(WHOLE)
    scenario = read_scenario(path, features=FEATURES)

    assert (scenario.name, scenario.seed, scenario.mode) == ("the ramp", 7, "process")
    assert (scenario.processes, scenario.callers) == (2, 100)
    assert (scenario.timeout_s, scenario.start_within_ms) == (90.0, 50.0)
    assert (scenario.text, scenario.file, scenario.people) == (WHOLE, path, None)
    assert scenario.duration_s == 65.5
    assert scenario.phases == (
        Phase("warm-up", 5.0, 50.0, 50.0, is_warm_up=True),
        Phase("phase 2", 60.0, 50.0, 500.5),
        Phase("pause 3", 0.5, 0.0, 0.0),
    )
    assert scenario.thresholds == (
        Threshold("create", "p99_ms", 50.0),
        Threshold("open", "p50_ms", 20.0),
        Threshold("", "error_rate", 0.01, abort_on_fail=True),
        Threshold("", "per_s", 100.0),
        Threshold("", "lag_ms", 1000.0),
    )
    create, get, ids, opened, deposit = scenario.operations
    assert (create.kind, create.role, create.weight, create.is_command) == (
        "users.create",
        "users",
        5.0,
        True,
    )
    assert (get.role, get.weight, get.is_command, get.is_journaled) == ("projections", 20.5, False, False)
    assert (ids.kind, ids.input, ids.is_command, ids.is_journaled) == (
        "ids.next",
        {"count": 5000},
        False,
        True,
    )
    assert (opened.name, opened.role, opened.is_command) == ("open", "wallets", True)
    assert deposit == Operation(
        "deposit", "wallets.deposit", "wallets", 10.0, {"wallet_id": "{wallets.open}", "amount": "{1..100}"}
    )


def test_a_minimal_scenario_has_defaults() -> None:
    scenario = parsed(MINIMAL)

    assert (scenario.name, scenario.seed, scenario.mode) == ("ramp", 1, "client")
    assert (scenario.processes, scenario.callers) == (1, 256)
    assert parsed(f'mode = "process"\nprocesses = 2\n{MINIMAL}').callers == 32
    assert (scenario.timeout_s, scenario.start_within_ms) == (8.0, 100.0)
    assert [operation.name for operation in scenario.operations] == ["ids"]


def test_operations_on_users_bring_a_create_without_a_weight() -> None:
    get, create = parsed(MINIMAL.replace("ids", "get")).operations

    assert (get.name, get.weight) == ("get", 1.0)
    assert (create.name, create.weight) == ("create", 0.0)


def test_people_of_a_file_are_checked_with_the_scenario(tmp_path: Path) -> None:
    (tmp_path / "people.csv").write_text("name,email\nAda,ada@example.com\nAlan,broken\n")
    with pytest.raises(InvalidScenario, match=r"people\.csv: line 3 email is not an e-mail address"):
        parse_scenario('people = "people.csv"\n' + MINIMAL, tmp_path / "a.toml")

    (tmp_path / "people.csv").write_text("name,email\nAda,ada@example.com\n")
    scenario = parse_scenario('people = "people.csv"\n' + MINIMAL, tmp_path / "a.toml")
    assert scenario.people == tmp_path / "people.csv"


def top(line: str) -> str:
    return f"{line}\n{MINIMAL}"


def phases(lines: str) -> str:
    return f"[[phases]]\n{lines}\n[mix]\nids = 1\n"


def more(lines: str) -> str:
    return f"{MINIMAL}{lines}\n"


def operation(lines: str) -> str:
    return more(f"[[operations]]\n{lines}")


def open_wallet(given: str) -> str:
    return operation(f'command = "wallets.open"\nweight = 1\ninput = {{ {given} }}')


WRONG = [
    ("no TOML", "rate = = 5", "", "is no TOML", "Correct"),
    ("unknown key", top("calers = 5"), "calers", "is no key here", "Did you mean callers?"),
    ("name", top("name = 5"), "name", "must be a text", ""),
    ("seed", top("seed = -1"), "seed", "whole number from 0", ""),
    ("seed", top("seed = true"), "seed", "whole number from 0", ""),
    ("mode", top('mode = "fast"'), "mode", "client or process", ""),
    ("processes", top("processes = 0"), "processes", "from 1 to 64", ""),
    ("callers", top("callers = 513"), "callers", "from 1 to 512", ""),
    ("few callers", top("processes = 3\ncallers = 2"), "callers", "from 3 to 1536", ""),
    ("timeout", top("timeout = 8"), "timeout", "must be a duration", '"90s"'),
    ("timeout", top('timeout = "8 s"'), "timeout", "must be a duration", '"90s"'),
    ("timeout", top('timeout = "8d"'), "timeout", "must be a duration", '"90s"'),
    ("short timeout", top('timeout = "5ms"'), "timeout", "from 0.1 s", ""),
    ("start_within", top('start_within = "0s"'), "start_within", "must be from", ""),
    ("people", top('people = "none.csv"'), "", "none.csv cannot be read", "CSV"),
    ("no phases", "[mix]\nids = 1", "phases", "has no phase with requests", "[[phases]]"),
    ("phases table", "[phases]\nrate = 1\n[mix]\nids = 1", "phases", "no list of tables", "[[phases]]"),
    ("only a pause", phases('pause = "1s"'), "phases", "has no phase with requests", ""),
    ("phase key", phases('duration = "1s"\nrates = 1'), "phases[1].rates", "is no key", "Did you mean rate?"),
    ("no duration", phases("rate = 1"), "phases[1].duration", "is missing", 'duration = "30s"'),
    ("no rate", phases('duration = "1s"'), "phases[1].rate", "is missing", "rate = [50, 500]"),
    ("rate", phases('duration = "1s"\nrate = -1'), "phases[1].rate", "number from 0", ""),
    ("rate", phases('duration = "1s"\nrate = nan'), "phases[1].rate", "number from 0", ""),
    ("rate", phases('duration = "1s"\nrate = "5"'), "phases[1].rate", "number from 0", ""),
    ("ramp", phases('duration = "1s"\nrate = [1, 2, 3]'), "phases[1].rate", "two for a ramp", ""),
    ("pause and rate", phases('pause = "1s"\nrate = 1'), "phases[1].rate", "beside pause", ""),
    ("warm_up", phases('duration = "1s"\nrate = 1\nwarm_up = 1'), "phases[1].warm_up", "true or false", ""),
    ("no mix", '[[phases]]\nduration = "1s"\nrate = 1', "mix", "no operation with a weight", "create = 5"),
    ("mix", more("creat = 1"), "mix.creat", "is no key here", "Did you mean create?"),
    ("weight", more("get = -1"), "mix.get", "number from 0", ""),
    ("count", more("ids-range = { weight = 1, count = 0 }"), "mix.ids-range.count", "whole number from 1", ""),
    ("range key", more("ids-range = { weight = 1, size = 1 }"), "mix.ids-range.size", "is no key", "weight, count"),
    ("operations", top("operations = 5"), "operations", "no list of tables", "[[operations]]"),
    ("no command", operation("weight = 1"), "operations[1].command", "is missing", "wallets.deposit"),
    ("feature", operation('command = "shop.buy"'), "operations[1].command", "shop", "wallets"),
    ("command", operation('command = "wallets.opne"'), "operations[1].command", "does not exist", "wallets.open"),
    ("query", operation('command = "users.get"'), "operations[1].command", "does not exist", "users.create"),
    ("other role", operation('command = "ids.next"'), "operations[1].command", "does not exist", ""),
    ("field", open_wallet('owner = 1, label = "a"'), "operations[1].input.owner", "is no key", "owner_id"),
    ("no field", open_wallet('label = "a"'), "operations[1].input.owner_id", "is missing", "owner_id, label"),
    ("value", open_wallet('owner_id = "x", label = "a"'), "operations[1].input.owner_id", "", "accepts"),
    ("long", open_wallet(f'owner_id = "1", label = "{"x" * 999}"'), "operations[1].input.label", "", "accepts"),
    ("placeholder", open_wallet('owner_id = "{usr}", label = "a"'), "operations[1].input.owner_id", "{usr}", "{user}"),
    (
        "range",
        operation('command = "wallets.deposit"\nweight = 1\ninput = { wallet_id = "1", amount = "{-5..5}" }'),
        "operations[1].input.amount",
        "",
        "accepts",
    ),
    (
        "no maker",
        operation('command = "wallets.deposit"\nweight = 1\ninput = { wallet_id = "{wallets.open}", amount = "1" }'),
        "operations",
        "has deposit, which needs ids of wallets.open",
        "Add an operation",
    ),
    (
        "itself",
        open_wallet('owner_id = "{wallets.open}", label = "a"'),
        "operations",
        "needs an id that it has to make itself",
        "another command",
    ),
    ("twice", operation('name = "ids"\ncommand = "users.delete"\nweight = 1\ninput = { user_id = "{user}" }'), "operations", "two named ids", ""),
    ("figure as name", operation('name = "p99_ms"\ncommand = "users.delete"'), "operations[1].name", "is a figure", ""),
    ("figure", more("[thresholds]\np98_ms = 5"), "thresholds.p98_ms", "is no figure", "p99_ms"),
    ("operation", more('[thresholds]\n"get.p99_ms" = 5'), "thresholds.get.p99_ms", "no operation", "ids"),
    ("nested", more("[thresholds]\nids.p98_ms = 5"), "thresholds.ids.p98_ms", "is no key", "Did you mean p99_ms?"),
    ("limit", more('[thresholds]\nerror_rate = "1%"'), "thresholds.error_rate", "number from 0 to 1", ""),
    ("rate", more("[thresholds]\nerror_rate = 1.5"), "thresholds.error_rate", "number from 0 to 1", ""),
    ("bound", more("[thresholds]\nper_s = { below = 5 }"), "thresholds.per_s.below", "is no key", "above"),
    ("no bound", more("[thresholds]\np99_ms = { abort_on_fail = true }"), "thresholds.p99_ms.below", "is missing", ""),
    ("abort", more("[thresholds]\nper_s = { above = 5, abort_on_fail = true }"), "thresholds.per_s.abort_on_fail", "cannot be", ""),
    ("system", more('[thresholds]\n"ids.lag_ms" = 5'), "thresholds.ids.lag_ms", "whole system", "without"),
]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place", "reason", "hint"), [each[1:] for each in WRONG], ids=[each[0] for each in WRONG]
)
def test_a_wrong_thing_is_refused_with_its_place_and_a_hint(
    text: str, place: str, reason: str, hint: str
) -> None:
    with pytest.raises(InvalidScenario) as raised:
        parsed(text)

    assert raised.value.place == place
    assert reason in str(raised.value)
    assert hint in raised.value.hint
    assert raised.value.hint.endswith(".")
    assert raised.value.kind is Kind.INVALID


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    for path in (tmp_path / "none.toml", tmp_path):
        with pytest.raises(InvalidScenario, match="cannot be read"):
            read_scenario(path)
    (tmp_path / "a.toml").write_bytes(b"\xff")
    with pytest.raises(InvalidScenario, match="is not UTF-8"):
        read_scenario(tmp_path / "a.toml")


def test_an_operation_of_no_feature_here_is_refused() -> None:
    with pytest.raises(InvalidScenario, match="does not exist here"):
        parse_scenario(open_wallet('owner_id = "{user}", label = "a"'), FILE)


anything = st.recursive(
    st.one_of(st.booleans(), st.integers(-5, 10**20), st.floats(allow_nan=False), st.text(max_size=8)),
    lambda inner: st.one_of(st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["name", "rate", "x"]), inner, max_size=3)),
    max_leaves=5,
)  # fmt: skip


@settings(max_examples=EXAMPLES, deadline=None)
@given(st.sampled_from("name seed mode processes callers timeout start_within phases mix operations thresholds".split()), anything)  # fmt: skip # noqa: SIM905
def test_any_value_of_a_key_is_read_or_refused(key: str, value: Any) -> None:
    text = f"{key} = {toml(value)}\n" + ("" if key in ("phases", "mix") else MINIMAL)
    with suppress(InvalidScenario):  # any other error fails the test
        parsed(text)


def toml(value: Any) -> str:
    if isinstance(value, dict):
        return "{" + ", ".join(f"{name} = {toml(each)}" for name, each in value.items()) + "}"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, float):
        return repr(value) if "." in repr(value) or "e" in repr(value) else repr(value).replace("inf", "inf")
    return json.dumps(value)
