"""A list that is cut says so on standard error, and the command that it names shows the rest."""

from __future__ import annotations

import re
import shlex

import pytest

from tests.support.people import people
from tests.support.system import System
from tests.support.terminal import on_terminal, plain
from tests.support.waiting import eventually

pytestmark = pytest.mark.usually_over("embedded", because="it is about the command line")

MORE = re.compile(r"es: there are more than these (\d+)(?: \((\d+) in all\))?; the others: es (.*)")


def following(shown: str) -> list[str] | None:
    """The arguments of the command that shows the rest."""
    found = MORE.search(shown)
    return shlex.split(found[3]) if found else None


@pytest.mark.parametrize("listing", ["users list", "streams list --prefix user-"])
def test_a_list_cut_by_the_default_limit_names_the_command_for_the_rest(shared: System, listing: str) -> None:
    shared.bulk("create", people(101, prefix=listing.partition(" ")[0])).ok()
    shared.caught_up()
    everything = shared.es(*listing.split(), "--limit", "1000").ok()
    assert everything.err == "", "a script that chose its limit counts its rows"
    known = str(len(everything.lines)) if listing == "users list" else None

    def is_told() -> bool:
        remark = MORE.search(shared.es(*listing.split()).ok().err)
        assert remark is not None
        return remark[2] == known

    eventually(is_told, "the number of all rows is told")  # not while a busy machine counts too slowly

    lines: list[str] = []
    command: list[str] | None = listing.split()
    while command is not None:
        ran = shared.es(*command).ok()
        lines += ran.lines
        command = following(ran.err)

    assert len(lines) > 100
    assert lines == everything.lines


@pytest.mark.over("embedded", because="the terminal is the same in every profile")
def test_a_terminal_is_told_at_every_limit(shared: System) -> None:
    user_id = shared.create("long@example.com", "Long")
    for name in ("Longer", "Longest"):
        shared.es("users", "rename", user_id, name).ok()
    read = ("streams", "read", f"user-{user_id}", "--limit")

    def rest_of(*command: str) -> list[str] | None:
        return following(plain(on_terminal(shared, *command, columns=200).ok().out))

    assert rest_of(*read, "3") is None
    assert rest_of(*read, "2") == [*read[:3], "--from", "2", "--limit", "2"]
    assert rest_of(*read, "2", "--backwards") == [*read, "2"]
    assert rest_of(*read, "3", "--backwards") is None
