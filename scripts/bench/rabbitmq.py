"""Measure the throughput of a worker behind RabbitMQ, compared with a bare pika echo in the same run.

    python -m scripts.bench.rabbitmq [--url amqp://guest:guest@127.0.0.1/] [--seconds 3] [--rounds 5]

Without --url it starts a private RabbitMQ. A server of another machine is refused.
The yardstick is a bare echo on pika's SelectConnection: publishes batched between flushes, acknowledgements
with multiple=True, on a quorum queue like a worker's. The same bare client keeps 64 single commands in
flight against the echo and against a worker; then commands in bulk go through a caller to the worker.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, closing, contextmanager
from typing import Any
from uuid import uuid4

import pika  # type: ignore[import-untyped]

from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.server import RabbitServer
from domain.kernel.errors import PartUnavailable
from domain.kernel.messages import Question, Reply, Request
from scripts.bench.proxy import refuse_other_machines
from scripts.bench.report import Figures, Section, Wanted, lines_of, table
from tests.support.processes import ROOT
from tests.support.servers import started_rabbitmq
from tests.support.waiting import eventually
from workers.runtime.loop import serve

ECHO = "bench-echo"
WORKER = "bench-worker"
IN_FLIGHT = 64
COMMAND = {"command_id": str(uuid4()), "actor": "uid:1000", "input": {"user_id": "7", "name": "Ada Lovelace"}}


# --- the two servers, each a process of its own ------------------------------------------------


class Echo:
    """A service that does no work, so that only the transport and the loop are measured."""

    def handle(self, batch: Sequence[Request]) -> list[Reply]:
        return [request.body for request in batch]

    def close(self) -> None: ...


def run_worker(url: str) -> None:
    log = open_log("bench", None)
    server = RabbitServer(
        url, WORKER, log=log, on_serving=lambda: None, on_away=lambda _: None, describe=dict
    )
    serve(Echo(), server, stopping=threading.Event().is_set, log=log)


class BareEcho:
    """Reply to each message with its body. Acknowledge and flush once per batch."""

    def __init__(self, url: str) -> None:
        self._last = 0
        self._connection = pika.SelectConnection(
            pika.URLParameters(url), on_open_callback=lambda c: c.channel(on_open_callback=self._opened)
        )

    def run(self) -> None:
        self._connection.ioloop.start()

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.queue_declare(f"es.{ECHO}", durable=True, arguments={"x-queue-type": "quorum"})
        channel.basic_qos(prefetch_count=512)
        channel.basic_consume(f"es.{ECHO}", self._on_message)

    def _on_message(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        answer = pika.BasicProperties(correlation_id=properties.correlation_id)
        channel.basic_publish("", properties.reply_to, body, answer)
        if self._last == 0:
            self._connection.ioloop.call_later(0, self._acknowledge)
        self._last = method.delivery_tag

    def _acknowledge(self) -> None:
        self._channel.basic_ack(self._last, multiple=True)
        self._last = 0


@contextmanager
def process(which: str, url: str) -> Iterator[None]:
    program = [sys.executable, "-m", "scripts.bench.rabbitmq", "--url", url, "--run", which]
    started = subprocess.Popen(program, cwd=ROOT)
    try:
        yield
    finally:
        started.terminate()
        started.wait()


# --- the bare client -------------------------------------------------------------------------


class BareClient:
    """Keep a number of single commands in flight for some seconds and count the replies."""

    def __init__(self, url: str, queue: str, seconds: float) -> None:
        self._queue = queue
        self._seconds = seconds
        self._body = json.dumps({"kind": "bench.echo", "body": COMMAND}).encode()
        self._answers = 0
        self._connection = pika.SelectConnection(
            pika.URLParameters(url), on_open_callback=lambda c: c.channel(on_open_callback=self._opened)
        )

    def rate(self) -> float:
        """Replies per second."""
        self._connection.ioloop.start()
        return self._answers / self._took_s

    def _opened(self, channel: Any) -> None:
        self._channel = channel
        channel.basic_consume(
            "amq.rabbitmq.reply-to", self._on_reply, auto_ack=True, callback=lambda _: self._begin()
        )

    def _begin(self) -> None:
        self._began_s = time.perf_counter()
        for _ in range(IN_FLIGHT):
            self._publish()

    def _publish(self) -> None:
        properties = pika.BasicProperties(
            reply_to="amq.rabbitmq.reply-to", correlation_id="1", message_id="1", delivery_mode=2
        )
        self._channel.basic_publish("", self._queue, self._body, properties)

    def _on_reply(self, channel: Any, method: Any, properties: Any, body: bytes) -> None:
        self._answers += 1
        self._took_s = time.perf_counter() - self._began_s
        if self._took_s < self._seconds:
            self._publish()
        elif self._connection.is_open:
            self._connection.close()
            self._connection.ioloop.call_later(0.1, self._connection.ioloop.stop)


def bulk_rate(url: str, seconds: float) -> float:
    """Commands per second through one caller's pipeline."""
    began_s = time.perf_counter()

    def commands() -> Iterator[Question]:
        while time.perf_counter() - began_s < seconds:
            yield "bench.echo", COMMAND

    with closing(RabbitCaller(url)) as caller:
        caller.ask(WORKER, "bench.echo", COMMAND)
        began_s = time.perf_counter()
        count = sum(isinstance(reply, dict) for reply in caller.pipeline(WORKER, commands()))
        return count / (time.perf_counter() - began_s)


