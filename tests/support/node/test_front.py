"""One port answers gRPC and `/info`, whose date is as late as the server's."""

from __future__ import annotations

import http.client
import json
from contextlib import closing
from email.utils import parsedate_to_datetime

import pytest

from adapters.eventstoredb.driver import EventStoreDBClient
from tests.support.node import Front, Node
from tests.support.proxy import HOST
from tests.support.waiting import DEADLINE_S


def get(front: Front, path: str = "/info") -> http.client.HTTPResponse:
    connection = http.client.HTTPConnection(HOST, front.port, timeout=DEADLINE_S)
    connection.request("GET", path)
    return connection.getresponse()


def test_one_port_answers_both_protocols(node: Node) -> None:
    with closing(Front(node.port, version="24.10.4")) as front:
        info = get(front)
        with closing(EventStoreDBClient(front.url)) as client:
            client.get_commit_position(timeout=DEADLINE_S)

        assert (info.status, json.load(info)["esVersion"]) == (200, "24.10.4.0")
        assert get(front, "/stats").status == 404
    assert node.calls["Read"] == 1


@pytest.mark.parametrize(
    ("renewed_at_s", "now_s", "late_s"),
    [
        (0.999, 1000.998, 1.998),
        (0.999, 1000.0, 1.0),
        (0.25, 1000.5, 0.5),
        (0.25, 1000.125, 1.125),
        (0.0, 1000.0, 0.0),
    ],
)
def test_the_date_is_up_to_two_seconds_late(
    node: Node, renewed_at_s: float, now_s: float, late_s: float
) -> None:
    with closing(Front(node.port, renewed_at_s=renewed_at_s, now_s=lambda: now_s)) as front:
        date = parsedate_to_datetime(get(front).headers["Date"])

    assert now_s - date.timestamp() == pytest.approx(late_s)
