"""A small process between LocalTriton and its server, so that the server never outlives the process that started it.

Run as a script by the server environment's Python, without site-packages: `guard.py PARENT SHM_PREFIX COMMAND...`. It starts
the command in a session of its own, prints its process id, and waits. SIGTERM is passed on to the server. When the parent
is gone, the server gets SIGTERM and, ten seconds later, SIGKILL. When the server has ended, whatever is left of its
process group (the backends' stubs) and of its shared memory is removed, and the guard ends with the server's exit status
(128 + the signal's number if a signal ended it).

Why not PR_SET_PDEATHSIG alone: it fires when the parent's *thread* ends that started the child, and a server may well be
started from a thread. The guard has one thread only, so it can use it for the server: should the guard itself be killed, the
server gets SIGTERM.
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

GRACE_SECONDS = 10.0
LOOK_SECONDS = 0.5
PR_SET_PDEATHSIG = 1
SIGNALS = {signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGCHLD}
libc = ctypes.CDLL(None)


def main(arguments: list[str]) -> int:
    """Start the server, watch over it until it ends, and clean up after it."""
    parent, prefix, command = int(arguments[0]), arguments[1], arguments[2:]
    signal.pthread_sigmask(signal.SIG_BLOCK, SIGNALS)
    server = subprocess.Popen(command, stdout=sys.stderr, start_new_session=True, preexec_fn=_in_child)  # noqa: PLW1509  # one thread
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    _watch(server, parent)
    with contextlib.suppress(ProcessLookupError):
        os.killpg(server.pid, signal.SIGKILL)
    for left in Path("/dev/shm").glob(f"{prefix}*"):  # noqa: S108  # where Linux keeps shared memory
        left.unlink(missing_ok=True)
    return server.returncode if server.returncode >= 0 else 128 - server.returncode


def _watch(server: subprocess.Popen[bytes], parent: int) -> None:
    deadline = None
    while server.poll() is None:
        got = signal.sigtimedwait(SIGNALS, LOOK_SECONDS)
        if got is not None and got.si_signo != signal.SIGCHLD:
            server.terminate()
        if deadline is None and os.getppid() != parent:
            server.terminate()
            deadline = time.monotonic() + GRACE_SECONDS
        if deadline is not None and time.monotonic() > deadline:
            os.killpg(server.pid, signal.SIGKILL)


def _in_child() -> None:
    signal.pthread_sigmask(signal.SIG_UNBLOCK, SIGNALS)
    libc.prctl(PR_SET_PDEATHSIG, signal.SIGTERM)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
