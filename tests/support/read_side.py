"""The read side of user accounts for tests: projector, rebuilds and queries, run by hand."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from adapters import wiring
from adapters.log import Log
from adapters.sqlite.read_model import SqliteReadModel
from domain.features import registry
from domain.kernel.events import NO_STREAM
from domain.kernel.messages import Body, Later, Reply, Request
from domain.kernel.ports.read_model import Generation, GenerationState, Parked, ReadModel
from domain.kernel.projection import Projection, Value
from domain.streams.projection import STREAMS
from domain.users.projection import USERS
from domain.users.registrations import REGISTRATIONS
from tests.support.accounts import ADA, ALAN, GRACE, Accounts, change, delete, erase, rename
from tests.support.builders import a_stream, append, some_events
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild, Rebuilds
from workers.projections.service import QueriesService, queries_of
from workers.runtime.queries import Sources


class ReadSide(Accounts):
    """Accounts over a durable store, with the `users` projection and its queries."""

    def __init__(self, folder: Path, read_model: ReadModel, log: Log) -> None:
        super().__init__(folder, durable=True)
        self.read_model = read_model
        self.log = log
        self.now_s = 0.0
        self.rebuilds = self.rebuilds_of(self.rebuild)
        self._projector = self.projector()
        self._streams = self._projector_of_streams()
        self._counts = self._projector_of_counts()

    def _filling(self, projection: Projection = USERS, **parts: Any) -> Filling:
        own: dict[str, Any] = {"store": self.store, "read_model": self.read_model}
        return Filling(
            projection,
            **{**own, **parts},
            codec=self.codec,
            now_us=lambda: self.now_us,
            log=self.log,
        )

    # --- rows ----------------------------------------------------------------------------------

    def projector(self, *, on_reached: Callable[[], None] = lambda: None, **parts: Any) -> Projector:
        return Projector(self._filling(**parts), self.rebuilds.ensure, on_reached=on_reached)

    def projector_with(self, rebuilds: Rebuilds, **parts: Any) -> Projector:
        """A projector of another worker, with its rebuilds."""
        return Projector(self._filling(**parts), rebuilds.ensure, resume=rebuilds.resume)

    def project(self) -> None:
        """Run a new projector until its rows include every stored event."""
        self._projector = self.projector()
        head = self.store.head()
        projector = self._projector
        projector.run(lambda: projector.reached is not None and projector.reached >= head)

    def _projector_of_streams(self) -> Projector:
        self.read_model.prepare(STREAMS, now_us=self.now_us)
        return Projector(self._filling(STREAMS), self.rebuilds.ensure)

    def project_streams(self) -> None:
        """Run a projector of streams until its rows include every stored event."""
        self._streams = projector = self._projector_of_streams()
        head = self.store.head()
        projector.run(lambda: projector.reached is not None and projector.reached >= head)

    def _projector_of_counts(self) -> Projector:
        self.read_model.prepare(REGISTRATIONS, now_us=self.now_us)
        return Projector(self._filling(REGISTRATIONS), self.rebuilds.ensure)

    def project_counts(self) -> None:
        """Run a projector of registrations until its rows include every stored event."""
        self._counts = projector = self._projector_of_counts()
        head = self.store.head()
        projector.run(lambda: projector.reached is not None and projector.reached >= head)

    def become(self, projector: Projector) -> Projector:
        """Let queries ask this projector how far the rows have come."""
        self._projector = projector
        return projector

    def prepare(self) -> Generation:
        return self.read_model.prepare(USERS, now_us=self.now_us)

    def rebuild(self, **parts: Any) -> Rebuild:
        return Rebuild(self._filling(**parts))

    def rebuilt(self, **parts: Any) -> Generation:
        """The generation of a rebuild that must succeed."""
        generation = self.rebuild(**parts).run(lambda: False)
        assert generation is not None
        return generation

    def rebuilds_of(self, start: Any) -> Rebuilds:
        return Rebuilds(lambda _: start(), lambda: False, log=self.log, now_us=lambda: self.now_us)

    def rows(self) -> dict[int, dict[str, Value]]:
        return {int(row["user_id"] or 0): row for row in self.read_model.rows(USERS)}

    def change_rows(self, statement: str, *values: Any) -> None:
        """Change the rows of the first generation, as damage or a bug would. Values are at `?`."""
        change_tables(self.read_model, statement, *values)

    def generations(self) -> Sequence[Generation]:
        return self.read_model.generations(USERS)

    def current(self) -> Generation:
        (current,) = [each for each in self.generations() if each.state is GenerationState.CURRENT]
        return current

    def parked(self) -> Sequence[Parked]:
        """The parked events of the current generation."""
        return self.read_model.parked(USERS, self.current())

    # --- queries -------------------------------------------------------------------------------

    def queries(self, **parts: Any) -> QueriesService:
        self.prepare()
        own: dict[str, Any] = {
            "store": self.store,
            "codec": self.codec,
            "vault": self.vault,
            "keyring": lambda subjects: wiring.keyring_of(self.vault)(subjects),
            "erased_keyring": wiring.erased_keyring(),
            "read_model": self.read_model,
            "projections": registry().projections,
            "reached": lambda projection: self._projector_for(projection).reached,
            "last_error": lambda projection: self._projector_for(projection).last_error.body,
            "ensure_rebuild": self.rebuilds.resume,
            "rebuild_error": lambda projection: self.rebuilds.last_error(projection),
            "now_us": lambda: self.now_us,
            "monotonic_s": lambda: self.now_s,
            "log": self.log,
        }
        return QueriesService(queries_of(registry(), Sources(**{**own, **parts})))

    def _projector_for(self, projection: Projection) -> Projector:
        others = {STREAMS.name: self._streams, REGISTRATIONS.name: self._counts}
        return others.get(projection.name, self._projector)

    def reply_to(self, request: Request, **parts: Any) -> Reply:
        (reply,) = self.queries(**parts).handle([request])
        return reply

    def ask(self, kind: str, /, **body: object) -> Reply:
        return self.reply_to(Request(kind, dict(body)))

    def answer(self, kind: str, /, **body: object) -> Body:
        """The reply to a query that must succeed."""
        reply = self.ask(kind, **body)
        assert isinstance(reply, dict), reply
        return reply

    def waits(self, request: Request) -> bool:
        return isinstance(self.reply_to(request), Later)


def change_tables(read_model: ReadModel, statement: str, *values: Any) -> None:
    """Run a statement on the tables of a read model."""
    database: Any = read_model._database  # type: ignore[attr-defined]
    if isinstance(read_model, SqliteReadModel):
        with database.writing() as connection:
            connection.execute(statement, values)
        return

    def change(connection: Any) -> None:
        connection.execute("SELECT set_config('search_path', %s, true)", (database.schema,))
        connection.execute(statement.replace("?", "%s"), values)

    database.write(change)


def a_busy_history(accounts: Accounts) -> tuple[int, int, int]:
    """Three users with eight events of most types, and other streams before and after."""
    ada, grace, alan = (accounts.a_user(email) for email in (ADA, GRACE, ALAN))
    append(accounts.store, a_stream(), NO_STREAM, some_events(3))
    accounts.handle(
        rename(ada, "Countess"),
        change(grace, "new@example.com"),
        delete(grace),
        erase(alan),
        rename(ada),
    )
    append(accounts.store, a_stream(), NO_STREAM, some_events(3))
    return ada, grace, alan
