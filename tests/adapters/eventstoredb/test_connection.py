"""Deadlines, retries, reconnects, closing and forks. `Trap` marks surprises of esdbclient and the server."""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import closing

import pytest

from adapters.eventstoredb.connection import Connection
from adapters.eventstoredb.deadline import Deadline
from adapters.eventstoredb.driver import DeadlineExceeded
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.event_store import Append, Appended
from tests.support.eventstoredb import SLACK_S, OpenStore, Store, an_item
from tests.support.node import Fault, Node, Point, Proxy, always, once
from tests.support.processes import start_python
from tests.support.waiting import DEADLINE_S, assert_within, before, eventually

Call = Callable[[Store], object]
CALLS: dict[str, Call] = {
    "append": lambda store: store.write("thing-1"),
    "append later": lambda store: store.write("thing-1", 4),
    "read_stream": lambda store: store.stored("thing-1"),
    "backwards": lambda store: store.versions("thing-1", backwards=True),
    "read_all": lambda store: list(store.read_all(0, 10)),
    "head": lambda store: store.head(),
    "follow": lambda store: list(store.follow(0, stopped=before(60))),
}


@pytest.mark.parametrize("call", CALLS.values(), ids=CALLS)
@pytest.mark.parametrize("silence", ["of the server", "of the network", "of a port"])
def test_every_call_to_a_silent_server_ends_in_time(
    open_store: OpenStore, node: Node, proxy: Proxy, call: Call, silence: str
) -> None:
    # Trap: esdbclient waits for ever, or twice as long as its timeout.
    if silence == "of the server":
        node.plan = always(Fault.BLACK_HOLE, Point.READ, Point.BEFORE_COMMIT, Point.SUBSCRIBE)
    elif silence == "of the network":
        proxy.freeze()
    else:
        proxy.close()

    def give_up() -> None:
        store = open_store(proxy.url, settle_s=0.6, call_timeout_s=0.2)
        with closing(store), pytest.raises(PartUnavailable) as raised:
            call(store)
        assert raised.value.part == "EventStoreDB"

    assert_within(0.6 + SLACK_S, give_up)


def test_many_calls_to_a_silent_server_do_not_each_wait_in_full(open_store: OpenStore, node: Node) -> None:
    node.plan = always(Fault.BLACK_HOLE, Point.READ)
    store = open_store(settle_s=0.6, call_timeout_s=0.2)
    started_s = time.monotonic()
    for number in range(100):
        with pytest.raises(PartUnavailable, match="in time"):
            store.stored(f"thing-{number}")

    assert time.monotonic() - started_s < 100 * 0.6 / 3


def test_a_call_that_has_no_time_left_is_not_started() -> None:
    with pytest.raises(DeadlineExceeded):
        Deadline.after(0.0, call_timeout_s=1.0).left_s()


