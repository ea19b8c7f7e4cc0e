"""What the registry refuses of a feature: each mistake by module, class and field, with what to do."""

from __future__ import annotations

from dataclasses import dataclass, replace
from enum import StrEnum
from types import NoneType
from typing import Annotated, Any, ClassVar, Literal

import pytest

import cli.main
import es
from domain.features import registry
from domain.kernel.errors import InvalidSetting
from domain.kernel.personal import Of
from domain.kernel.projection import Projection
from domain.registration import RESERVED_FEATURES, Parts, refuse
from tests.support.shelves import FEATURE, SHELF, Labels, Shelves

# --- a sound feature, and mistakes -----------------------------------------------------------


class Colour(StrEnum):
    RED = "red"


@es.event("box-made.v1")
class BoxMade(es.Event):
    label: str
    sizes: list[int]
    notes: dict[str, str | None]
    kind: Literal["big", "small"]
    owner_id: int
    owner: Annotated[es.PersonalText, Of("owner_id")]
    anything: Any


@es.event("box-coloured.v1")
class BoxColoured(es.Event):
    colour: Colour


@es.event("box-numbered.v1")
class BoxNumbered(es.Event):
    numbers: tuple[int, ...]


@es.event("box-sent.v1")
class BoxSent(es.Event):
    recipient: es.PersonalText


@es.command("boxes.make", creates=True)
class MakeBox(es.Command):
    box_id: es.Id
    label: es.Text


@es.command("boxes.fill")
class FillNothing(es.Command):
    label: es.Text


@es.command("boxes.weigh")
class WeighBox(es.Command):
    box_id: es.Id
    grams: int


@es.command("boxes.open")
class OpenBox(es.Command):
    box_id: Annotated[int, es.whole(1, 9)] = 1


@es.command("boxes.list")
class ListBoxes(es.Command):
    box_id: es.Id


@es.command("crates.make")
class MakeCrate(es.Command):
    box_id: es.Id


@es.command("boxes.print")
class PrintBox(es.Command):
    box_id: es.Id
    json: es.Flag


class NoCommandDataclass(es.Command):
    box_id: es.Id
    wire: ClassVar[str] = "plain"
    request: ClassVar[str] = "boxes.plain"


@dataclass(frozen=True)
class Box:
    label: str = ""


def evolve(box: Box, event: es.Event) -> Box:
    match event:
        case BoxMade(label=label):
            return Box(label)
    return box


def strict(box: Box, event: es.Event) -> Box:
    raise ValueError("unknown event")


BOX: es.Aggregate[Box, Any] = es.Aggregate(
    name="box", initial=Box(), evolve=evolve, decide=lambda _, __: [], events=(BoxMade,), commands=(MakeBox,)
)


class Boxes(Projection):
    name = "boxes"
    prefixes = ("box-",)
    key = "box_id"
    columns: ClassVar[dict[str, str]] = {"label": "TEXT"}


def projection(**changes: object) -> Projection:
    made: type[Projection] = type("Changed", (Boxes,), changes)
    return made()


def parts(
    *aggregates: es.Aggregate[Any, Any],
    projections: Any = (),
    feature: es.Feature | None = None,
    module: str = "boxes_of_acme",
) -> Parts:
    return Parts(
        module=module,
        feature=feature or es.Feature(name="boxes", roles=(es.Role("boxes"),)),
        aggregates=aggregates,
        events=[event for aggregate in aggregates for event in aggregate.events],
        upcasters={name: each for aggregate in aggregates for name, each in aggregate.upcasters.items()},
        projections=projections,
    )


SHELVES = Parts(
    module="shelves_of_acme",
    feature=FEATURE,
    aggregates=(SHELF,),
    events=SHELF.events,
    upcasters=SHELF.upcasters,
    projections=(Shelves(), Labels()),
)


def refused(new: Parts) -> InvalidSetting:
    with pytest.raises(InvalidSetting) as raised:
        refuse(new, [*registry().parts(), SHELVES])
    assert str(raised.value).startswith("features name boxes_of_acme, wh")
    assert raised.value.hint.endswith(".")
    return raised.value


def test_a_sound_feature_is_accepted() -> None:
    refuse(parts(BOX, projections=(Boxes(),)), [*registry().parts(), SHELVES])


def test_every_built_in_feature_passes_the_same_checks() -> None:
    built_in = registry().parts()

    assert sum(len(each.aggregates) for each in built_in) >= 1
    for number, each in enumerate(built_in):
        refuse(each, built_in[:number] + built_in[number + 1 :])


def test_the_names_of_es_commands_are_reserved() -> None:
    assert {*cli.main.TOOLS, *cli.main.COMMANDS} <= RESERVED_FEATURES


