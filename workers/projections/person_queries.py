"""Queries about the streams with data of one person: which they are, and what an erasure will reach. They change nothing."""

from __future__ import annotations

from collections.abc import Iterator

from domain.kernel.ids import parse_id
from domain.kernel.messages import Body, Later, Reply, Request
from domain.kernel.person_streams import NAME, key_of, stream_of
from domain.kernel.ports.vault import DamagedKey, DestroyedKey, LivingKey
from domain.kernel.projection import Projection
from domain.users.account import ERASING, USER
from domain.users.errors import UserNotFound
from workers.runtime.pages import fit
from workers.runtime.queries import Sources, limit_of

COUNT_LIMIT = 100_000


class PersonQueries:
    def __init__(self, sources: Sources) -> None:
        self._sources = sources

    @property
    def _index(self) -> list[Projection]:
        """Its parts, one for each aggregate."""
        return [each for each in self._sources.projections if each.name.startswith(NAME)]

    def streams(self, request: Request, *, after: str, prefix: str) -> Reply:
        """The streams with data of a person, in order of name: also their own stream."""
        person, limit = parse_id(request.body.get("person"), field="person"), limit_of(request)
        if later := self._wait_for_head(request):
            return later
        found = [*self._own(person), *self._indexed(person, after, prefix, limit + 1)]
        wanted = sorted(
            (row for row in found if row["stream"] > after and row["stream"].startswith(prefix)),
            key=lambda row: str(row["stream"]),
        )
        shown, has_more = fit(request, wanted[:limit], len(wanted))
        return {"streams": shown, "next": {"after": shown[-1]["stream"]} if has_more else None}

    def reach(self, request: Request) -> Reply:
        """What an erasure of a user reaches: `{"user_id", "erased", "key", "streams", "more", "email_claims", "other_claims"}`."""
        person = parse_id(request.body.get("user_id"), field="user_id")
        if later := self._wait_for_head(request):
            return later
        sources = self._sources
        types = {recorded.type for recorded in sources.store.read_stream(USER.stream_of(person))}
        counted = self._count(person)
        key = _key(sources.vault.data_keys([person]).get(person))
        if not (types or counted or key != "missing"):
            raise UserNotFound(person)
        claims = sources.vault.claims_of([person], now_us=sources.now_us())
        return {
            "user_id": str(person),
            "erased": not types.isdisjoint(ERASING),
            "key": key,
            "streams": bool(types) + min(counted, COUNT_LIMIT),
            "more": counted > COUNT_LIMIT,
            "email_claims": sum(not claim.rule for claim in claims),
            "other_claims": sum(bool(claim.rule) for claim in claims),
        }

    def _wait_for_head(self, request: Request) -> Later | None:
        """`LATER` until the index includes every event that is stored now: a stream must not be left out."""
        for part in self._index:
            if "position" not in request.memo:
                request.memo["position"] = self._sources.store.head()
            if later := self._sources.wait_for(part, request, request.memo["position"]):
                return later
        return None

    def _own(self, person: int) -> list[Body]:
        stream = USER.stream_of(person)
        events = self._sources.store.read_stream(stream, backwards=True, limit=1)
        return [{"stream": stream, "version": recorded.version} for recorded in events]

    def _indexed(self, person: int, after: str, prefix: str, limit: int) -> Iterator[Body]:
        """The next streams of each part, at most `limit`."""
        for part in self._index:
            rows = self._sources.read_model.rows(
                part, after=key_of(person, after), prefix=key_of(person, prefix), limit=limit
            )
            for row in rows:
                yield {"stream": stream_of(str(row[part.key])), "version": row["version"]}

    def _count(self, person: int) -> int:
        """The number of indexed streams, at most `COUNT_LIMIT` + 1 of each part."""
        count, prefix = self._sources.read_model.count, key_of(person, "")
        return sum(count(part, prefix=prefix, limit=COUNT_LIMIT + 1) for part in self._index)


def _key(key: object) -> str:
    match key:
        case LivingKey():
            return "living"
        case DestroyedKey():
            return "destroyed"
        case DamagedKey():
            return "damaged"
    return "missing"
