"""The group of a feature that brings no `cli` module: its commands, the rows of its projections, and its histories."""

from collections.abc import Sequence
from typing import Annotated, Any

import typer

from cli import render, session
from cli.confirm import row
from cli.lazy_group import command_group
from cli.lists import remark_on_more
from cli.readable import need_readable, show_history
from cli.times import parse_time_us
from domain.features import Registry
from domain.kernel.aggregate import Aggregate
from domain.kernel.feature import Feature
from domain.kernel.messages import Body
from domain.kernel.projection import Projection

Aggregates = Sequence[Aggregate[Any, Any]]
At = Annotated[
    str | None,
    typer.Option("--at", metavar="TIME", help="The state at this time (RFC 3339), from the events."),
]
Version = Annotated[
    int | None,
    typer.Option("--version", metavar="N", min=0, help="The state at this version, from the events."),
]


def group_of(feature: Feature, registry: Registry) -> typer.Typer:
    aggregates, projections = registry.aggregates_of(feature), registry.projections_of(feature)
    commands = [command for each in aggregates for command in each.commands]
    role = feature.roles[0].name if feature.roles else ""
    main = next((each for each in projections if each.name == feature.name), None)
    describe = None if main is None else lambda: row(f"{feature.name}.get", main.key)
    app = typer.Typer(
        cls=command_group(role, lambda: commands, describe),
        no_args_is_help=True,
        epilog=f"Example: es {feature.name} --help",
    )
    if aggregates:
        _add_get(app, feature, aggregates, main)
        _add_history(app, feature, aggregates)
    for projection in projections:
        if not (aggregates and projection is main):
            _add_row(app, feature, projection)
        _add_list(app, feature, projection)
    return app


def _of(aggregates: Aggregates) -> Any:
    """The option that names another aggregate than the first; hidden if there is only one."""
    names = [each.name for each in aggregates]
    return Annotated[
        str | None,
        typer.Option(
            "--of",
            metavar="NAME",
            hidden=len(names) == 1,
            autocompletion=lambda incomplete: [name for name in names if name.startswith(incomplete)],
            help=f"What the id is of: {', '.join(names)}. Default: {names[0]}.",
        ),
    ]


def _add_get(app: typer.Typer, feature: Feature, aggregates: Aggregates, main: Projection | None) -> None:
    """Add `get`: the row of the main projection, or a state that is folded from events."""
    has_rows = main is not None and main.key == aggregates[0].id_field

    @app.command(
        "get",
        help=f"Show one {aggregates[0].name}, as it is now or was at a time or version.",
        epilog=f"Example: es {feature.name} get 252562058352301107",
    )
    def get(
        id_: Annotated[str, typer.Argument(metavar="ID", help=f"The {aggregates[0].name}'s id.")],
        of: _of(aggregates) = None,  # type: ignore[valid-type]  # the names are those of this feature
        after: render.After = None,
        fresh: render.Fresh = False,
        at: At = None,
        version: Version = None,
        as_json: render.Json = False,
    ) -> None:
        body: Body = {"after_position": after, "fresh": fresh}
        if has_rows and of in (None, aggregates[0].name) and at is None and version is None:
            found = session.ask("projections", f"{feature.name}.get", {**body, "key": id_})
        else:
            body |= {"id": id_, "of": of, "version": version}
            if at is not None:
                body["at_us"] = parse_time_us(at, "--at")
            found = session.ask("projections", f"{feature.name}.state", body)
        render.record(found, as_json=as_json)
        need_readable(found, f"{of or aggregates[0].name} {id_}")


def _add_history(app: typer.Typer, feature: Feature, aggregates: Aggregates) -> None:
    @app.command(
        "history",
        help=f"Show every event of one {aggregates[0].name}, with its command and its actor.",
        epilog=f"Example: es {feature.name} history 252562058352301107",
    )
    def history(
        id_: Annotated[str, typer.Argument(metavar="ID", help=f"The {aggregates[0].name}'s id.")],
        of: _of(aggregates) = None,  # type: ignore[valid-type]  # the names are those of this feature
        as_json: render.Json = False,
    ) -> None:
        body = {"id": id_, "of": of}
        events = session.listed(f"{feature.name}.history", body, "events")
        show_history(events, f"{of or aggregates[0].name} {id_}", as_json=as_json)


def _names(feature: Feature, projection: Projection) -> tuple[str, str]:
    """The kind of its queries, and what its commands begin with: nothing for the projection with the feature's name."""
    if projection.name == feature.name:
        return feature.name, ""
    return f"{feature.name}.{projection.name}", f"{projection.name}-"


def _add_row(app: typer.Typer, feature: Feature, projection: Projection) -> None:
    kind, prefix = _names(feature, projection)

    @app.command(
        f"{prefix}get",
        help=f"Show one row of {projection.name}.",
        epilog=f"Example: es {feature.name} {prefix}get KEY",
    )
    def get(
        key: Annotated[str, typer.Argument(metavar="KEY", help=f"The {projection.key} of the row.")],
        after: render.After = None,
        fresh: render.Fresh = False,
        as_json: render.Json = False,
    ) -> None:
        body: Body = {"key": key, "after_position": after, "fresh": fresh}
        render.record(session.ask("projections", f"{kind}.get", body), as_json=as_json)


def _add_list(app: typer.Typer, feature: Feature, projection: Projection) -> None:
    kind, prefix = _names(feature, projection)

    @app.command(
        f"{prefix}list",
        help=f"List the rows of {projection.name} in order of {projection.key}.",
        epilog=f"Example: es {feature.name} {prefix}list --limit 20",
    )
    def list_rows(
        context: typer.Context,
        after: Annotated[
            str | None, typer.Option("--after", metavar="KEY", help="Only rows after this key.")
        ] = None,
        limit: render.Limit = 100,
        fresh: render.Fresh = False,
        as_json: render.Json = False,
    ) -> None:
        body = {"after": after, "fresh": fresh}
        with session.listing(f"{kind}.list", body, "rows", limit=limit) as rows:
            render.rows(rows, [projection.key, *projection.columns], as_json=as_json)
        remark_on_more(context, rows.count, rows.following)
