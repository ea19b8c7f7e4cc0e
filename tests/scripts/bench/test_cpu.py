"""The meter of CPU time counts the processes of its groups, since it was restarted."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from pathlib import Path

from scripts.bench.cpu import Meter, cpu_s, listener, peak_mb, with_children, written_bytes
from tests.support.processes import start_python
from tests.support.waiting import eventually

_BUSY = "import time\nwhile True: time.process_time()"
_BUSY_FOR_A_WHILE = "import time\nwhile time.process_time() < 0.3: pass"
_IDLE = "import sys; print('ready', flush=True); sys.stdin.read()"


def end(process: subprocess.Popen[str]) -> None:
    process.kill()
    process.communicate()


def test_the_meter_counts_a_busy_process_and_not_an_idle_one() -> None:
    busy, idle = start_python(_BUSY), start_python(_IDLE)
    try:
        assert idle.stdout is not None
        assert idle.stdout.readline() == "ready\n"
        meter = Meter({"busy": lambda: [busy.pid], "idle": lambda: [idle.pid]})
        eventually(lambda: meter.read()["busy"] > 0.2, "the busy process uses CPU time")
        assert meter.read()["idle"] < 0.1
    finally:
        end(busy)
        end(idle)


def test_the_meter_leaves_out_what_was_used_before() -> None:
    began_s = time.process_time()
    while time.process_time() - began_s < 0.1:
        pass
    assert cpu_s(os.getpid()) > 0.1
    assert Meter({"own": lambda: [os.getpid()]}).read()["own"] < 0.1


def test_a_process_that_has_ended_uses_nothing() -> None:
    process = start_python("")
    end(process)
    assert cpu_s(process.pid) == 0.0


def test_a_server_is_found_by_its_port() -> None:
    with socket.create_server(("127.0.0.1", 0)) as server:
        port = server.getsockname()[1]
        assert listener(port) == os.getpid()
    assert listener(port) == 0


def test_the_meter_counts_the_bytes_that_a_process_writes_to_files(tmp_path: Path) -> None:
    meter = Meter({"own": lambda: [os.getpid()]}, written_bytes)
    (tmp_path / "file").write_bytes(b"x" * 100_000)

    assert 100_000 <= meter.read()["own"] < 200_000


def test_the_peak_of_memory_includes_what_was_freed() -> None:
    before = peak_mb(os.getpid())
    del (bytes_ := bytearray(int(before + 50) * 1_000_000))[:]

    assert bytes_ == b""
    assert peak_mb(os.getpid()) > before + 20


def test_the_child_processes_of_a_worker_count_with_it() -> None:
    child = start_python(_IDLE)
    try:
        assert {os.getpid(), child.pid} <= set(with_children([os.getpid()]))
        assert with_children([child.pid]) == [child.pid]
    finally:
        end(child)


def test_the_cpu_of_a_child_that_has_ended_counts_with_its_parent() -> None:
    meter = Meter({"own": lambda: [os.getpid()]})
    subprocess.run([sys.executable, "-c", _BUSY_FOR_A_WHILE], check=True)

    assert meter.read()["own"] > 0.2
