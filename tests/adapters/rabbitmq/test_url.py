"""URLs of brokers: hosts, options, defaults and refusals."""

from __future__ import annotations

import pytest

from adapters.rabbitmq.url import parameters_of
from domain.kernel.errors import InvalidInput


def test_a_url_names_several_hosts_and_passes_options_on() -> None:
    first, second = parameters_of("amqp://me:secret@one:1111,two:2222/here?heartbeat=7")

    assert [(each.host, each.port) for each in (first, second)] == [("one", 1111), ("two", 2222)]
    assert (second.virtual_host, second.heartbeat, second.credentials.password) == ("here", 7, "secret")


@pytest.mark.parametrize(
    ("url", "reason"),
    [
        ("amqp://me:secret@host/?colour=red", "colour"),
        ("amqp://host/?secret", "without a value"),
        ("amqp://host/?heartbeat=7&secret=", "without a value"),
        ("amqp://me:secret@host/?heartbeat=soon", "not a usable"),
        ("amqp://me:secret@host:port/", "not a usable"),
        ("amqp://me:secret@host/?cafile=/tmp/ca.pem", "need amqps"),
        ("amqps://me:secret@host/?cafile=/nowhere/ca.pem", "No such file"),
        ("amqps://me:secret@host/?certfile=/dev/null", "unusable"),
    ],
)
def test_a_url_that_cannot_work_is_refused_without_being_repeated(url: str, reason: str) -> None:
    with pytest.raises(InvalidInput, match=reason) as refused:
        parameters_of(url)

    assert "secret" not in str(refused.value)


def test_a_connection_has_heartbeats_and_a_timeout_for_being_blocked() -> None:
    (usual,) = parameters_of("amqp://host/")

    assert (usual.heartbeat, usual.blocked_connection_timeout) == (30, 60)
