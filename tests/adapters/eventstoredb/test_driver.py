"""The client library, whichever is installed: options of a URL, and the status behind a failure."""

from __future__ import annotations

from dataclasses import asdict

from adapters.eventstoredb.driver import parse_url

CHOSEN = {
    "tls": False,
    "tls_verify_cert": False,
    "tls_ca_file": "ca.pem",
    "user_cert_file": "user.pem",
    "user_key_file": "user.key",
    "node_preference": "follower",
    "connection_name": "orders",
    "keep_alive_interval": 7000,
    "keep_alive_timeout": 9000,
    "max_discover_attempts": 3,
    "discovery_interval": 40,
    "gossip_timeout": 8,
}


def test_a_url_gives_every_option_that_it_contains() -> None:
    query = "&".join(f"{name.replace('_', '')}={str(value).lower()}" for name, value in CHOSEN.items())

    url = parse_url(f"esdb://user:secret@one:1,two?{query}")

    assert asdict(url.options) == CHOSEN
    assert (url.scheme, url.targets) == ("esdb", ("one:1", "two:2113"))


def test_a_url_without_options_uses_tls_and_follows_the_leader() -> None:
    options = parse_url("esdb://user:secret@one").options

    assert (options.tls, options.tls_verify_cert, options.node_preference) == (True, True, "leader")
    assert (options.keep_alive_interval, options.keep_alive_timeout, options.tls_ca_file) == (
        None,
        None,
        None,
    )
