"""A question before a change can be left with a signal at any moment."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from tests.support.processes import ROOT
from tests.support.waiting import DEADLINE_S

# The kernel hands the signal to the other thread, as if it had come just before the main thread waited: nothing wakes
# that one. Only a sleep that is not of the interpreter's own lock counts as waiting.
_ASKED_AND_INTERRUPTED = """
import os, pty, signal, threading, time
from pathlib import Path
from cli import session

ours, theirs = pty.openpty()
os.dup2(theirs, 0)
os.dup2(theirs, 2)
main = threading.get_native_id()

def interrupt():
    signal.pthread_sigmask(signal.SIG_UNBLOCK, {signal.SIGINT})
    while b"[y/N]" not in os.read(ours, 4096):
        pass
    for _ in range(1000):  # some kernels do not tell
        told = Path(f"/proc/self/task/{main}/wchan").read_text()
        if told not in ("", "0") and "futex" not in told:
            break
        time.sleep(0.001)
    signal.pthread_kill(threading.get_ident(), signal.SIGINT)

signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGINT})
threading.Thread(target=interrupt, daemon=True).start()
try:
    session.ask_first("Erase?", because="it is final", yes=False)
except KeyboardInterrupt:
    print("interrupted")
"""


@pytest.mark.skipif(not Path("/proc/self").exists(), reason="needs /proc to see what a thread waits for")
def test_a_signal_that_comes_just_before_the_wait_ends_it() -> None:
    done = subprocess.run(
        [sys.executable, "-c", _ASKED_AND_INTERRUPTED],
        cwd=ROOT,
        capture_output=True,
        text=True,
        timeout=DEADLINE_S,
    )

    assert (done.returncode, done.stdout) == (0, "interrupted\n"), done
