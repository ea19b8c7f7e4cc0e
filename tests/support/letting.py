"""Users, leases of them and their erasures over one store: an outside feature with personal data, run by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any
from uuid import UUID, uuid4

from adapters import wiring
from adapters.log import Log
from adapters.sqlite.read_model import SqliteReadModel
from domain.features import registry
from domain.kernel.aggregate import Aggregate
from domain.kernel.command_handler import CommandHandler
from domain.kernel.messages import Body, Reply, Request
from domain.kernel.projection import Projection
from tests.support.erasures import Erasures
from tests.support.leases import LEASE, Lease
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild
from workers.projections.service import QueriesService, queries_of
from workers.runtime.claims import UniqueClaims
from workers.runtime.commands import CommandService
from workers.runtime.queries import Sources
from workers.runtime.unique import UniqueHandler

KNOWN = registry(("tests.support.leases",))


def let_request(kind: str, command_id: UUID | None = None, /, **given: object) -> Request:
    fields = {name: str(value) for name, value in given.items()}
    return Request(kind, {"command_id": str(command_id or uuid4()), "actor": "uid:1000", "input": fields})


class Letting(Erasures):
    features = ("tests.support.leases",)

    def __init__(self, folder: Path, read_model: SqliteReadModel, log: Log) -> None:
        super().__init__(folder, log, durable=True)
        self.read_model = read_model
        self._projectors: dict[str, Projector] = {}

    def leases(self, aggregate: Aggregate[Lease, Any] = LEASE, **parts: Any) -> CommandService:
        """The service of leases. A unique value of the aggregate is reserved."""
        store = parts.get("store", self.store)
        claims = UniqueClaims(
            [aggregate],
            store=store,
            codec=self.codec,
            vault=self.vault,
            now_us=lambda: self.now_us,
            pause=lambda _: None,
        )

        def unique(aggregate: Aggregate[Any, Any], plain: CommandHandler[Any, Any]) -> UniqueHandler:
            return UniqueHandler(
                aggregate,
                plain,
                vault=self.vault,
                claims=claims,
                now_us=lambda: self.now_us,
                new_id=uuid4,
                pause=lambda _: None,
            )

        return CommandService(
            [aggregate],
            store=store,
            codec=self.codec,
            keyring=wiring.keyring_of(self.vault),
            pause=lambda _: None,
            unique=unique,
            take_ids=self.take_ids,
        )

    def let(self, kind: str, **given: object) -> Reply:
        """Handle one command of leases."""
        (reply,) = self.leases().handle([let_request(kind, **given)])
        return reply

    def a_lease(self, tenant_id: int, tenant: str) -> int:
        reply = self.let("leases.sign", tenant_id=tenant_id, tenant=tenant, flat="attic")
        assert isinstance(reply, dict), reply
        return int(reply["lease_id"])

    # --- the read side -------------------------------------------------------------------------

    def filling(self, projection: Projection) -> Filling:
        return Filling(
            projection,
            store=self.store,
            codec=self.codec,
            read_model=self.read_model,
            now_us=lambda: self.now_us,
            log=self.log,
        )

    def project(self) -> None:
        """Fill every projection up to the head."""
        for projection in KNOWN.projections:
            self.project_one(projection)

    def project_one(self, projection: Projection) -> None:
        """Fill a projection up to the head."""
        head = self.store.head()
        self.read_model.prepare(projection, now_us=self.now_us)
        self._projectors[projection.name] = projector = Projector(self.filling(projection), lambda _: None)
        projector.run(lambda: projector.reached is not None and projector.reached >= head)

    def rebuild(self) -> None:
        """Rebuild every projection."""
        for projection in KNOWN.projections:
            assert Rebuild(self.filling(projection)).run(lambda: False) is not None

    def sources(self, **parts: Any) -> Sources:
        own: dict[str, Any] = {
            "store": self.store,
            "codec": self.codec,
            "vault": self.vault,
            "keyring": wiring.keyring_of(self.vault),
            "erased_keyring": wiring.erased_keyring(),
            "read_model": self.read_model,
            "projections": KNOWN.projections,
            "reached": lambda projection: self._projectors[projection.name].reached,
            "last_error": lambda _: None,
            "ensure_rebuild": lambda _: None,
            "rebuild_error": lambda _: None,
            "now_us": lambda: self.now_us,
        }
        return Sources(**{**own, **parts})

    def ask(self, kind: str, /, **body: object) -> Reply:
        (reply,) = QueriesService(queries_of(KNOWN, self.sources())).handle([Request(kind, dict(body))])
        return reply

    def answer(self, kind: str, /, **body: object) -> Body:
        """The reply to a query that must succeed."""
        reply = self.ask(kind, **body)
        assert isinstance(reply, dict), reply
        return reply
