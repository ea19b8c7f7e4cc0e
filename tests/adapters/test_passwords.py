"""No password is shown, in any spelling of any URL, accepted or refused, in any output."""

from __future__ import annotations

import json
import traceback
from collections.abc import Callable
from contextlib import closing
from functools import partial
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from adapters.settings import Settings, load_settings, without_password
from adapters.wiring import open_caller, open_dead_letters, open_read_model
from domain.kernel.errors import EsError
from tests.support.runs import Ran
from tests.support.system import System
from workers.doctor import examine


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("amqp://es:secret@rabbit:5672/vhost", "amqp://es:***@rabbit:5672/vhost"),
        ("postgresql://es:secret@db/es?sslmode=require", "postgresql://es:***@db/es?sslmode=require"),
        ("esdb://admin:changeit@a:2113,b:2113?tls=true", "esdb://admin:***@a:2113,b:2113?tls=true"),
        ("kurrentdb://admin:changeit@a:2113,b:2113", "kurrentdb://admin:***@a:2113,b:2113"),
        ("kurrentdb+discover://admin:changeit@a:2113", "kurrentdb+discover://admin:***@a:2113"),
        ("amqp://:secret@rabbit", "amqp://:***@rabbit"),
        ("postgresql://h/d?user=u&password=secret", "postgresql://h/d?user=u&password=***"),
        ("postgresql://h/d?sslpassword=secret&user=u", "postgresql://h/d?sslpassword=***"),
        ("postgresql://h/d?passfile=/etc/pass&user=u", "postgresql://h/d?passfile=/etc/pass&user=u"),
        ("postgresql://h/d?user=u&pasword=secret&port=1", "postgresql://h/d?user=u&pasword=***"),
        ("esdb://a:2113?tls=true&foo=secret", "esdb://a:2113?tls=true&foo=***"),
        ("esdb://a:2113?tlsVerifyCert=false", "esdb://a:2113?tlsVerifyCert=false"),
        ("amqp://rabbit/vhost?heartbeat=20&secret", "amqp://rabbit/vhost?heartbeat=20&***"),
        ("amqp://es@rabbit", "amqp://es@rabbit"),
        ("amqp://rabbit:5672", "amqp://rabbit:5672"),
        ("sqlite:/home/me:x@work/es.db", "sqlite:/home/me:x@work/es.db"),
        ("/home/me:x@work", "/home/me:x@work"),
        ("sqlite:", "sqlite:"),
        ("local:", "local:"),
    ],
)
def test_a_url_is_shown_without_its_password(url: str, shown: str) -> None:
    assert without_password(url) == shown


@given(password=st.text(st.characters(exclude_categories=["Cs"]), min_size=8, max_size=20))
@example(password="p@ss/ward:1")
@example(password="a:worker@b")
@example(password="pass\nword")
def test_a_password_of_any_characters_is_hidden(password: str) -> None:
    for written in (password, quote(password, safe="")):
        shown = without_password(f"amqp://worker:{written}@broker.example.com:5672/es")

        assert shown == "amqp://worker:***@broker.example.com:5672/es"


