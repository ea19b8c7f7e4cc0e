"""A private RabbitMQ that a test stops, kills and overloads."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from tests.support.servers import RabbitMQ
from tests.support.system import System
from tests.support.waiting import eventually


class Broker:
    def __init__(self, server: RabbitMQ) -> None:
        self._server = server
        self._pid = server.pid()
        self._is_killed = False

    def stop(self) -> None:
        self._server.ctl("stop_app")

    def kill(self) -> None:
        self._server.kill(self._pid)
        self._is_killed = True

    def start(self) -> None:
        if self._is_killed:  # without rabbitmqctl, which is slow: a bulk would end before the next strike
            self._server.start_again()
            self._is_killed = False
        else:
            self._server.ctl("start_app")
            self._server.ctl("await_startup")

    @contextmanager
    def alarm(self) -> Iterator[None]:
        """Exceed the memory limit during the block, so that the broker accepts no messages."""
        self._server.ctl("set_vm_memory_high_watermark", "absolute", "1")
        try:
            eventually(
                lambda: "memory" in self._server.ctl("eval", "rabbit_alarm:get_alarms()."), "the alarm"
            )
            yield
        finally:
            self._server.ctl("set_vm_memory_high_watermark", "0.6")

    def cut(self, system: System) -> None:
        """Close every connection of a system."""
        vhost = system.environment["ES_BROKER"].rpartition("/")[2]
        self._server.ctl("close_all_connections", "--vhost", vhost, "cut by a test")
