"""No process of the oracle outlives its parent, its deadline, or a polite request to end."""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
from typing import Final

_PR_SET_PDEATHSIG: Final = 1  # linux/prctl.h


def die_with_parent(parent_pid: int, death_signal: signal.Signals = signal.SIGKILL) -> None:
    """Ask the kernel for ``death_signal`` when the parent dies; exit now if it is dead already."""
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.prctl(_PR_SET_PDEATHSIG, int(death_signal), 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG)")
    if os.getppid() != parent_pid:
        sys.exit(0)


def spawn(module: str, arguments: list[str], fds: list[int]) -> subprocess.Popen[bytes]:
    """Start a module of the oracle as a child that inherits ``fds`` and dies with this process.

    BLAS gets one thread: threads of its own would hide CPU time from the ledgers.
    """
    environment = {**os.environ, "OPENBLAS_NUM_THREADS": "1", "OMP_NUM_THREADS": "1"}
    environment |= {"MKL_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"}
    return subprocess.Popen(
        [sys.executable, "-m", module, "--parent", str(os.getpid()), *arguments],
        pass_fds=fds,
        env=environment,
        stdin=subprocess.DEVNULL,
    )


def become_child(parent_pid: int) -> None:
    """What every child does first: tie its life to its parent, leave Ctrl-C to the parent."""
    die_with_parent(parent_pid)
    signal.signal(signal.SIGINT, signal.SIG_IGN)


def end_child(child: subprocess.Popen[bytes], grace_s: float = 3.0) -> None:
    """Wait for a child whose channels are closed; kill it when it does not end by itself."""
    try:
        child.wait(grace_s)
    except subprocess.TimeoutExpired:
        child.kill()
        child.wait()
