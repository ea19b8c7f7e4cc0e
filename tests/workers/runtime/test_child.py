"""A worker that cannot be started, or that ends before it has a log."""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from adapters.log import Log
from adapters.settings import Settings, load_settings
from adapters.wiring import prepare_home
from domain.kernel.messages import Body
from tests.support.waiting import DEADLINE_S, eventually
from workers.runtime.child import Child


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    settings = load_settings(
        environment={"ES_HOME": str(tmp_path / "home"), "ES_BROKER": "amqp://127.0.0.1:1/"}
    )
    prepare_home(settings)
    return settings


@pytest.fixture
def child(settings: Settings, log: Log) -> Iterator[Child]:
    child = Child("ids", 1, settings=settings, listening=None, log=log)
    yield child
    child.terminate()
    child.end(DEADLINE_S)


def tended(child: Child, state: str) -> Body:
    """The worker's description once it has a state."""

    def described() -> Body | None:
        child.tend(time.monotonic())
        found = child.describe(time.monotonic())
        return found if found["state"] == state else None

    return eventually(described, state)


def test_a_worker_that_cannot_be_started_fails_until_it_can(
    child: Child, log_file: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as patch:
        patch.setattr(sys, "executable", "/missing/python")
        found = tended(child, "failing")

    assert found["last_error"]["code"] == "worker-not-started"
    assert "No such file" in found["last_error"]["message"]
    assert "worker-not-started" in log_file.read_text()
    tended(child, "waiting")  # for its broker: it runs


def test_a_worker_killed_by_a_signal_without_a_name_is_restarted(child: Child) -> None:
    os.kill(tended(child, "waiting")["pid"], 40)

    assert tended(child, "restarting")["last_error"]["message"] == "killed by signal 40"
    tended(child, "waiting")


def test_a_worker_that_starts_again_keeps_its_last_error_until_it_is_ready(
    child: Child, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(
        f"""#!/bin/sh
        cd {tmp_path}
        if mkdir started; then
            echo '{{"state": "failing", "error": {{"code": "key", "message": "no key"}}}}' >&2; exit 1
        fi
        echo '{{"state": "starting", "error": null}}' >&2; touch told
        until test -e fixed; do sleep 0.02; done
        echo '{{"state": "ready", "error": null}}' >&2; exec sleep 60
        """
    )
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))
    tended(child, "failing")

    tended(child, "starting")
    eventually((tmp_path / "told").exists, "it reported that it starts")
    assert tended(child, "starting")["last_error"]["message"] == "no key"

    (tmp_path / "fixed").touch()
    assert tended(child, "ready")["last_error"] is None


def test_the_last_words_of_a_worker_without_a_log_are_in_its_log(
    child: Child, settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    python = tmp_path / "python"
    python.write_text(
        "#!/bin/sh\necho Traceback >&2; printf 'ImportError: no module' >&2; echo x >&2; exit 3\n"
    )
    python.chmod(0o700)
    monkeypatch.setattr(sys, "executable", str(python))

    found = tended(child, "failing")

    assert found["last_error"]["message"] == "ended with status 3: ImportError: no modulex"
    (line,) = (settings.log / "ids.log").read_text().splitlines()
    assert (
        json.loads(line).items()
        >= {"action": "worker-not-loaded", "said": ["Traceback", "ImportError: no modulex"]}.items()
    )
