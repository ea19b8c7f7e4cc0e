"""The URL of an EventStoreDB, as its manual describes it.

Promise: a URL that cannot work is refused before the first connection, with the reason. Refusal: no error repeats
the URL, because it may contain a password.
"""

from __future__ import annotations

import re
from pathlib import Path
from urllib.parse import urlsplit

from adapters.eventstoredb.driver import Options, Url, parse_url
from adapters.eventstoredb.errors import PART
from domain.kernel.errors import InvalidSetting, PartUnavailable

_KURRENTDB = re.compile(r"^kurrentdb(?=(?:\+discover)?:)")


def checked(url: str) -> Url:
    """Parse a URL: `esdb://host:2113?tls=false`, with several hosts, or `esdb+discover://`.

    `kurrentdb` instead of `esdb` means the same. Raises InvalidSetting if it cannot work.
    """
    try:
        parsed = _parsed(url)
        reason = _problem_of(parsed.options)
    except (ValueError, AssertionError) as error:
        if "password are required" in str(error):
            reason = "needs a user and a password when it uses TLS (esdb://user:password@host), or tls=false"
        else:
            reason = "is not an EventStoreDB URL, such as esdb://localhost:2113?tls=false"
        raise InvalidSetting("store", reason) from None
    if reason:
        raise InvalidSetting("store", reason)
    if "#" in url:
        raise InvalidSetting("store", "contains a #; percent-encode special characters")
    return parsed


def _parsed(url: str) -> Url:
    # After a / ? # or @ in a password the rest would be parsed as hosts and options, and errors show the hosts.
    if "@" in url and (url.count("@") > 1 or "@" not in urlsplit(url).netloc):
        reason = "has a second @, or an @ in the wrong place; percent-encode special characters"
        raise InvalidSetting("store", reason)
    return parse_url(_KURRENTDB.sub("esdb", url))


def _problem_of(options: Options) -> str:
    """Why these options cannot work; empty if they can."""
    if options.node_preference != "leader":
        return "must not prefer another node than the leader: other nodes lag behind"
    if not options.tls_verify_cert:
        return "contains tlsVerifyCert=false, which has no effect; use tlsCaFile=…"
    if bool(options.user_cert_file) != bool(options.user_key_file):
        return "names only one of userCertFile and userKeyFile; give both or neither"
    if not (options.connection_name.isascii() and options.connection_name.isprintable()):
        return "has a connectionName with characters other than printable ASCII"
    limits = (
        options.keep_alive_interval,
        options.keep_alive_timeout,
        options.max_discover_attempts,
        options.discovery_interval,
        options.gossip_timeout,
    )
    if any(limit is not None and not 0 < limit < 1 << 31 for limit in limits):
        return "contains a number that is out of range"
    return ""


def check_files(options: Options) -> None:
    """Check the certificate files before gRPC reads them: it ends the process if one is empty.

    Raises PartUnavailable, and OSError for a file that cannot be read.
    """
    paths = {
        "tlsCaFile": options.tls_ca_file,
        "userCertFile": options.user_cert_file,
        "userKeyFile": options.user_key_file,
    }
    for name, path in paths.items():
        if path and b"-----BEGIN" not in Path(path).read_bytes():
            reason = f"the file of {name} contains no certificate or key"
            raise PartUnavailable(PART, reason, "Replace the file, or correct its path in `ES_STORE`.")