SPELLINGS = [
    "{scheme}://u:canary@127.0.0.1:1/x",
    "{scheme}://u:%63anary@127.0.0.1:1/x",
    "{scheme}://u%3Acanary@127.0.0.1:1/x",
    "{scheme}://:canary@127.0.0.1:1/x",
    "{scheme}://u:canary:b@127.0.0.1:1/x",
    "{scheme}://u:canary@canary@127.0.0.1:1/x",
    "{scheme}://u:a/canary@127.0.0.1:1/x",
    "{scheme}://u:1/canary@127.0.0.1:1/x",
    "{scheme}://u:canary/b@127.0.0.1:1/x",
    "{scheme}://u:canary?b=c@127.0.0.1:1/x",
    "{scheme}://u:1?canary=c@127.0.0.1:1/x",
    "{scheme}://u:canary#b@127.0.0.1:1/x",
    "{scheme}://u:canary[b@127.0.0.1:1/x",
    "{scheme}://u:canary\u2100@127.0.0.1:1/x",
    "{scheme}://u:canary%zz@127.0.0.1:1/x",
    "{scheme}://u:canary%0A@127.0.0.1:1/x",
    "{scheme}://u:ca\nnary@127.0.0.1:1/x",
    "{scheme}://u:canary@127.0.0.1:port/x",
    "{scheme}://u:canary@127.0.0.1:1,127.0.0.1:1/x",
    "{scheme}://u:canary@127.0.0.1:1,u:canary@127.0.0.1:1/x",
    "{scheme}://u@127.0.0.1:1,u:canary@127.0.0.1:1/x",
    "{scheme}://127.0.0.1:1/x?user=u&password=canary",
    "{scheme}://127.0.0.1:1/x?Pass%77ord=canary",
    "{scheme}://127.0.0.1:1/x?sslpassword=a&canary=b",
    "{scheme}://127.0.0.1:1/x?sslpassword=a#canary",
    "{scheme}://127.0.0.1:1/x#password=canary",
    "{scheme}:u:canary@127.0.0.1:1/x",
    "{scheme}:/u:canary@127.0.0.1:1/x",
    "http://u:canary@127.0.0.1/",
    "canary",
]
SCHEMES = {
    "ES_BROKER": ("amqp", "amqps"),
    "ES_STORE": ("esdb", "esdb+discover", "kurrentdb", "kurrentdb+discover"),
    "ES_DATABASE": ("postgresql", "postgres"),
}


def _shown(use: Callable[[], object]) -> str:
    """What `--debug` prints when a part is used, chained exceptions included."""
    try:
        use()
    except EsError as error:
        wire = json.dumps(error.to_wire())
        return "".join([wire, repr(error), *traceback.format_exception(error)])
    return ""


def _ask(settings: Settings) -> None:
    with closing(open_caller(settings)) as caller:
        caller.ask("users", "users.list", {}, timeout_s=0.1)


def _check_store(settings: Settings) -> object:
    """Connecting takes long: the last test does it once."""
    from adapters.eventstoredb.url import checked  # here: it needs an extra

    return checked(settings.store)


USES: dict[str, list[Callable[[Settings], object]]] = {
    "ES_BROKER": [_ask, lambda settings: open_dead_letters(settings, ["users"]).counts()],
    "ES_STORE": [_check_store],
    "ES_DATABASE": [open_read_model],
}


@pytest.mark.parametrize(("variable", "scheme"), [(v, each) for v, all_ in SCHEMES.items() for each in all_])
def test_no_spelling_of_a_url_shows_its_password(variable: str, scheme: str, tmp_path: Path) -> None:
    for spelling in SPELLINGS:
        url = spelling.format(scheme=scheme)
        load = partial(load_settings, environment={"ES_HOME": str(tmp_path), variable: url})
        said = _shown(load)
        if not said:
            settings = load()
            said = "".join(_shown(partial(use, settings)) for use in USES[variable])
            said += "".join(without_password(setting.value) for setting in settings.origins.values())
            if variable != "ES_STORE":
                said += json.dumps(examine(settings))
        assert said
        without_source = "\n".join(line for line in said.splitlines() if not line.startswith("    "))
        assert "canary" not in without_source, url
        assert "ca\nnary" not in said, url


@pytest.mark.over("embedded", because="the URLs of all parts are given")
@pytest.mark.parametrize(
    "command", ["config show", "--debug users list", "--debug doctor --json", "--debug status", "dead list"]
)
def test_no_command_shows_the_password_of_a_url(system: System, command: str) -> None:
    urls = {name: f"{schemes[0]}://u:canary@127.0.0.1:1/x" for name, schemes in SCHEMES.items()}
    ran: Ran = system.es(*command.split(), environment={**urls, "ES_AUTOSTART": "0", "ES_BROKR": "canary"})

    assert "canary" not in ran.out + ran.err
    assert "ES_BROKR is no setting and was ignored; did you mean ES_BROKER?" in ran.err
    if "users" in command:
        assert "127.0.0.1:1, virtual host 'x'" in ran.err
        assert "`ES_BROKER`" in ran.err
