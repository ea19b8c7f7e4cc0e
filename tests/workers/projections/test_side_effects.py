"""A rebuild has rows as its only effect: nothing is published, decided or stored as an event because of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest

from adapters.log import Log
from adapters.rabbitmq.publisher import Outgoing
from adapters.sqlite.read_model import SqliteReadModel
from domain.features import registry
from domain.kernel.projection import Projection
from tests.support.erasures import until_caught_up
from tests.support.managing import Bank, ServiceCaller
from tests.support.parts import replaced
from tests.support.read_side import ReadSide, a_busy_history
from tests.support.relaying import Checkpoints
from tests.support.transfers import TransferFinished
from workers.projections.filling import Filling
from workers.projections.projector import Projector
from workers.projections.rebuild import Rebuild
from workers.relay.process import RelayProcess

NO_APPEND = "a rebuild stores no event"


class CountingPublisher:
    def __init__(self) -> None:
        self.published: list[str] = []

    def wait_until_active(self, stopped: Callable[[], bool]) -> None:
        """It is active."""

    def publish(self, batch: Sequence[Outgoing]) -> None:
        self.published += [message.message_id for message in batch]


def read_only(store: Any) -> Any:
    def append(*_: object, **__: object) -> Any:
        raise AssertionError(NO_APPEND)

    return replaced(store, append=append)


def projected_and_rebuilt(parts: Callable[[Projection], Filling], projections: Sequence[Projection]) -> None:
    """Fill each projection as at first use, then rebuild it."""
    for projection in projections:
        filling = parts(projection)
        head = filling.store.head()
        projector = Projector(filling, lambda _: None)
        projector.run(lambda: (projector.reached or 0) >= head)  # noqa: B023
        rebuilt = Rebuild(filling).run(lambda: False)
        assert rebuilt is not None
        assert (rebuilt.number, rebuilt.events > 0) == (2, True), projection.name


def test_a_rebuild_publishes_nothing(read_side: ReadSide, log: Log) -> None:
    a_busy_history(read_side)
    publisher, checkpoints = CountingPublisher(), Checkpoints()

    def relay() -> None:
        RelayProcess(
            store=until_caught_up(read_side.store),
            codec=read_side.codec,
            checkpoints=checkpoints,
            publisher=publisher,
            log=log,
            monotonic_s=iter(range(0, 1 << 30, 2)).__next__,
        ).run(lambda: False)

    relay()
    head, published = read_side.store.head(), [*publisher.published]
    assert Counter(published) == dict.fromkeys(published, 1)
    assert len(published) == 8, "others are of another program"

    store = read_only(read_side.store)
    projected_and_rebuilt(lambda each: read_side._filling(each, store=store), registry().projections)
    relay()

    assert publisher.published == published
    assert (read_side.store.head(), checkpoints.position) == (head, head)


@pytest.fixture
def bank(tmp_path: Path, log: Log) -> Iterator[Bank]:
    with closing(Bank(tmp_path, log)) as made:
        made.fill(1)
        made.fill(2)
        yield made


def test_a_rebuild_lets_no_process_decide_or_send(bank: Bank, read_model: SqliteReadModel, log: Log) -> None:
    sent: list[str] = []

    def handle(requests: Sequence[Any]) -> list[Any]:
        sent.extend(request.kind for request in requests)
        return bank.service().handle(requests)

    caller: Any = ServiceCaller(handle)
    bank.transfer(7)
    bank.run(caller=caller)
    head, before = bank.store.head(), [*sent]
    assert before
    assert any(event.type == TransferFinished.type for event in bank.store.read_all(0, 1000))

    store = read_only(bank.store)
    projected_and_rebuilt(
        lambda each: Filling(
            each, store=store, codec=bank.codec, read_model=read_model, now_us=bank.now_us, log=log
        ),
        [each for each in bank.registry.projections if each.prefixes is None],
    )
    bank.run(caller=caller)

    assert sent == before
    assert bank.store.head() == head