# --- names and streams -----------------------------------------------------------------------


def test_both_features_of_one_event_are_named() -> None:
    same = replace(BOX, events=(BoxMade, *SHELF.events), evolve=strict)

    assert str(refused(parts(same))).endswith(
        "declares the event 'shelf-opened.v1', but shelves_of_acme has it already"
    )


def test_an_event_that_has_an_upcaster_elsewhere_is_taken() -> None:
    older = replace(BOX, upcasters={"shelf-closed.v1": lambda data: ("box-made.v1", data)})

    assert "the event 'shelf-closed.v1'" in str(refused(parts(older)))


@pytest.mark.parametrize(
    ("name", "owner"),
    [
        ("shelf-x", "the aggregate shelf of shelves_of_acme: shelf-…"),
        ("user-group", "the aggregate user of users: user-…"),
        ("process", "a built-in part: process-…"),
        ("process-log", "a built-in part: process-…"),
        ("system", "a built-in part: system-…"),
        ("created", "a built-in part: created-…"),
        ("created-thing", "a built-in part: created-…"),
        ("lane", "a built-in part: lane-…"),
        ("ids-worker", "a built-in part: ids-…"),
    ],
)
def test_streams_like_those_of_another_part_are_refused(name: str, owner: str) -> None:
    assert str(refused(parts(replace(BOX, name=name, commands=())))).endswith(f"like those of {owner}")


def test_a_prefix_of_its_own_other_aggregate_is_refused() -> None:
    other = replace(BOX, name="box-lid", events=(), commands=())

    assert "like those of its aggregate box: box-…" in str(refused(parts(BOX, other)))


@pytest.mark.parametrize("name", ["Box", "", "b ox", "$box", "box_", "box-"])
def test_an_aggregate_without_a_plain_name_is_refused(name: str) -> None:
    assert "has no such name" in str(refused(parts(replace(BOX, name=name))))


@pytest.mark.parametrize(
    ("feature", "said"),
    [
        (es.Feature(name="status"), "'status' has the name of a command of `es`"),
        (es.Feature(name="users"), "the feature 'users'"),
        (es.Feature(name="boxes", roles=(es.Role("supervisor"),)), "role 'supervisor' has a reserved name"),
        (es.Feature(name="boxes", roles=(es.Role("../x"),)), "'../x' has no name"),
        (es.Feature(name="boxes", roles=(es.Role("ids"),)), "the role 'ids'"),
    ],
)
def test_a_reserved_or_taken_feature_or_role_is_refused(feature: es.Feature, said: str) -> None:
    assert said in str(refused(parts(feature=feature)))


# --- events, evolve and commands -------------------------------------------------------------


@pytest.mark.parametrize(
    ("event", "field"), [(BoxColoured, "BoxColoured.colour"), (BoxNumbered, "BoxNumbered.numbers")]
)
def test_a_field_of_an_event_that_is_no_json_value_is_named(event: type[es.Event], field: str) -> None:
    found = refused(parts(replace(BOX, events=(BoxMade, event), evolve=strict)))

    assert f"whose field {__name__}.{field} is no JSON value" in str(found)


def test_a_personal_field_without_a_person_is_named() -> None:
    error = refused(parts(replace(BOX, events=(BoxMade, BoxSent), evolve=strict)))

    assert "BoxSent.recipient is personal without a person" in error.reason
    assert 'Of("…")' in error.hint


def test_a_second_aggregate_of_persons_is_refused() -> None:
    assert "only the data of users can be erased" in refused(parts(replace(BOX, is_person=True))).reason


def test_an_event_that_evolve_ignores_is_named() -> None:
    found = refused(parts(replace(BOX, events=(BoxMade, *SHELF.events[:0], NoteTaken))))

    assert f"aggregate box has no case in `evolve` for the event {__name__}.NoteTaken" in str(found)
    assert "`unfolded`" in found.hint


def test_an_event_in_unfolded_may_be_ignored() -> None:
    refuse(parts(replace(BOX, events=(BoxMade, NoteTaken), unfolded=(NoteTaken,))), [])


def test_an_evolve_that_reads_the_fields_has_a_case() -> None:
    def adding(total: int, event: es.Event) -> int:
        return total + len(event.text) if isinstance(event, NoteTaken) else total

    summed: es.Aggregate[int, Any] = es.Aggregate(
        name="box", initial=0, evolve=adding, decide=lambda _, __: [], events=(NoteTaken,)
    )

    refuse(parts(summed), [])


@es.event("note-taken.v1")
class NoteTaken(es.Event):
    text: str


