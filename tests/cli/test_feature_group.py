"""The derived group of an outside feature: one with two aggregates, optional inputs, and one without projections."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Annotated, Any, ClassVar

import pytest
from typer.testing import CliRunner

import es
from cli import main, session
from cli.feature_group import group_of
from domain.features import Registry
from domain.kernel.messages import Body


@es.event("cart-begun.v1")
class CartBegun(es.Event):
    note: str


@es.command("carts.begin", creates=True)
class BeginCart(es.Command):
    """Begin a cart."""

    cart_id: es.Id
    note: es.Text = "none"


@es.command("carts.tag", done="tagged cart {cart_id}")
class TagCart(es.Command):
    """Tag a cart."""

    cart_id: es.Id
    tag: es.Text
    is_loud: es.Flag = False


@es.command("carts.ship", question="Ship it?")
class Ship(es.Command):
    """Ship a parcel."""

    parcel_id: es.Id
    source: es.Text
    speed: Annotated[str, es.choice(("slow", "fast"), "How fast.")]


@dataclass(frozen=True)
class State:
    note: str = ""


def aggregate(name: str, *commands: type[es.Command]) -> es.Aggregate[State, Any]:
    return es.Aggregate(
        name=name,
        initial=State(),
        evolve=lambda _, __: State("x"),
        decide=lambda _, __: [],
        commands=commands,
    )


class Carts(es.Projection):
    name = "carts"
    prefixes = ("cart-",)
    key = "cart_id"
    columns: ClassVar[dict[str, str]] = {"note": "TEXT"}


AGGREGATES = (aggregate("cart", BeginCart, TagCart), aggregate("parcel", Ship))
PROJECTIONS = (Carts(),)
FEATURE = es.Feature(name="carts", help="Carts.", model=__name__, roles=(es.Role("carts"),))
Run = Callable[..., Any]


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, str, Body]]:
    """The requests of the group. Each is answered with one object for all."""
    requests: list[tuple[str, str, Body]] = []

    def ask(role: str, kind: str, body: Mapping[str, Any], **_: object) -> Body:
        requests.append((role, kind, dict(body)))
        return {"cart_id": "7", "version": 1, "position": 2}

    def listed(kind: str, body: Mapping[str, Any], name: str) -> list[Body]:
        requests.append(("projections", kind, dict(body)))
        return []

    monkeypatch.setattr(session, "ask", ask)
    monkeypatch.setattr(session, "listed", listed)
    return requests


@pytest.fixture
def run(asked: list[tuple[str, str, Body]]) -> Run:
    app = group_of(FEATURE, Registry((FEATURE,)))
    return lambda *words: CliRunner().invoke(app, words)


def inputs(asked: list[tuple[str, str, Body]]) -> list[Body]:
    return [body["input"] for _, _, body in asked]


def test_the_main_aggregate_has_the_plain_names(run: Run, asked: list[tuple[str, str, Body]]) -> None:
    for words in (("get", "7"), ("get", "7", "--version", "3"), ("get", "7", "--at", "1970-01-02")):
        assert run(*words, "--json").exit_code == 0
    run("history", "7")

    assert [(kind, {name: body.get(name) for name in ("key", "id", "of", "version", "at_us")}) for _, kind, body in asked] == [
        ("carts.get", {"key": "7", "id": None, "of": None, "version": None, "at_us": None}),
        ("carts.state", {"key": None, "id": "7", "of": None, "version": 3, "at_us": None}),
        ("carts.state", {"key": None, "id": "7", "of": None, "version": None, "at_us": 86_400_000_000}),
        ("carts.history", {"key": None, "id": "7", "of": None, "version": None, "at_us": None}),
    ]  # fmt: skip


def test_of_names_another_aggregate(run: Run, asked: list[tuple[str, str, Body]]) -> None:
    run("get", "9", "--of", "parcel")
    run("history", "9", "--of", "parcel")
    run("get", "9", "--of", "cart")

    assert [(kind, body.get("of")) for _, kind, body in asked] == [
        ("carts.state", "parcel"),
        ("carts.history", "parcel"),
        ("carts.get", None),
    ]
    assert "cart, parcel" in run("get", "--help").output


def test_a_feature_with_one_aggregate_does_not_show_the_option() -> None:
    known = Registry((es.Feature(name="shelves", help="x", model="tests.support.shelves"),))

    shown = CliRunner().invoke(group_of(known.features[0], known), ["get", "--help"]).output
    assert "--of" not in shown
    assert "--at" in shown


def test_an_input_with_a_default_is_an_option_that_may_be_left_out(
    run: Run, asked: list[tuple[str, str, Body]]
) -> None:
    assert run("begin", "--cart-id", "7").exit_code == 0
    assert run("begin", "--cart-id", "7", "--note", "mine").exit_code == 0
    assert run("tag", "7", "red").exit_code == 0
    assert run("tag", "7", "red", "--is-loud", "true").exit_code == 0

    assert inputs(asked) == [
        {"cart_id": "7"},
        {"cart_id": "7", "note": "mine"},
        {"cart_id": "7", "tag": "red"},
        {"cart_id": "7", "tag": "red", "is_loud": "true"},
    ]
    assert "Example: es carts tag 252562058352301107 TAG" in " ".join(run("tag", "--help").output.split())


def test_a_command_of_any_aggregate_goes_to_the_role(run: Run, asked: list[tuple[str, str, Body]]) -> None:
    done = run("ship", "9", "home", "fast", "--json")

    assert json.loads(done.output)["position"] == 2
    assert [(role, kind) for role, kind, _ in asked] == [("carts", "carts.ship")]
    assert inputs(asked) == [{"parcel_id": "9", "source": "home", "speed": "fast"}]


def test_a_missing_input_is_named_and_an_optional_one_is_not(run: Run) -> None:
    missing = run("tag", "7")

    assert str(missing.exception) == "TAG is missing"
    assert str(run("begin").exception) == "--cart-id CART_ID is missing"


def test_without_a_projection_get_shows_the_folded_state(asked: list[tuple[str, str, Body]]) -> None:
    class Bare(Registry):
        def projections_of(self, feature: es.Feature) -> tuple[es.Projection, ...]:
            return ()

    app = group_of(FEATURE, Bare((FEATURE,)))

    assert CliRunner().invoke(app, ["get", "7"]).exit_code == 0
    assert [kind for _, kind, _ in asked] == ["carts.state"]
    assert CliRunner().invoke(app, ["list"]).exit_code == 2


def test_a_group_of_its_own_that_cannot_be_imported_is_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    module = ModuleType("shops_of_acme")
    vars(module)["FEATURE"] = es.Feature(name="shops", help="Shops.", cli="no_such_cli")
    monkeypatch.setitem(sys.modules, module.__name__, module)
    monkeypatch.setenv("ES_HOME", str(tmp_path))
    monkeypatch.setenv("ES_FEATURES", module.__name__)

    failed = CliRunner().invoke(main.app, ["shops", "list"])

    assert failed.exit_code == 2
    assert "name no_such_cli, which cannot be imported: ModuleNotFoundError" in failed.output
