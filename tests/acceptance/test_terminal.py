"""What a user sees on a terminal of 80 and of 40 columns. Pipes and --json get the same values as ever."""

from __future__ import annotations

import pytest
from rich.cells import cell_len

from tests.support.system import System
from tests.support.terminal import on_terminal, plain

no_request_is_sent = pytest.mark.over("embedded", because="no request is sent")
same_everywhere = pytest.mark.over("embedded", because="the terminal is the same in every profile")


@pytest.mark.parametrize("columns", [80, 40])
@same_everywhere
def test_tables_fit_and_say_what_they_lack(shared: System, columns: int) -> None:
    user_id = shared.create(f"{'wide' * 12}{columns}@example.com", "日本語の名前 👩‍👩‍👧 " * 4)

    for command in (
        ("users", "list", "--fresh", "--after", str(int(user_id) - 1)),
        ("users", "history", user_id),
        ("status",),
        ("ids", "lanes"),
        ("projections", "status"),
        ("streams", "read", f"user-{user_id}"),
    ):
        shown = plain(on_terminal(shared, *command, columns=columns).ok().out)
        lines = [line for line in shown.splitlines() if str(shared.home) not in line]  # a path can be copied
        assert max(map(cell_len, lines)) <= columns, shown
    listed = plain(on_terminal(shared, "users", "list", columns=columns).ok().out)
    assert "No room for: version, registered_at" in listed


@no_request_is_sent
def test_a_cure_is_whole_below_the_table(system: System) -> None:
    system.home.mkdir(parents=True)
    path = f"{system.root}/{'long' * 30}"

    shown = on_terminal(system, "doctor", columns=40, environment={"ES_KEK_FILE": path}).out

    assert path in plain(shown).replace("\n", "")
    assert "  next: " in plain(shown)
    assert "\x1b[1;31mfailed\x1b[0m" in shown
