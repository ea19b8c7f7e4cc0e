"""A request is sent in shell loops: exactly these modules are imported for it, and no library but typer's."""

from __future__ import annotations

import os
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from pathlib import Path

import pytest

from adapters.local.address import listen, socket_path
from adapters.log import open_log
from adapters.settings import Settings, load_settings
from adapters.wiring import open_server, prepare_home
from domain.kernel.messages import Body, Reply, Request
from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S
from workers.runtime.loop import serve

REQUEST = {
    *("es", "es.connection"),
    *("cli", "cli.lazy_group", "cli.main", "cli.render", "cli.session"),
    *("adapters", "adapters.pipeline", "adapters.settings", "adapters.wiring"),
    *("adapters.local", "adapters.local.address", "adapters.local.caller", "adapters.local.frames"),
    *("adapters.local.pipeline",),
    *("domain", "domain.features", "domain.kernel"),
    *("domain.kernel.errors", "domain.kernel.feature", "domain.kernel.messages"),
}
"""The modules of every request. Before you add one, measure what it costs: `python -X importtime`."""

REPLIES: dict[str, Body] = {
    "ids.next": {"ranges": [{"first": "1024", "step": 1024, "count": 1}]},
    "users.get": {"user_id": "1024", "name": "Ada"},
}


class Service:
    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        return [REPLIES[request.kind] for request in batch]

    def close(self) -> None:
        """Nothing is open."""


@pytest.fixture
def settings(tmp_path: Path) -> Iterator[Settings]:
    """A home in which scripted workers serve `ids` and `projections`."""
    settings = load_settings(environment={"ES_HOME": str(tmp_path / "home")})
    prepare_home(settings)
    log, stopping = open_log(tmp_path.name, tmp_path / "log"), threading.Event()
    with ThreadPoolExecutor() as pool, ExitStack() as ending:
        for role in ("ids", "projections"):
            server = open_server(
                settings,
                role,
                listen_fd=listen(socket_path(settings.run, role)).detach(),
                log=log,
                on_serving=lambda: None,
                on_away=lambda _: None,
                describe=dict,
            )
            running = pool.submit(serve, Service(), server, stopping=stopping.is_set, log=log)
            ending.callback(running.result, DEADLINE_S)
        ending.callback(stopping.set)
        yield settings


def modules_of(program: str, *arguments: str, home: Path | None = None) -> set[str]:
    """The modules that a program has imported at its end."""
    code = f"import sys\ntry:\n    {program}\nfinally:\n    print(*sys.modules, file=sys.stderr)"
    environment = {**os.environ, "ES_AUTOSTART": "0", "ES_HOME": str(home)}
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=ROOT,
        env=environment,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )
    assert done.returncode == 0, done
    return set(done.stderr.splitlines()[-1].split())


def own(modules: set[str]) -> set[str]:
    return {
        name for name in modules if name.partition(".")[0] in ("cli", "adapters", "domain", "es", "workers")
    }


def libraries(modules: set[str]) -> set[str]:
    return {name.partition(".")[0] for name in modules} - sys.stdlib_module_names


@pytest.mark.parametrize(
    ("arguments", "more"),
    [
        (
            ("ids", "next"),
            {"cli.ids", "cli.times", "domain.kernel.ids", "domain.lanes", "domain.lanes.limits"},
        ),
        (("users", "get", "1024"), {"cli.users", "cli.readable", "cli.times"}),
    ],
    ids=["ids next", "users get"],
)
def test_a_request_imports_exactly_these_modules(
    settings: Settings, arguments: tuple[str, ...], more: set[str]
) -> None:
    loaded = modules_of("from cli.main import app; app()", *arguments, home=settings.home)

    assert own(loaded) == REQUEST | more


def test_a_request_imports_no_library_that_typer_does_not_import(settings: Settings) -> None:
    smallest = modules_of("import typer; app = typer.Typer(); app.command()(lambda: None); app()")

    loaded = modules_of("from cli.main import app; app()", "ids", "next", home=settings.home)

    ours = {name.partition(".")[0] for name in own(loaded)}
    assert libraries(loaded) - ours <= libraries(smallest)
    assert "typer" in libraries(smallest)
