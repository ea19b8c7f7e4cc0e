"""Measure the throughput of a worker behind RabbitMQ, compared with a bare pika echo in the same run.

    python scripts/bench_rabbitmq.py [--url amqp://guest:guest@127.0.0.1/] [--seconds 3] [--rounds 3]

The yardstick is a bare echo on pika's SelectConnection: publishes batched between flushes, acknowledgements
with multiple=True, on a quorum queue like a worker's. The same bare client keeps 64 single commands in
flight against the echo and against a worker; then commands in bulk go through a caller to the worker.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from uuid import uuid4

import pika  # type: ignore[import-untyped]

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from adapters.log import open_log
from adapters.rabbitmq.caller import RabbitCaller
from adapters.rabbitmq.connection import open_channel
from adapters.rabbitmq.server import RabbitServer
from domain.kernel.messages import Question, Reply, Request
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
    started = subprocess.Popen([sys.executable, __file__, "--url", url, "--run", which])
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
    with closing(RabbitCaller(url)) as caller:
        caller.ask(role, "bench.echo", COMMAND)


def compare(url: str, seconds: float, rounds: int) -> None:
    echo, single, bulk = [], [], []
    with process(ECHO, url), process(WORKER, url):
        wait_for(url, WORKER)
        time.sleep(1.0)  # the echo gives no signal that it is ready
        for _ in range(rounds):
            # In turns, so that other processes disturb all three alike.
            echo.append(BareClient(url, f"es.{ECHO}", seconds).rate())
            single.append(BareClient(url, f"es.{WORKER}", seconds).rate())
            bulk.append(bulk_rate(url, seconds))
    yardstick = statistics.median(echo)
    print(f"bare echo, {IN_FLIGHT} in flight     {yardstick:8,.0f}/s")
    for name, rates in ((f"worker, {IN_FLIGHT} in flight        ", single), ("worker, bulk", bulk)):
        rate = statistics.median(rates)
        print(f"{name:<27} {rate:8,.0f}/s   {rate / yardstick:.2f} × the echo")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--url", default="amqp://guest:guest@127.0.0.1/")
    parser.add_argument("--seconds", type=float, default=3.0)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--run", choices=[ECHO, WORKER], help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.run == ECHO:
        BareEcho(given.url).run()
    elif given.run == WORKER:
        run_worker(given.url)
    else:
        try:
            compare(given.url, given.seconds, given.rounds)
        finally:
            with open_channel(given.url) as channel:
                for name in (f"es.{ECHO}", f"es.{WORKER}", f"es.{WORKER}.dead"):
                    channel.queue_delete(name)


if __name__ == "__main__":
    main()
