"""What keeps a projection from being filled, found before a read model is asked to create its table."""

from __future__ import annotations

import re
from collections.abc import Iterator

from domain.kernel.projection import Projection

_COLUMN = re.compile(r"[a-z][a-z0-9_]{0,39}")
_SQL_WORDS = frozenset(
    [
        "all",
        "alter",
        "analyse",
        "analyze",
        "and",
        "any",
        "array",
        "as",
        "asc",
        "asymmetric",
        "authorization",
        "between",
        "both",
        "by",
        "case",
        "cast",
        "check",
        "collate",
        "column",
        "commit",
        "concurrently",
        "constraint",
        "create",
        "cross",
        "current_catalog",
        "current_date",
        "current_role",
        "current_schema",
        "current_time",
        "current_timestamp",
        "current_user",
        "default",
        "deferrable",
        "delete",
        "desc",
        "distinct",
        "do",
        "drop",
        "else",
        "end",
        "escape",
        "except",
        "exists",
        "false",
        "fetch",
        "for",
        "foreign",
        "freeze",
        "from",
        "full",
        "grant",
        "group",
        "having",
        "if",
        "ilike",
        "in",
        "index",
        "initially",
        "inner",
        "insert",
        "intersect",
        "into",
        "is",
        "isnull",
        "join",
        "lateral",
        "leading",
        "left",
        "like",
        "limit",
        "localtime",
        "localtimestamp",
        "natural",
        "new",
        "not",
        "notnull",
        "nothing",
        "null",
        "offset",
        "on",
        "only",
        "or",
        "order",
        "outer",
        "overlaps",
        "placing",
        "primary",
        "references",
        "returning",
        "right",
        "select",
        "session_user",
        "set",
        "similar",
        "some",
        "symmetric",
        "table",
        "tablesample",
        "then",
        "to",
        "trailing",
        "transaction",
        "true",
        "union",
        "unique",
        "update",
        "user",
        "using",
        "values",
        "variadic",
        "verbose",
        "when",
        "where",
        "window",
        "with",
    ]
)
"""Words that are no name of a column in SQLite or in PostgreSQL."""


_USUAL = re.compile(r"[a-z0-9-]{1,40}")
"""It becomes part of statements."""


def problems_of(projection: object) -> Iterator[tuple[str, str]]:
    """Each problem and its hint. The problem completes a sentence that begins with the class of the projection."""
    if not isinstance(projection, Projection):
        yield "is no instance of a subclass of Projection", "Write `PROJECTIONS = (Wallets(),)`."
        return
    missing = [name for name in ("name", "prefixes", "key", "columns") if not hasattr(projection, name)]
    if missing:
        yield f"has no {missing[0]}", f"Set `{missing[0]}` in the class."
        return
    if isinstance(projection.prefixes, str):
        yield "has one text as its prefixes", "Write a tuple, such as `(WALLET.prefix,)`."
    if projection.prefixes is not None and not projection.prefixes:
        yield "reads no stream", "Set `prefixes`, such as `(WALLET.prefix,)`."
    types = {projection.key: projection.key_type, **projection.columns}
    for name in (projection.name, *types):
        if not _COLUMN.fullmatch(name) or name in _SQL_WORDS:
            hint = "Use up to 40 lower-case letters, digits and _, and no word of SQL."
            yield f"has the name {name!r}, which no table or column can have", hint
    if projection.key in projection.columns:
        yield f"has its key {projection.key!r} among the columns", "Name the key in `key` alone."
    for name, type_ in types.items():
        if type_ not in ("INTEGER", "TEXT"):
            yield f"has the type {type_!r} for {name}", "A type is INTEGER or TEXT."
    for name, text in projection.usual.items():
        if types.get(name) != "TEXT" or name == projection.key:
            yield (
                f"has {name!r} in `usual`, which is no column of text",
                "Name a TEXT column, but not the key.",
            )
        elif not _USUAL.fullmatch(text):
            yield f"has the usual {name} {text!r}", "Use small letters, digits and hyphens."
