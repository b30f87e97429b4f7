"""A program that looks to an attacher as the given libraries and threads make it look.

Arguments: libraries to load; ``thread:NAME`` starts a thread of that name, ``child`` a child that
looks the same. It says when it is ready, and ends with its stdin.
"""

from __future__ import annotations

import ctypes
import json
import os
import subprocess
import sys
import threading
from pathlib import Path


def look_like(name: str, is_ready: threading.Event) -> None:
    """Give the thread its name, and have it wait for ever."""
    Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_text(name)
    is_ready.set()
    threading.Event().wait()


def main() -> None:
    child = None
    for argument in sys.argv[1:]:
        if argument.startswith("thread:"):
            is_ready = threading.Event()
            name = argument.removeprefix("thread:")
            threading.Thread(target=look_like, args=(name, is_ready), daemon=True).start()
            is_ready.wait()
        elif argument == "child":
            others = [one for one in sys.argv[1:] if one != "child"]
            reader, writer = os.pipe()
            child = subprocess.Popen(
                [sys.executable, __file__, *others], pass_fds=[writer],
                env={**os.environ, "HELLO_FD": str(writer)},
            )  # fmt: skip
            os.close(writer)
            with os.fdopen(reader) as hello:
                hello.readline()
        else:
            ctypes.CDLL(argument)
    with os.fdopen(int(os.environ["HELLO_FD"]), "w") as hello:
        print(json.dumps({"child": child.pid if child else None}), file=hello)
    sys.stdin.read()
    if child is not None:
        child.wait()


main()
