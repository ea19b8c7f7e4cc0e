"""The group of a feature that brings none of its own: its commands, and the rows of its projections."""

from typing import Annotated, Any

import typer

from cli import render, session
from cli.commands import command_group
from domain.features import Registry
from domain.kernel.feature import Feature
from domain.kernel.messages import Body
from domain.kernel.projection import Projection


def group_of(feature: Feature, registry: Registry) -> typer.Typer:
    aggregates = registry.aggregates_of(feature)
    commands = [command for aggregate in aggregates for command in aggregate.commands]
    role = feature.roles[0].name if feature.roles else ""
    app = typer.Typer(cls=command_group(role, lambda: commands), no_args_is_help=True)

    @app.callback(help=feature.help)
    def group() -> None: ...

    for projection in registry.projections_of(feature):
        _add_rows(app, feature, projection)
    return app


def _add_rows(app: typer.Typer, feature: Feature, projection: Projection) -> None:
    """`get` and `list` for the projection that has the feature's name, `<projection>-get` and `-list` for others."""
    is_main = projection.name == feature.name
    kind = feature.name if is_main else f"{feature.name}.{projection.name}"
    prefix = "" if is_main else f"{projection.name}-"

    @app.command(f"{prefix}get", help=f"Show a row of {projection.name}.")
    def get(
        key: Annotated[str, typer.Argument(metavar="KEY", help=f"Its {projection.key}.")],
        after: Annotated[
            int | None,
            typer.Option("--after", metavar="POSITION", help="Wait until this position is included."),
        ] = None,
        fresh: Annotated[
            bool, typer.Option("--fresh", help="Wait until all that is stored is included.")
        ] = False,
        as_json: render.Json = False,
    ) -> None:
        body: dict[str, Any] = {"key": key, "after_position": after, "fresh": fresh}
        row = session.ask("projections", f"{kind}.get", body)
        render.answer(row, as_json=as_json, human=lambda: render.fields(row))

    @app.command(f"{prefix}list", help=f"List the rows of {projection.name} in order of {projection.key}.")
    def list_rows(
        after: Annotated[
            str | None, typer.Option("--after", metavar="KEY", help="Only rows after this key.")
        ] = None,
        limit: Annotated[int, typer.Option("--limit", min=1, max=1000, help="At most this many.")] = 100,
        fresh: Annotated[
            bool, typer.Option("--fresh", help="Wait until all that is stored is included.")
        ] = False,
        as_json: render.Json = False,
    ) -> None:
        body = {"after": after, "limit": limit, "fresh": fresh}
        rows: list[Body] = session.ask("projections", f"{kind}.list", body)["rows"]
        if as_json:
            for row in rows:
                render.json_line(row)
            return
        columns = [projection.key, *projection.columns]
        render.table(columns, [[row[column] for column in columns] for row in rows])
