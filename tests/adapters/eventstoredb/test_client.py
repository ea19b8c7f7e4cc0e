"""The corrected esdbclient: undocumented names, keepalive, clusters. `Trap` marks surprises of esdbclient."""

from __future__ import annotations

import ast
import inspect
import time
from contextlib import ExitStack, closing
from importlib import import_module
from operator import attrgetter
from pathlib import Path
from typing import Any

import grpc  # type: ignore[import-untyped]
import pytest

from adapters.eventstoredb import client as our_client
from adapters.eventstoredb.driver import LIBRARY, EventStoreDBClient, shared_pb2, streams_pb2
from domain.kernel.errors import PartUnavailable
from domain.kernel.ports.event_store import Appended
from tests.support.eventstoredb import GIVE_UP_S, SLACK_S, OpenStore
from tests.support.node import Cluster, Node, Proxy
from tests.support.waiting import DEADLINE_S, assert_within

SIGNATURES = """
client.EventStoreDBClient._construct_esdb_connection self grpc_target grpc_options
client.EventStoreDBClient._construct_grpc_channel self grpc_target grpc_options
client.EventStoreDBClient._discover_preferred_node self
client.EventStoreDBClient._select_preferred_member self cluster_members
client.EventStoreDBClient.construct_call_credentials self username password
common.ESDBService._metadata self metadata requires_leader
common.handle_rpc_error e
connection.ESDBConnection.close self
connection_spec.ConnectionSpec uri
gossip.ClusterMember state address port
gossip.GossipService.read self timeout metadata credentials
streams.StreamsService._convert_batch_append_resp response stream_name current_version
"""
ATTRIBUTES = """
client _call_metadata _call_credentials _connection.gossip connection_spec streams._stub.BatchAppend streams._stub.Read
spec scheme targets uri
request ByteSize correlation_id.string proposed_messages options.deadline.nanos options.no_stream \
options.stream_position options.stream_identifier
read options.all options.stream options.filter.event_type options.filter.stream_identifier \
options.uuid_option.structured options.subscription
message event.event.commit_position event.event.metadata checkpoint.commit_position confirmation caught_up fell_behind
response correlation_id error.details.Unpack error.details.type_url success.current_revision \
success.position.commit_position
conflict current_stream_revision
id string structured.most_significant_bits structured.least_significant_bits
"""


def table(text: str) -> list[tuple[str, list[str]]]:
    """The first word of each line, and the other words."""
    return [(line.split()[0], line.split()[1:]) for line in text.strip().splitlines()]


@pytest.mark.parametrize(("name", "parameters"), table(SIGNATURES))
def test_an_undocumented_function_has_its_signature(name: str, parameters: list[str]) -> None:
    module, _, path = name.partition(".")
    if LIBRARY == "kurrentdbclient":
        path = path.replace("ESDB", "KurrentDB").replace("EventStoreDB", "KurrentDB")
    function = attrgetter(path)(import_module(f"{LIBRARY}.{module}"))
    found = inspect.signature(function).parameters.values()

    assert [parameter.name for parameter in found if parameter.name in parameters] == parameters
    new = [parameter for parameter in found if parameter.name not in parameters]
    assert all(parameter.default is not parameter.empty for parameter in new)


@pytest.mark.parametrize(("owner", "names"), table(ATTRIBUTES))
def test_an_undocumented_object_has_its_attributes(node: Node, owner: str, names: list[str]) -> None:
    with closing(EventStoreDBClient(node.url)) as client:
        owners = {"client": client, "spec": client.connection_spec}
        owners |= {"request": streams_pb2.BatchAppendReq(), "response": streams_pb2.BatchAppendResp()}
        owners |= {"read": streams_pb2.ReadReq(), "message": streams_pb2.ReadResp()}
        owners |= {"conflict": shared_pb2.WrongExpectedVersion(), "id": shared_pb2.UUID()}

        for name in names:
            attrgetter(name)(owners[owner])


DOCUMENTED = {
    "DeadlineExceeded",
    "NO_RECORD",
    "Options",
    "Url",
    "failures",
    "grpc",
    "parse_url",
    "status_of",
}
"""What `driver` gives every module."""


def test_only_the_modules_of_calls_use_undocumented_names() -> None:
    users = {
        path.name
        for path in Path(our_client.__file__).parent.glob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module == "adapters.eventstoredb.driver"
        if not {alias.name for alias in node.names} <= DOCUMENTED
    }

    assert users == {"append_call.py", "client.py", "duplex.py", "messages.py"}