@pytest.mark.parametrize("call", ["append", "read_stream", "head"])
@pytest.mark.parametrize("fault", [Fault.UNAVAILABLE, Fault.BROKEN], ids=str)
def test_only_the_store_retries_and_only_after_a_pause(
    store: Store, node: Node, call: str, fault: Fault, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trap: esdbclient retries by itself, in two nested loops.
    class Pausing(Exception):
        """The store is about to wait before a retry."""

    def pause(connection: Connection, pause_s: float) -> None:
        assert pause_s > 0
        raise Pausing

    monkeypatch.setattr(Connection, "pause", pause)
    node.plan = always(fault, Point.READ, Point.BEFORE_COMMIT)

    with pytest.raises(Pausing):
        CALLS[call](store)

    assert node.calls["BatchAppend" if call == "append" else "Read"] == 1


def test_a_server_that_recovers_is_found_again(store: Store, proxy: Proxy, open_store: OpenStore) -> None:
    cut_off = open_store(proxy.url, settle_s=1.0)

    def is_appended(item: Append) -> bool:
        try:
            return cut_off.append([item]) == [Appended(item.expected_version + 1, store.head())]
        except PartUnavailable:
            return False

    first, second = an_item("thing-1"), an_item("thing-1", 0)
    eventually(lambda: is_appended(first), "it is connected")
    proxy.close()
    with pytest.raises(PartUnavailable):
        cut_off.append([second])

    proxy.open()

    eventually(lambda: is_appended(second), "it is found again")
    assert len(store.stored("thing-1")) == 2


def test_a_reset_connection_is_replaced_within_the_call(proxy: Proxy, open_store: OpenStore) -> None:
    store = open_store(proxy.url)
    for version in range(5):
        assert isinstance(store.write("thing-1", version - 1), Appended)
        proxy.cut()
        assert len(store.stored("thing-1")) == version + 1


_REPLACES_CONNECTIONS = """
import gc, sys
from adapters.eventstoredb.event_store import EventStoreDbStore
from tests.support.processes import open_sockets
from tests.support.waiting import DEADLINE_S, eventually
store, before = EventStoreDbStore(sys.argv[1], settle_s=DEADLINE_S), open_sockets()
store.head()
print("connected" if open_sockets() > before else "never connected", flush=True)
eventually(lambda: gc.collect() >= 0 and open_sockets() <= before + 1, "all but the last are closed")
store.close()
"""


def test_replaced_connections_are_closed(node: Node, proxy: Proxy) -> None:
    # In a process of its own, which has no other sockets.
    node.plan = once(Point.READ, *[Fault.UNAVAILABLE] * 8)

    process = start_python(_REPLACES_CONNECTIONS, proxy.url)
    out, err = process.communicate(timeout=2 * DEADLINE_S)

    assert (process.returncode, out) == (0, "connected\n"), err
    assert node.calls["Read"] == proxy.connections == 9, "each attempt has a connection of its own"


def test_opening_a_store_does_not_connect(proxy: Proxy, open_store: OpenStore) -> None:
    store = open_store(proxy.url)
    time.sleep(0.1)
    assert proxy.connections == 0

    store.head()

    assert proxy.connections == 1


def test_a_closed_store_stays_closed(store: Store, node: Node) -> None:
    # Trap: a closed esdbclient opens itself again.
    store.write()
    store.close()
    calls = node.calls.total()

    for call in ("append", "follow"):
        with pytest.raises(PartUnavailable, match="closed"):
            CALLS[call](store)

    assert node.calls.total() == calls


_FORKS = """
import os, sys
from adapters.eventstoredb.event_store import EventStoreDbStore
from domain.kernel.errors import PartUnavailable
store = EventStoreDbStore(sys.argv[1])
if sys.argv[2] == "used":
    store.head()
child = os.fork()
if child == 0:
    try:
        print("head", store.head(), flush=True)
    except PartUnavailable as error:
        print(error, flush=True)
    store.close()
    os._exit(0)
os.waitpid(child, 0)
print("parent", store.head())
"""


@pytest.mark.parametrize(
    ("used", "printed"),
    [
        ("used", "EventStoreDB is unavailable: its connection was inherited"),
        ("new", "head 0"),
    ],
)
def test_a_connection_is_not_used_after_a_fork(node: Node, used: str, printed: str) -> None:
    # Trap: gRPC would hang and ignore its deadline.
    process = start_python(_FORKS, node.url, used)

    out, err = process.communicate(timeout=DEADLINE_S)

    assert process.returncode == 0, err
    child, parent = out.splitlines()
    assert child.startswith(printed)
    assert parent == "parent 0"


_ENDS_WITHOUT_CLOSING = """
import sys
from adapters.eventstoredb.event_store import EventStoreDbStore
from tests.support.eventstoredb import an_item
store = EventStoreDbStore(sys.argv[1])
print(len(store.append([an_item()])), flush=True)
raise SystemExit(3)
"""


def test_a_process_ends_although_its_store_is_open(node: Node) -> None:
    # Trap: gRPC waits for ever for the call of the appends.
    process = start_python(_ENDS_WITHOUT_CLOSING, node.url)

    out, err = process.communicate(timeout=DEADLINE_S)

    assert (process.returncode, out) == (3, "1\n"), err


def test_grpc_is_not_loaded_before_a_store_is_opened() -> None:
    code = "import sys, adapters.wiring; print(any(m.split('.')[0] in ('grpc', 'esdbclient') for m in sys.modules))"
    out, err = start_python(code).communicate(timeout=DEADLINE_S)
    assert out == "False\n", err
