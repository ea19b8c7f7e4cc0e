"""Add a delay to every round trip to a server, as a slow network does.

    python -m scripts.bench.proxy URL [--ms 10] [--for 600]

It listens on a free port of this machine and prints the URL through it. Each line on standard input sets another delay
in milliseconds. It ends by itself: with standard input, or after `--for` seconds. It connects to this machine only.
"""

from __future__ import annotations

import argparse
import ipaddress
import signal
import socket
import sys
from contextlib import closing, suppress
from urllib.parse import urlsplit

from tests.support.proxy import proxied


def refuse_other_machines(*urls: str) -> None:
    """Exit if a URL names another machine: nothing here may put load on one."""
    for url in urls:
        host = urlsplit(url).hostname or ""
        addresses = {entry[4][0] for entry in socket.getaddrinfo(host, None)}
        if not all(ipaddress.ip_address(address).is_loopback for address in addresses):
            sys.exit(f"{host} is another machine: only servers of this one are used")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("url")
    parser.add_argument("--ms", type=float, default=10.0, help="added to each round trip")
    parser.add_argument(
        "--for", dest="limit_s", type=int, default=600, help="the longest it runs, in seconds"
    )
    given = parser.parse_args()
    refuse_other_machines(given.url)
    signal.alarm(given.limit_s)
    proxy, url = proxied(given.url, round_trip_s=given.ms / 1000)
    with closing(proxy), suppress(KeyboardInterrupt):
        print(url, flush=True)
        for line in sys.stdin:
            proxy.round_trip_s = float(line) / 1000


if __name__ == "__main__":
    main()
