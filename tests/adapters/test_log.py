"""Log lines: JSON with a stable action, rotated files, and no personal value, not even in a traceback."""

from __future__ import annotations

import json
import logging
import shutil
from pathlib import Path
from typing import Any
from uuid import UUID

import pytest

from adapters.log import Log, describe, open_log
from domain.kernel.errors import InvalidInput, PartUnavailable
from domain.kernel.personal import Personal
from domain.users.commands import RegisterUser
from domain.users.errors import EmailTaken, UserNotFound

CANARY = "canary-5f1d@example.com"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log" / "users.log"


@pytest.fixture
def log(path: Path) -> Log:
    return open_log("users", path)


def lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def _raised(error: Exception) -> Exception:
    """An exception that was raised by code with personal local values."""
    value = CANARY
    try:
        assert value
        raise error
    except Exception as caught:
        return caught


def test_a_line_has_a_time_a_level_the_worker_and_an_action(log: Log, path: Path) -> None:
    log.info("ready", role="users", position=7)

    (line,) = lines(path)
    assert line.pop("time").endswith("Z")
    assert line == {"level": "info", "worker": "users", "action": "ready", "role": "users", "position": 7}


def test_every_level_is_logged(log: Log, path: Path) -> None:
    log.info("one")
    log.warning("two")
    log.error("three", EmailTaken())

    found = [(line["action"], line["level"]) for line in lines(path)]
    assert found == [("one", "info"), ("two", "warning"), ("three", "error")]


def test_an_error_of_this_project_is_logged_with_its_message(log: Log, path: Path) -> None:
    log.error("batch-failed", PartUnavailable("vault", "it is down"), requests=3)

    (line,) = lines(path)
    assert (line["error"], line["message"]) == ("unavailable", "vault is unavailable: it is down")
    assert line["requests"] == 3


def test_another_exception_is_logged_with_its_type_and_places_only(log: Log, path: Path) -> None:
    log.error("batch-crashed", _raised(ValueError(f"could not parse {CANARY}")))

    text = path.read_text()
    assert CANARY not in text
    (line,) = lines(path)
    assert line["error"] == "ValueError"
    assert line["at"] == [f"test_log.py:{_line_of_raise()} _raised"]
    assert "message" not in line


def _line_of_raise() -> int:
    code = Path(__file__).read_text().splitlines()
    return code.index("        raise error") + 1


def test_the_cause_of_an_exception_is_not_logged(log: Log, path: Path) -> None:
    error = RuntimeError("outer")
    error.__cause__ = ValueError(CANARY)
    error.add_note(f"while at {CANARY}")

    log.error("batch-crashed", _raised(error))
    log.error("batch-failed", _raised(UserNotFound(7)))

    assert CANARY not in path.read_text()


@pytest.mark.parametrize(
    "error",
    [
        KeyError(CANARY),
        UnicodeEncodeError("ascii", CANARY, 0, 1, "no"),
        json.JSONDecodeError("no", CANARY, 0),
        OSError(2, "no", CANARY),
        AssertionError(CANARY),
        type(CANARY[:6], (Exception,), {})(CANARY),
    ],
    ids=lambda error: type(error).__name__,
)
def test_no_exception_reveals_the_value_that_it_failed_on(log: Log, path: Path, error: Exception) -> None:
    log.error("batch-crashed", _raised(error))

    assert CANARY not in path.read_text()
    assert CANARY not in json.dumps(describe(error))


def test_personal_values_are_hidden_in_fields(log: Log, path: Path) -> None:
    command = RegisterUser(1, Personal(CANARY), Personal("Canary Bird"))

    log.info("odd", value=Personal(CANARY), command=command, listed=[Personal(CANARY)])

    text = path.read_text()
    assert CANARY not in text
    assert "Canary" not in text
    assert "Personal(…)" in text


def test_an_input_error_is_logged_with_its_message(log: Log, path: Path) -> None:
    log.error("refused", InvalidInput("email", "is not an e-mail address like ada@example.com"))

    assert lines(path)[0]["message"].startswith("email is not")


@pytest.mark.parametrize(
    "value",
    ['two\nlines "quoted"', "☃ 🎉", "\x00\x1b[31mred", UUID(int=7), Path("/x"), {"a": [1, None]}, 1.5, None],
    ids=repr,
)
def test_any_field_makes_one_line_of_json(log: Log, path: Path, value: object) -> None:
    log.info("odd", value=value)

    (line,) = lines(path)
    assert line["value"] in (value, str(value))


def test_a_field_that_cannot_be_encoded_is_still_logged(
    log: Log, path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log.info("odd", kind="\ud800")
    log.info("next")

    assert [line["action"] for line in lines(path)] == ["odd", "next"]
    assert capsys.readouterr().err == ""


def test_a_log_is_rotated_and_three_old_files_are_kept(log: Log, path: Path) -> None:
    for number in range(450):
        log.info("filling", number=number, pad="x" * 60_000)

    files = sorted(file.name for file in path.parent.iterdir())
    assert files == ["users.log", "users.log.1", "users.log.2", "users.log.3"]
    assert all(file.stat().st_size <= 5_000_000 for file in path.parent.iterdir())
    assert lines(path)[-1]["number"] == 449


def test_without_a_file_lines_are_written_to_standard_error(capsys: pytest.CaptureFixture[str]) -> None:
    open_log("foreground", None).info("ready")

    captured = capsys.readouterr()
    assert json.loads(captured.err)["action"] == "ready"
    assert captured.out == ""


def test_a_log_that_is_opened_twice_writes_each_line_once(path: Path) -> None:
    open_log("users", path)
    open_log("users", path).info("once")

    assert len(lines(path)) == 1


def test_other_loggers_are_not_changed(log: Log, path: Path) -> None:
    root = list(logging.getLogger().handlers)
    log.info("here")

    assert logging.getLogger().handlers == root
    assert logging.getLogger("users").propagate is False
    assert len(lines(path)) == 1


# --- a file that was removed -----------------------------------------------------------------


@pytest.mark.parametrize("remove", ["file", "folder", "moved"])
def test_a_log_that_was_removed_is_opened_again(log: Log, path: Path, remove: str) -> None:
    log.info("before")
    if remove == "file":
        path.unlink()
    elif remove == "folder":
        shutil.rmtree(path.parent)
    else:
        path.rename(path.with_suffix(".old"))

    log.info("after")
    log.info("then")

    assert [line["action"] for line in lines(path)] == ["after", "then"]
    assert path.parent.stat().st_mode & 0o077 == 0


@pytest.mark.parametrize("is_replaced", [False, True])
def test_nothing_is_created_where_the_home_was(tmp_path: Path, is_replaced: bool) -> None:
    home = tmp_path / "home"
    log = open_log("users", home / "log" / "users.log")
    log.info("before")
    home.rename(tmp_path / "moved")
    if is_replaced:
        home.mkdir()

    log.info("after")

    assert not home.exists() or not [*home.iterdir()]
    moved = lines(tmp_path / "moved" / "log" / "users.log")
    assert [line["action"] for line in moved] == ["before", "after"]
