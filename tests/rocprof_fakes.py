"""AMD's libraries that are not here: stand-ins in C, built by the test run, and their users."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from probes.rocprof.spool import hook_environment
from tests.programs import TARGETS

SOURCES = TARGETS / "rocprof"
ROOT = Path(__file__).resolve().parents[1]
SDK = "librocprofiler-sdk.so.1"
ROCATTACH = "librocprofiler-sdk-rocattach.so.1"
OLD_ATTACH = "rocprofiler-sdk/librocprofv3-attach.so.1"
REGISTER = "librocprofiler-register.so.0"


def build(source: str, library: Path, *options: str) -> Path:
    """Compile one of the stand-ins as a shared library."""
    library.parent.mkdir(parents=True, exist_ok=True)
    flags = ["-std=c17", "-O2", "-Wall", "-Wextra", "-Werror", "-fvisibility=hidden"]
    subprocess.run(
        ["cc", *flags, "-shared", "-fPIC", "-o", str(library), *options, str(SOURCES / source),
         "-lpthread", "-ldl"],
        check=True,
    )  # fmt: skip
    return library


def make_rocm(root: Path) -> Path:
    """Make a ROCM_PATH with a stand-in for rocprofiler-sdk."""
    build("fake_rocprofiler_sdk.c", root / "lib" / SDK)
    return root


class TracedServer:
    """A running `traced_server.py`."""

    def __init__(self, environment: Mapping[str, str], wrapper: tuple[str, ...] = ()) -> None:
        self.process = subprocess.Popen(
            [*wrapper, sys.executable, str(SOURCES / "traced_server.py")],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
            env={**os.environ, **environment}, text=True,
        )  # fmt: skip
        self.inner_pid: int = self._answer()

    @property
    def pid(self) -> int:
        """Its PID."""
        return self.process.pid

    def call(self, name: str, *arguments: object) -> Any:
        """Have it do something; return its answer."""
        assert self.process.stdin is not None
        print(json.dumps([name, *arguments]), file=self.process.stdin, flush=True)
        return self._answer()

    def _answer(self) -> Any:
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, "it died"
        return json.loads(line)

    def end(self) -> tuple[int, str]:
        """Let it end by itself; return its exit code and what it had to complain about."""
        _, errors = self.process.communicate(timeout=20)
        return self.process.returncode, errors


@contextmanager
def traced_server(rocm: Path, spool: Path, **environment: str) -> Iterator[TracedServer]:
    """Start a server with the hook and the stand-in for torch; it is killed in the end."""
    python_path = os.pathsep.join([str(SOURCES / "packages"), str(ROOT)])
    given = {"ROCM_PATH": str(rocm), "PYTHONPATH": python_path, **environment}
    server = TracedServer({**given, **hook_environment(spool, given)})
    try:
        yield server
    finally:
        server.process.kill()
        server.process.communicate()
