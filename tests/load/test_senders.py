"""The words of the shell for each operation, and what its output means."""

from __future__ import annotations

import subprocess
from pathlib import Path
from random import Random
from typing import Any

import pytest

import es
from domain.kernel.errors import Kind
from load.data import Prepared
from load.scenario import Operation
from load.scenario_file import parse_scenario
from load.schedule import Job
from load.senders import Words, reply_of
from load.templates import Made, Person, Template

SCENARIO = """
[[phases]]
duration = "1s"
rate = 1
[mix]
create = 1
get = 1
find = 1
list = 1
rename = 1
change-email = 1
delete = 1
ids = 1
ids-range = { weight = 1, count = 30 }
[[operations]]
command = "wallets.open"
weight = 1
input = { owner_id = "{user}", label = "the purse" }
[[operations]]
command = "wallets.deposit"
weight = 1
input = { wallet_id = "{wallets.open}", amount = "5", transfer_id = "3" }
[[operations]]
name = "erase"
command = "users.erase"
weight = 1
input = { user_id = "{user}", basis = "gdpr-request" }
"""
OPERATIONS = {
    each.name: each
    for each in parse_scenario(SCENARIO, Path("a.toml"), features=("examples.wallets",)).operations
}
ID = "01a22892-b24d-7251-8661-08a7c40cc497"


def job(operation: Operation) -> Job:
    template = Template(operation.input)
    made = [Made("7", "u@example.com", 5) for _ in template.pools]
    input_ = template.fill(Random(1), Person("Ada", "ada@example.com"), made)
    return Job(Prepared(operation, input_, made), ID if operation.is_command else None, 0, 0, 0.0)


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("create", f"users create --email ada@example.com --name Ada --command-id {ID} --json"),
        ("get", "users get 7 --after 5 --json"),
        ("find", "users find --email u@example.com --json"),
        ("list", "users list --after 7 --limit 20 --json"),
        ("rename", f"users rename 7 Ada --command-id {ID} --json"),
        ("change-email", f"users change-email 7 ada@example.com --command-id {ID} --json"),
        ("delete", f"users delete 7 --yes --command-id {ID} --json"),
        ("ids", "ids next --count 1 --ranges --json"),
        ("ids-range", "ids next --count 30 --ranges --json"),
        ("open", f"wallets open --owner-id 7 --label the_purse --command-id {ID} --json"),
        ("deposit", f"wallets deposit --transfer-id 3 7 5 --command-id {ID} --json"),
        ("erase", f"gdpr erase 7 --basis gdpr-request --yes --command-id {ID} --json"),
    ],
)
def test_each_operation_has_its_words_of_the_shell(name: str, words: str) -> None:
    found = Words(("examples.wallets",)).of(job(OPERATIONS[name]))

    assert [word.replace("the purse", "the_purse") for word in found] == words.split()


def ended(code: int, out: str = "", error: str = "") -> subprocess.CompletedProcess[bytes]:
    return subprocess.CompletedProcess([], code, out.encode(), error.encode())


@pytest.mark.parametrize(
    ("name", "out", "reply"),
    [
        ("create", '{"command_id":"c","user_id":"7"}\n', {"command_id": "c", "user_id": "7"}),
        ("list", '{"user_id":"7"}\n{"user_id":"8"}\n', {"rows": [{"user_id": "7"}, {"user_id": "8"}]}),
        ("list", "", {"rows": []}),
        ("ids-range", '{"first":"7","step":1024,"count":30}', {"ranges": [{"first": "7", "step": 1024, "count": 30}]}),
    ],
)  # fmt: skip
def test_what_a_process_printed_is_the_reply_of_a_worker(name: str, out: str, reply: Any) -> None:
    assert reply_of(job(OPERATIONS[name]), ended(0, out)) == reply


def test_an_error_of_a_process_has_its_code_and_its_kind() -> None:
    line = '{"command_id":"c","error":{"code":"email-taken","message":"it is taken","hint":"Use another."}}'

    reply = reply_of(job(OPERATIONS["create"]), ended(1, "", f"es: a note\n{line}\n"))

    assert isinstance(reply, es.Refused)
    assert (reply.code, reply.kind) == ("email-taken", Kind.REFUSED)


@pytest.mark.parametrize("process", [ended(0), ended(-9), ended(1, "", "Traceback"), ended(0, "[1")])
def test_a_process_without_an_answer_leaves_the_outcome_unknown(
    process: subprocess.CompletedProcess[bytes],
) -> None:
    reply = reply_of(job(OPERATIONS["create"]), process)

    assert isinstance(reply, es.Unavailable)
    assert reply.code == "no-answer"
