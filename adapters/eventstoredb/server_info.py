"""What a server says about itself on its HTTP page `/info`, for `es doctor`.

The gRPC protocol has no call for this that every supported version answers.
"""

from __future__ import annotations

import contextlib
import email.utils
import http.client
import json
import ssl
import urllib.request
from collections.abc import Callable
from datetime import datetime
from typing import Any

from adapters.eventstoredb.driver import Options
from adapters.eventstoredb.url import checked

_TIMEOUT_S = 2.0  # for all hosts together


def server_facts(url: str, *, now_us: Callable[[], int]) -> tuple[tuple[int, ...] | None, int]:
    """The server's version, for example (23, 10, 7), and how far its clock is ahead of `now_us`, in µs.

    The lead of the clock is a lower bound: HTTP dates have whole seconds, so less than one second is 0.
    Returns (None, 0) if no host answers.
    """
    parsed = checked(url)
    for target in parsed.targets:
        before_us = now_us()
        with contextlib.suppress(OSError, http.client.HTTPException, ValueError, TypeError, AttributeError):
            info, date = _info_of(target, parsed.options, timeout_s=_TIMEOUT_S / len(parsed.targets))
            version = info.get("esVersion") or info.get("dbVersion") or ""
            numbers = tuple(int(part) for part in version.split("-")[0].split("."))
            least_us = int(date.timestamp()) * 1_000_000 - now_us()
            most_us = least_us + now_us() - before_us + 1_000_000
            return numbers, max(least_us, 0) or min(most_us, 0)
    return None, 0


def _info_of(target: str, options: Options, *, timeout_s: float) -> tuple[Any, datetime]:
    """The page as JSON, and the time at which the server sent it."""
    context = ssl.create_default_context(cafile=options.tls_ca_file)
    # No proxy: the other calls to the server use none either.
    handlers = urllib.request.ProxyHandler({}), urllib.request.HTTPSHandler(context=context)
    scheme = "https" if options.tls else "http"
    with urllib.request.build_opener(*handlers).open(f"{scheme}://{target}/info", timeout=timeout_s) as page:
        return json.load(page), email.utils.parsedate_to_datetime(page.headers["Date"])
