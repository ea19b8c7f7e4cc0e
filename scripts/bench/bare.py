"""What a client without this program reaches with the same node: append, and read all events.

    python -m scripts.bench.bare URL append COUNT | read COUNT

It prints one JSON object: `{"count", "seconds", "cpu_s"}`. The appends are events of a registration's size, each to a
stream of its own, 256 in flight over one open call. The read takes at most COUNT events.
"""

from __future__ import annotations

import json
import os
import queue
import sys
import time
from typing import Any
from uuid import uuid4

from esdbclient import EventStoreDBClient
from esdbclient.protos.Grpc import shared_pb2, streams_pb2
from google.protobuf import empty_pb2  # type: ignore[import-untyped]

from scripts.bench.bulks import GROUP

_DATA = b'{"email":"%s","name":"%s","registered_at_us":1767225600000000}' % (b"e" * 120, b"n" * 120)
_METADATA = b'{"command_id":"%s","actor":"bench"}' % (b"0" * 190)


class Bare:
    """The generated stub, without the Python client's own objects for each event."""

    def __init__(self, url: str) -> None:
        client = self._client = EventStoreDBClient(
            url
        )  # kept: it closes when it is collected; for the options of the URL: TLS, credentials, the leader
        self._stub = client.streams._stub
        self._options = {
            "metadata": client.streams._metadata(client._call_metadata, requires_leader=True),
            "credentials": client._call_credentials,
        }

    def append(self, count: int) -> int:
        """Append `count` events, one a stream; a group is sent once the one before it is answered."""
        sending: queue.SimpleQueue[Any] = queue.SimpleQueue()
        answers = self._stub.BatchAppend(iter(sending.get, None), **self._options)
        for first in range(0, count, GROUP):
            size = min(GROUP, count - first)
            for _ in range(size):
                sending.put(_registration())
            for _ in range(size):
                assert next(answers).WhichOneof("result") == "success"
        sending.put(None)
        return count

    def read(self, count: int) -> int:
        """Read events of all streams from the first one on; their number."""
        options = streams_pb2.ReadReq.Options(
            all=streams_pb2.ReadReq.Options.AllOptions(start=shared_pb2.Empty()),
            count=count,
            no_filter=shared_pb2.Empty(),
            uuid_option=streams_pb2.ReadReq.Options.UUIDOption(string=shared_pb2.Empty()),
        )
        answers = self._stub.Read(streams_pb2.ReadReq(options=options), **self._options)
        return sum(answer.WhichOneof("content") == "event" for answer in answers)


def _registration() -> Any:
    message = streams_pb2.BatchAppendReq.ProposedMessage(
        id=shared_pb2.UUID(string=str(uuid4())),
        metadata={"type": "bare-registered.v1", "content-type": "application/json"},
        custom_metadata=_METADATA,
        data=_DATA,
    )
    stream = shared_pb2.StreamIdentifier(stream_name=f"bare-{uuid4().hex}".encode())
    return streams_pb2.BatchAppendReq(
        correlation_id=shared_pb2.UUID(string=str(uuid4())),
        options=streams_pb2.BatchAppendReq.Options(stream_identifier=stream, no_stream=empty_pb2.Empty()),
        proposed_messages=[message],
        is_final=True,
    )


def main() -> None:
    url, what, count = sys.argv[1:]
    bare = Bare(url)
    act = {"append": bare.append, "read": bare.read}[what]
    act(1)
    began_s, began_cpu_s = time.perf_counter(), time.process_time()
    done = act(int(count))
    seconds, cpu_s = time.perf_counter() - began_s, time.process_time() - began_cpu_s
    print(json.dumps({"count": done, "seconds": seconds, "cpu_s": cpu_s}), flush=True)
    os._exit(0)  # without waiting for threads of gRPC


if __name__ == "__main__":
    main()
