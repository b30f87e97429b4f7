"""Finalise a recording again and again, each time killed one line of what writes later.

Makes a copy of the recording TEMPLATE below PLACE for every line, until one is left unkilled; says
on stdout how many were killed.
"""

import os
import shutil
import signal
import sys
import threading
from pathlib import Path

from collectors.capture import finalise, write_capture
from collectors.manifest import Manifest, read_manifest

WRITERS = {finalise.__code__, write_capture.__code__, Manifest.write.__code__}


def die_at_line(line_count):
    """Kill this process when so many lines of `WRITERS` have begun."""

    def trace(frame, event, _argument):
        nonlocal line_count
        if frame.f_code not in WRITERS:
            return None
        line_count -= event == "line"
        if line_count < 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return trace

    sys.settrace(trace)


def run_once(directory, line_count):
    """Return whether a child that finalises ``directory`` was killed on the way."""
    pid = os.fork()
    if pid == 0:
        manifest = read_manifest(directory)
        manifest.stopped_ns, manifest.state = manifest.started_ns + 10**9, "complete"
        die_at_line(line_count)
        finalise(directory, manifest)
        sys.settrace(None)
        os._exit(0)
    return os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) == -signal.SIGKILL


def main():
    template, place = Path(sys.argv[1]), Path(sys.argv[2])
    assert threading.active_count() == 1
    killed_count = 0
    while True:
        directory = place / str(killed_count)
        shutil.copytree(template, directory)
        if not run_once(directory, killed_count):
            break
        killed_count += 1
    print(killed_count)


main()
