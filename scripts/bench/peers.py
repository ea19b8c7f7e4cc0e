"""What other libraries reach on SQLite in their own process: create, get and replay, one aggregate a save.

    .venv-bench/bin/python scripts/bench/peers.py PEER FILE COUNT

It prints one JSON object: `{"version", "create": [ms each], "get": [ms each], "replay": events/s}`, or
`{"missing": why}`. It imports nothing of this project, so that it runs in the environment of the peers.

Each is configured as its own documentation shows. None of them seals personal data, keeps an address unique, repeats
a command's first result, or fills a read model: what they do is a part of what is measured beside them.
"""

# mypy: disable-error-code="import-not-found, misc, untyped-decorator"
# The environment that is checked has none of these libraries.

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from importlib.metadata import version
from typing import Any
from uuid import uuid4

PEERS = ("eventsourcing", "python-event-sourcery", "protean")
_PAGE = 1000
_WARM_UP = 10


def eventsourcing(file: str, count: int) -> dict[str, Any]:
    """One `Application` with its SQLite persistence: a file is in WAL mode, with synchronous=FULL by default."""
    from eventsourcing.application import Application, LocalNotificationLog
    from eventsourcing.domain import Aggregate, event

    class Person(Aggregate):
        @event("Registered")
        def __init__(self, email: str, name: str) -> None:
            self.email = email
            self.name = name

    app: Any = Application(env={"PERSISTENCE_MODULE": "eventsourcing.sqlite", "SQLITE_DBNAME": file})
    made: list[Any] = []

    def create(number: int) -> None:
        person = Person(email=f"ada-{number}@example.com", name=f"Ada Lovelace {number}")
        app.save(person)
        made.append(person.id)

    def replay() -> int:
        last, log = 0, LocalNotificationLog(app.recorder, section_size=_PAGE)
        while found := log.select(start=last + 1, limit=_PAGE):
            for notification in found:
                app.mapper.to_domain_event(notification)
            last = found[-1].id
        return last

    return _measured(count, create, lambda number: app.repository.get(made[number]), replay)


def python_event_sourcery(file: str, count: int) -> dict[str, Any]:
    """Its SQLAlchemy backend with a session for each request, as it shows. SQLite in WAL mode, synchronous=FULL."""
    from event_sourcery import StreamId
    from event_sourcery.event import Event
    from event_sourcery_sqlalchemy import SQLAlchemyBackend, configure_models
    from sqlalchemy import create_engine, event
    from sqlalchemy.orm import DeclarativeBase, Session

    class Base(DeclarativeBase):
        pass

    class Registered(Event):
        email: str
        name: str

    engine = create_engine(f"sqlite:///{file}")

    @event.listens_for(engine, "connect")
    def _durable(connection: Any, _record: object) -> None:
        connection.execute("PRAGMA journal_mode = WAL")
        connection.execute("PRAGMA synchronous = FULL")

    configure_models(Base)
    Base.metadata.create_all(engine)
    made: list[Any] = []

    def within(act: Callable[[Any], object]) -> None:
        with Session(engine) as session:
            act(SQLAlchemyBackend().configure(session).event_store)
            session.commit()

    def create(number: int) -> None:
        stream = StreamId(uuid4())
        person = Registered(email=f"ada-{number}@example.com", name=f"Ada Lovelace {number}")
        within(lambda store: store.append(person, stream_id=stream))
        made.append(stream)

    def get(number: int) -> None:
        within(lambda store: store.load_stream(made[number]))

    # It reads all events through subscriptions only, which wait for gaps: its replay is not measured.
    return _measured(count, create, get, None)


def protean(_file: str, _count: int) -> dict[str, Any]:
    """Its event stores are memory and MessageDB, a PostgreSQL extension: there is no durable one in a process."""
    return {"missing": "its event stores are memory and MessageDB: none is durable in a process"}


def _measured(
    count: int,
    create: Callable[[int], object],
    get: Callable[[int], object],
    replay: Callable[[], int] | None,
) -> dict[str, Any]:
    for number in range(_WARM_UP):  # connections, caches, imports
        create(number)
    measured: dict[str, Any] = {
        "create": [_ms(create, number) for number in range(_WARM_UP, _WARM_UP + count)],
        "get": [_ms(get, number) for number in range(count)],
    }
    if replay is not None:
        began_s = time.perf_counter()
        events = replay()
        measured["replay"] = events / (time.perf_counter() - began_s)
    return measured


def _ms(act: Callable[[int], object], number: int) -> float:
    began_s = time.perf_counter()
    act(number)
    return (time.perf_counter() - began_s) * 1000


def main() -> None:
    name, file, count = sys.argv[1:]
    run = {"eventsourcing": eventsourcing, "python-event-sourcery": python_event_sourcery, "protean": protean}
    try:
        found = run[name](file, int(count))
        if "missing" not in found:
            found["version"] = version(name)
    except ImportError as error:
        found = {"missing": f"not installed ({error})"}
    print(json.dumps(found))


if __name__ == "__main__":
    main()
