"""Begin to trace this process: find the library, configure it, and wait to be told to record.

Records are wanted while somebody holds the FIFO beside the spool file open for writing; when the
session ends, in whatever way, its end of the FIFO closes and the tracer stops. Standard library
only (see the package).
"""

from __future__ import annotations

import atexit
import os
import threading
from pathlib import Path

from .. import wire
from .._library import Library, LibraryUnusable
from .._search import find_sdk
from ..sdk import Options, Tracer
from ..spool_writer import SpoolWriter

HIP_API = "CPUTAX_ROCPROF_HIP_API"
_tracers: list[Tracer] = []  # for ever: the library may call late


def begin(directory: str) -> None:
    """Trace this process into ``directory``, if it has rocprofiler-sdk."""
    path = find_sdk(os.environ)
    if path is None or not os.path.isdir(directory):
        return
    spool = SpoolWriter(os.path.join(directory, f"{os.getpid()}.spool"))
    try:
        library = Library(path)
    except LibraryUnusable as error:
        spool.tell(wire.PROBLEM, {"status": None, "text": str(error)})
        spool.close()
        return
    tracer = Tracer(library, spool, Options(is_hip_traced=os.environ.get(HIP_API) == "1"))
    _tracers.append(tracer)
    # Not at the C library's exit: Python is gone then.
    atexit.register(tracer.close)
    os.register_at_fork(after_in_child=tracer.abandon)
    if tracer.configure():
        control = Path(directory, f"{os.getpid()}.control")
        control.unlink(missing_ok=True)
        os.mkfifo(control, 0o600)
        threading.Thread(
            target=_serve, args=(tracer, control), name="cputax-rocprof", daemon=True
        ).start()


def _serve(tracer: Tracer, control: Path) -> None:
    """Record whenever somebody holds the FIFO open."""
    while True:
        try:
            descriptor = os.open(control, os.O_RDONLY | os.O_CLOEXEC)  # waits for a writer
        except OSError:  # the session took its directory away
            return
        try:
            tracer.start()
            while os.read(descriptor, 1):
                pass
        finally:
            os.close(descriptor)
            tracer.stop()