@pytest.mark.parametrize(
    ("command", "said"),
    [
        (FillNothing, "FillNothing is sent to an instance and has no input box_id"),
        (WeighBox, "WeighBox.grams has no parser"),
        (OpenBox, "OpenBox.box_id has a default"),
        (ListBoxes, "ListBoxes takes the name 'list' of a query"),
        (MakeCrate, "MakeCrate has the request 'crates.make', not boxes.…"),
        (NoCommandDataclass, "NoCommandDataclass is no dataclass"),
        (PrintBox, "PrintBox.json has the name of an option of every `es` command"),
    ],
)
def test_a_command_that_could_not_be_handled_is_named(command: type[es.Command], said: str) -> None:
    assert said in str(refused(parts(replace(BOX, commands=(command,)))))


@pytest.mark.parametrize("default", [{}, {"box_id": 0}], ids=["without a default", "with a default"])
def test_a_creating_command_may_leave_its_id_to_a_role_that_needs_ids(default: dict[str, int]) -> None:
    names = {"__annotations__": {"box_id": int}, **default}
    draws: type[es.Command] = es.command("boxes.make", creates=True)(type("DrawBox", (es.Command,), names))
    box = replace(BOX, commands=(draws,))

    refuse(parts(box, feature=es.Feature(name="boxes", roles=(es.Role("boxes", needs=("ids",)),))), [])

    assert "role 'boxes' does not need `ids`" in str(refused(parts(box)))


def test_a_creating_command_needs_the_id_of_what_it_creates() -> None:
    fails: type[es.Command] = es.command("boxes.make", creates=True)(type("MakeNothing", (es.Command,), {}))

    assert "MakeNothing creates an instance and has no input box_id" in str(
        refused(parts(replace(BOX, commands=(fails,))))
    )


@pytest.mark.parametrize(
    ("rules", "said"),
    [
        (
            [es.Unique("label", ("label",), taken_by=(NoteTaken,))],
            "names tests.domain.test_registration.NoteTaken, which is",
        ),
        (
            [es.Unique("label", ("colour",), taken_by=(BoxMade,))],
            "is taken by no command: none has the inputs colour",
        ),
        ([es.Unique("label", ("label",), taken_by=(BoxMade,))] * 2, "has two unique values 'label'"),
        ([es.Unique("label", ("label",), taken_by=(BoxMade,), person="owner")], "but has no owner"),
    ],
    ids=["event", "inputs", "twice", "person"],
)
def test_a_unique_value_that_could_not_be_kept_is_named(rules: list[es.Unique], said: str) -> None:
    assert said in str(refused(parts(replace(BOX, unique=tuple(rules)))))


# --- projections -----------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"name": "users"}, "the projection 'users'"),
        ({"name": "erasures"}, "'erasures' has the name of a built-in part"),
        ({"name": "processes"}, "'processes' has the name of a built-in part"),
        ({"name": "my boxes"}, "has the name 'my boxes', which no table or column can have"),
        ({"columns": {"order": "TEXT"}}, "has the name 'order'"),
        ({"columns": {"x; DROP TABLE users": "TEXT"}}, "which no table or column can have"),
        ({"columns": {"size": "REAL"}}, "has the type 'REAL' for size"),
        ({"columns": {"box_id": "TEXT"}}, "has its key 'box_id' among the columns"),
        ({"usual": {"weight": "heavy"}}, "has 'weight' in `usual`, which is no column of text"),
        ({"usual": {"box_id": "1"}}, "has 'box_id' in `usual`"),
        ({"columns": {"label": "TEXT"}, "usual": {"label": "it's"}}, 'has the usual label "it\'s"'),
        ({"prefixes": ()}, "reads no stream"),
        ({"prefixes": "box-"}, "has one text as its prefixes"),
    ],
)
def test_a_projection_that_could_not_be_filled_is_named(changes: dict[str, object], said: str) -> None:
    assert said in str(refused(parts(BOX, projections=(projection(**changes),))))


def test_a_projection_without_its_names_or_no_instance_is_named() -> None:
    class Nameless(Projection):
        name = "nameless"

    assert "Nameless has no prefixes" in str(refused(parts(BOX, projections=(Nameless(),))))
    assert "is no instance" in str(refused(parts(BOX, projections=(Boxes,))))


def test_a_part_that_fails_when_it_is_examined_is_a_refusal() -> None:
    class Odd(Projection):
        name = "odd"
        prefixes = ("box-",)
        key = "box_id"
        columns: ClassVar[Any] = NoneType

    assert "which cannot be examined: TypeError" in str(refused(parts(BOX, projections=(Odd(),))))
