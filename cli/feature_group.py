"""The group of a feature that brings no `cli` module: its commands, and queries of the rows of its projections."""

from typing import Annotated, Any

import typer

from cli import render, session
from cli.confirm import row
from cli.lazy_group import command_group
from cli.lists import remark_on_more
from domain.features import Registry
from domain.kernel.feature import Feature
from domain.kernel.projection import Projection


def group_of(feature: Feature, registry: Registry) -> typer.Typer:
    commands = [command for each in registry.aggregates_of(feature) for command in each.commands]
    role = feature.roles[0].name if feature.roles else ""
    key = next((each.key for each in registry.projections_of(feature) if each.name == feature.name), None)
    describe = None if key is None else lambda: row(f"{feature.name}.get", key)
    app = typer.Typer(
        cls=command_group(role, lambda: commands, describe),
        no_args_is_help=True,
        epilog=f"Example: es {feature.name} --help",
    )
    for projection in registry.projections_of(feature):
        _add_rows(app, feature, projection)
    return app


def _add_rows(app: typer.Typer, feature: Feature, projection: Projection) -> None:
    """Add `get` and `list` for the projection with the feature's name, `<projection>-get` and `-list` for others."""
    is_main = projection.name == feature.name
    kind = feature.name if is_main else f"{feature.name}.{projection.name}"
    prefix = "" if is_main else f"{projection.name}-"

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
        body: dict[str, Any] = {"key": key, "after_position": after, "fresh": fresh}
        render.record(session.ask("projections", f"{kind}.get", body), as_json=as_json)

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
        rows, following = session.listed(f"{kind}.list", body, "rows", limit=limit)
        render.rows(rows, [projection.key, *projection.columns], as_json=as_json)
        remark_on_more(context, len(rows), following)
