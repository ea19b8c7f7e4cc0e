"""Turn the URL of a broker into connection parameters, with TLS.

Promise: a URL that cannot work is refused with the reason. Refusal: no error repeats the URL, because it may
hold a password.
"""

from __future__ import annotations

import ssl
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qsl, urlencode, urlsplit, urlunsplit

import pika  # type: ignore[import-untyped]

from domain.kernel.errors import InvalidSetting

CONNECT_TIMEOUT_S = 3
_HEARTBEAT_S = 30
_BLOCKED_TIMEOUT_S = 60


def parameters_of(url: str) -> list[Any]:
    """The connection parameters for each host of `amqp(s)://user:password@host,host/vhost?…`.

    Query parameters: `cafile`, `certfile` and `keyfile` (amqps), and those of pika such as `heartbeat`
    (seconds). Raises InvalidSetting.
    """
    try:
        parts = urlsplit(url)
    except ValueError:
        raise _unusable() from None  # its text repeats user and password
    # After a / ? or # in a password the rest would be read as path and options, and errors show those.
    if "@" in url.replace(parts.netloc, "", 1):
        raise InvalidSetting("broker", "has an @ after the host; percent-encode special characters")
    given = parse_qsl(parts.query, keep_blank_values=True)
    if not all(value for _, value in given):
        raise InvalidSetting(
            "broker", "has a parameter without a value"
        )  # it may be a secret: it is not named
    query = dict(given)
    files = {name: query.pop(name, None) for name in ("cafile", "certfile", "keyfile")}
    for name in query:
        if not hasattr(pika.URLParameters, f"_set_url_{name}") or name == "ssl_options":
            raise InvalidSetting("broker", f"has the unknown parameter {name!r}")
    if parts.scheme != "amqps" and any(files.values()):
        raise InvalidSetting("broker", "names certificates, which need amqps://")
    query.setdefault("heartbeat", str(_HEARTBEAT_S))
    query.setdefault("blocked_connection_timeout", str(_BLOCKED_TIMEOUT_S))
    query.setdefault("socket_timeout", str(CONNECT_TIMEOUT_S))
    query.setdefault("stack_timeout", str(CONNECT_TIMEOUT_S))
    user, at, hosts = parts.netloc.rpartition("@")
    chosen = []
    for host in hosts.split(","):
        one_host = (parts.scheme, user + at + host, parts.path, urlencode(query), "")
        try:
            parameters = pika.URLParameters(urlunsplit(one_host))
        except (ValueError, TypeError, AttributeError):
            raise _unusable() from None  # its text repeats what it could not read
        if parts.scheme == "amqps":
            parameters.ssl_options = pika.SSLOptions(_tls_context(files), parameters.host)
        chosen.append(parameters)
    return chosen


def _unusable() -> InvalidSetting:
    return InvalidSetting(
        "broker", "is not a usable amqp:// or amqps:// URL; percent-encode special characters"
    )


def _tls_context(files: Mapping[str, str | None]) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=files["cafile"])
        if files["certfile"]:
            context.load_cert_chain(files["certfile"], files["keyfile"])
    except (OSError, ValueError) as error:  # ssl.SSLError is an OSError
        reason = (isinstance(error, OSError) and error.strerror) or "not a certificate or key"
        raise InvalidSetting(
            "broker", f"names a CA, certificate or key file that is unusable: {reason}"
        ) from error
    return context
