"""A server with a GPU that is not there: it does what it is told, one JSON line each.

* ``["import", NAME]`` imports a module and answers which of ours came with it;
  ``["module_file", NAME]`` answers where one was found.
* ``["fork"]`` has a child end at once, and answers its exit code.
* ``["trace", PATH, {...}]`` traces without the hook, with other options, until ``["stop"]`` and
  ``["close"]``.
* Any other is a function of the stand-in library and its arguments, whose result is answered.

It ends with its stdin, as Python programs end.
"""

from __future__ import annotations

import ctypes
import importlib
import json
import os
import sys
from pathlib import Path

from probes.rocprof import sdk
from probes.rocprof._library import Library
from probes.rocprof.spool_writer import MAX_WAITING_BYTES, SpoolWriter


def answer(value: object) -> None:
    print(json.dumps(value), flush=True)


def ended_child() -> int:
    """Fork a child that loads a kernel and ends as Python ends; return its exit code."""
    child = os.fork()
    if child == 0:
        library().fake_load_kernel(ctypes.c_uint64(99), b"in_the_child", 0)
        sys.exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def library() -> ctypes.CDLL:
    return ctypes.CDLL(str(Path(os.environ["ROCM_PATH"], "lib", "librocprofiler-sdk.so.1")))


def trace(path: str, options: dict[str, int]) -> sdk.Tracer:
    """Begin to record, as the hook does, with small buffers or another policy."""
    max_waiting_bytes = options.pop("max_waiting_bytes", MAX_WAITING_BYTES)
    spool = SpoolWriter(path, max_waiting_bytes)
    tracer = sdk.Tracer(Library(Path(library()._name)), spool, sdk.Options(**options))
    assert tracer.configure()
    tracer.start()
    return tracer


def main() -> None:
    answer(os.getpid())
    for line in sys.stdin:
        name, *arguments = json.loads(line)
        if name == "import":
            importlib.import_module(arguments[0])
            answer(sorted(one for one in sys.modules if "cputax" in one))
        elif name == "module_file":
            answer(sys.modules[arguments[0]].__file__)
        elif name == "trace":
            tracer = trace(*arguments)
            answer(None)
        elif name in ("stop", "close"):
            getattr(tracer, name)()
            answer(None)
        elif name == "fork":
            answer(ended_child())
        else:
            function = getattr(library(), name)
            function.restype = ctypes.c_uint64
            answer(function(*[one.encode() if isinstance(one, str) else ctypes.c_uint64(one)
                              for one in arguments]))  # fmt: skip


main()
