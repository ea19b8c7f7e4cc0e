"""Files that other users can change, or that belong to another user, are refused by name with the cure."""

from __future__ import annotations

import os
import shlex
import subprocess
from pathlib import Path

import pytest

from adapters.settings import NotPrivate, Settings, check_private, load_settings, open_parents
from adapters.wiring import open_vault, prepare_home
from domain.kernel.errors import KeyUnavailable
from workers.doctor import examine

OTHER = 54321
"""A user id without a name."""


def _settings(home: Path) -> Settings:
    return load_settings(environment={"ES_HOME": str(home)})


@pytest.fixture
def home(tmp_path: Path) -> Path:
    """A home that was used."""
    folder = tmp_path / "home"
    prepare_home(_settings(folder))
    open_vault(_settings(folder)).close()
    (folder / "es.toml").touch(0o600)
    (folder / "log" / "users.log").touch(0o600)
    return folder


def _use(home: Path) -> None:
    """Open what a worker opens."""
    settings = _settings(home)
    prepare_home(settings)
    open_vault(settings).close()


PLACES = [".", "es.toml", "run", "log", "log/users.log", "secrets", "secrets/kek"]
LINKABLE = [place for place in PLACES if place != "log/users.log"]
"""A log file that is a link is refused for that alone."""


@pytest.mark.parametrize("place", PLACES)
@pytest.mark.parametrize("mode", [0o002, 0o020], ids=["others", "group"])
def test_what_others_can_write_to_is_refused_until_the_cure_was_run(
    home: Path, place: str, mode: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("adapters.settings._is_own_group", lambda _: False)
    path = home / place
    path.chmod(path.stat().st_mode | mode)

    with pytest.raises((NotPrivate, KeyUnavailable), match="can be changed by other users") as refused:
        _use(home)

    assert f"{path} " in str(refused.value)
    subprocess.run(shlex.split(refused.value.hint.split("`")[1]), check=True)
    _use(home)


@pytest.mark.parametrize(
    ("place", "linked"), [*((each, False) for each in PLACES), *((each, True) for each in LINKABLE)]
)
def test_what_belongs_to_another_user_is_refused(
    home: Path, place: str, linked: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = home / place
    if linked:
        path = path.resolve().rename(home.parent / "elsewhere")
        (home / place).symlink_to(path)
    if os.geteuid() == 0:
        os.chown(path, OTHER, -1)
    else:
        monkeypatch.setattr(os, "geteuid", lambda: OTHER)

    with pytest.raises((NotPrivate, KeyUnavailable), match="belongs to the user") as refused:
        _use(home)

    assert "chown" in refused.value.hint


def test_root_may_own_what_a_user_obeys(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A mounted secret, or settings that an administrator wrote."""
    if os.geteuid() != 0:
        pytest.skip("needs files of root")
    monkeypatch.setattr(os, "geteuid", lambda: OTHER)

    _use(home)

    assert {path.stat().st_uid for path in home.rglob("*")} == {0}, "the premise: root owns all of it"


def test_a_log_file_that_is_a_link_is_refused(home: Path) -> None:
    victim = home.parent / "victim"
    victim.touch()
    (home / "log" / "ids.log").symlink_to(victim)

    with pytest.raises(NotPrivate, match=r"ids\.log is a symbolic link"):
        prepare_home(_settings(home))


def test_a_group_of_one_user_may_write_as_under_a_umask_of_002(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tmp_path.chmod(0o775)
    if os.geteuid() == 0:
        check_private("it", tmp_path)  # the group root of the user root
        os.chown(tmp_path, -1, OTHER)
    else:
        monkeypatch.setattr("adapters.settings._is_own_group", lambda _: False)

    with pytest.raises(NotPrivate, match="mode 0775"):
        check_private("it", tmp_path)


def test_a_sticky_folder_may_hold_the_key_but_is_no_home(home: Path) -> None:
    (home / "secrets").chmod(0o1777)  # as Kubernetes mounts secrets
    _use(home)

    home.chmod(0o1777)
    with pytest.raises(NotPrivate, match="mode 1777"):
        _use(home)


def test_folders_above_the_home_that_others_can_write_to_are_a_finding(home: Path) -> None:
    home.parent.chmod(0o1777)
    assert str(home.parent) not in open_parents(home)

    home.parent.chmod(0o777)

    found = [each for each in examine(_settings(home)) if each["part"] == "home"]
    assert str(home.parent) in found[0]["next"]
    assert [each["state"] for each in found] == ["warning", "ok"]


@pytest.mark.parametrize("mode", [0o440, 0o604])
def test_a_key_that_others_can_read_is_a_finding_and_no_refusal(home: Path, mode: int) -> None:
    (home / "secrets" / "kek").chmod(mode)

    found = {each["part"]: each for each in examine(_settings(home))}

    assert (found["key"]["state"], found["vault"]["state"]) == ("warning", "ok")
    subprocess.run(shlex.split(found["key"]["next"].split("`")[1]), check=True)
    assert "key" not in {each["part"] for each in examine(_settings(home))}