# --- the comparison --------------------------------------------------------------------------


def wait_for(url: str, role: str) -> None:
    """Wait until the queue of a role has a consumer."""

    def is_consumed() -> bool:
        # A channel for each look: a missing queue closes it.
        try:
            with open_channel(url) as channel:
                found = channel.queue_declare(f"es.{role}", passive=True)
        except PartUnavailable:
            return False
        return bool(found.method.consumer_count)

    eventually(is_consumed, f"{role} is served", within_s=60)


LINES = (
    Wanted(f"a bare echo, {IN_FLIGHT} in flight, per second", "echo"),
    Wanted(f"a worker, {IN_FLIGHT} in flight, per second", "single"),
    Wanted("  to the echo", "single", over="echo"),
    Wanted("a worker, commands in bulk, per second", "bulk"),
    Wanted("  to the echo", "bulk", over="echo"),
)


def section(figures: Figures, notes: Sequence[str]) -> Section:
    return Section("The transport over RabbitMQ", lines_of(LINES, figures), notes=notes)


def measure(figures: Figures, *, seconds: float, rounds: int, url: str | None = None) -> None:
    with ExitStack() as ending:
        broker = url or ending.enter_context(started_rabbitmq()).url
        refuse_other_machines(broker)
        ending.callback(_delete_queues, broker)
        ending.enter_context(process(ECHO, broker))
        ending.enter_context(process(WORKER, broker))
        for role in (ECHO, WORKER):
            wait_for(broker, role)
        for _ in range(rounds):
            # In turns, so that other processes disturb all three alike.
            figures.add("echo", BareClient(broker, f"es.{ECHO}", seconds).rate())
            figures.add("single", BareClient(broker, f"es.{WORKER}", seconds).rate())
            figures.add("bulk", bulk_rate(broker, seconds))


def _delete_queues(url: str) -> None:
    with open_channel(url) as channel:
        for name in (f"es.{ECHO}", f"es.{WORKER}", f"es.{WORKER}.dead"):
            channel.queue_delete(name)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--run", choices=[ECHO, WORKER], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run == ECHO:
        BareEcho(given.url).run()
    elif given.run == WORKER:
        run_worker(given.url)
    else:
        figures = Figures()
        measure(figures, seconds=given.seconds, rounds=given.rounds, url=given.url)
        print(table(section(figures, [])))


if __name__ == "__main__":
    main()