def test_a_connection_has_a_keepalive_that_the_url_can_change(
    open_store: OpenStore, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Trap: esdbclient makes an option of the URL's interval that gRPC does not know.
    seen: list[dict[str, object]] = []
    original = grpc.insecure_channel

    def insecure_channel(target: str, options: Any) -> Any:
        seen.append(dict(options))
        return original(target, options)

    monkeypatch.setattr(grpc, "insecure_channel", insecure_channel)
    for chosen in ("", "&keepAliveInterval=7000&keepAliveTimeout=9000"):
        open_store(node.url + chosen).head()

    names = ("grpc.keepalive_time_ms", "grpc.keepalive_timeout_ms", "grpc.http2.ping_timeout_ms")
    found = [tuple(options[name] for name in names) for options in seen]
    assert found == [(2000, 2000, 2000), (7000, 9000, 9000)]


# --- clusters --------------------------------------------------------------------------------


def test_with_several_hosts_the_leader_is_followed(cluster: Cluster, open_store: OpenStore) -> None:
    store = open_store(cluster.url)
    for version in range(6):
        cluster.leader = cluster.nodes[version % 3]
        assert isinstance(store.write("thing-1", version - 1), Appended)
        assert len(store.stored("thing-1")) == version + 1


def test_with_several_hosts_one_may_be_unavailable(cluster: Cluster, open_store: OpenStore) -> None:
    store = open_store(cluster.url)
    store.write("thing-1")
    cluster.nodes[0].is_unavailable = True
    cluster.leader = cluster.nodes[1]

    assert isinstance(store.write("thing-1", 0), Appended)


def test_with_several_hosts_one_may_know_no_leader(cluster: Cluster, open_store: OpenStore) -> None:
    cluster.nodes[0].is_cut_off = True
    cluster.leader = cluster.nodes[2]

    assert isinstance(open_store(cluster.url).write(), Appended)
    assert cluster.nodes[0].calls == {"Gossip": 1}


def test_silent_hosts_together_take_the_time_of_one_call(cluster: Cluster, open_store: OpenStore) -> None:
    with ExitStack() as closed:
        proxies = [closed.enter_context(closing(Proxy(node.port))) for node in cluster.nodes]
        for proxy in proxies:
            proxy.freeze()
        url = f"esdb://{','.join(f'127.0.0.1:{proxy.port}' for proxy in proxies)}?tls=false"

        def give_up() -> None:
            store = open_store(url, settle_s=0.6)
            with closing(store), pytest.raises(PartUnavailable, match="no leader"):
                store.head()

        assert_within(0.6 + SLACK_S, give_up)


def test_a_silent_host_leaves_time_for_the_others(cluster: Cluster, open_store: OpenStore) -> None:
    cluster.leader = cluster.nodes[2]
    with closing(Proxy(cluster.nodes[0].port)) as proxy:
        proxy.freeze()
        url = cluster.url.replace(str(cluster.nodes[0].port), str(proxy.port))
        with closing(open_store(url, settle_s=GIVE_UP_S)) as store:
            assert isinstance(store.write(), Appended)


def test_a_cluster_is_discovered_through_any_node(cluster: Cluster, open_store: OpenStore) -> None:
    cluster.leader = cluster.nodes[2]
    store = open_store(cluster.nodes[1].url.replace("esdb:", "esdb+discover:"))

    assert isinstance(store.write(), Appended)
    assert [node.calls["BatchAppend"] for node in cluster.nodes[1:]] == [0, 1]


def test_a_follower_reads_from_the_leader(cluster: Cluster, open_store: OpenStore) -> None:
    open_store(cluster.url).followed()

    assert cluster.leader.calls["Read"] > 0
    assert sum(node.calls["Read"] for node in cluster.nodes if node is not cluster.leader) == 0


def test_a_single_host_that_does_not_lead_is_refused_with_a_hint(
    cluster: Cluster, open_store: OpenStore
) -> None:
    # Trap: with one host esdbclient does not follow the leader.
    store = open_store(cluster.nodes[1].url)
    started_s = time.monotonic()
    for call in (store.write, store.head):
        with pytest.raises(PartUnavailable, match="not the leader") as raised:
            call()
        assert "esdb+discover" in raised.value.hint

    assert time.monotonic() - started_s < DEADLINE_S / 2, "a retry would change nothing"


def test_only_the_streams_and_gossip_services_are_used(cluster: Cluster, open_store: OpenStore) -> None:
    # Trap: persistent subscriptions redeliver, park and buffer acknowledgements; none is used here.
    store = open_store(cluster.url)
    store.write()
    store.head()
    store.followed()

    methods = {"streams.Streams/BatchAppend", "streams.Streams/Read", "gossip.Gossip/Read"}
    assert set().union(*(node.methods for node in cluster.nodes)) == methods
