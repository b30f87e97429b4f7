"""Start the tiny vLLM server, say when it answers, and never leave it behind.

As a program: ``python serve.py [--port P] [--max-seconds S] [arguments for vLLM]``.
As a module: ``with running_server() as server: ...`` (make_env.py beside it does the setup).

Three things end the server: the ``finally`` of the launcher, the kernel when the launcher dies
(PR_SET_PDEATHSIG), and a guard process that outlives a killed or frozen launcher and kills the
whole process group, because an API server that is killed cannot stop its engine any more.
"""

from __future__ import annotations

import argparse
import contextlib
import ctypes
import functools
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from make_env import Place, SetupError, announce, default_place, make_environment

MODEL_NAME = "tiny"
HOST = "127.0.0.1"
PR_SET_PDEATHSIG = 1  # linux/prctl.h
START_LIMIT_S = 400.0  # 20 to 40 s on a quiet machine; 134 s was seen on a crowded one
STOP_LIMIT_S = 15.0
MAX_SECONDS = 3600.0
SERVER_ARGUMENTS = ("--max-model-len", "65536", "--dtype", "bfloat16", "--enforce-eager")
SERVER_ENVIRONMENT = {
    "VLLM_CPU_KVCACHE_SPACE": "2",  # GiB
    "HF_HUB_OFFLINE": "1",
    "TRANSFORMERS_OFFLINE": "1",
    "VLLM_NO_USAGE_STATS": "1",
}
# Reads "done" on its standard input, or kills the group: at once when the input closes without
# it (the launcher is dead), or when the time is up (the launcher is frozen).
GUARD_SOURCE = """
import os, select, signal, sys, time
group, limit_s, grace_s = int(sys.argv[1]), float(sys.argv[2]), float(sys.argv[3])
if select.select([0], [], [], limit_s)[0] and os.read(0, 16) == b"done":
    sys.exit(0)
try:
    os.killpg(group, signal.SIGTERM)
    deadline = time.monotonic() + grace_s
    while time.monotonic() < deadline:
        time.sleep(0.1)
        os.killpg(group, 0)
    os.killpg(group, signal.SIGKILL)
except ProcessLookupError:
    pass
"""


@dataclass(frozen=True)
class Server:
    """A server that has answered at least once."""

    process: subprocess.Popen[bytes]
    port: int
    log: Path

    @property
    def pid(self) -> int:
        """The API server's process, parent of the others and leader of their group."""
        return self.process.pid

    @property
    def url(self) -> str:
        """The address of its HTTP interface, without a slash at the end."""
        return f"http://{HOST}:{self.port}"

    def is_answering(self, timeout_s: float = 5.0) -> bool:
        """Say whether the health check answers in time."""
        try:
            with urllib.request.urlopen(f"{self.url}/health", timeout=timeout_s) as answer:
                return bool(answer.status == 200)
        except OSError:
            return False


@contextlib.contextmanager
def running_server(
    port: int | None = None,
    arguments: Sequence[str] = (),
    *,
    max_seconds: float = MAX_SECONDS,
    place: Place | None = None,
) -> Iterator[Server]:
    """Start a server on ``port`` (None: a free one), yield it when it answers, and end it.

    ``arguments`` are handed to vLLM. Whatever happens here, it is ended ``max_seconds`` after the
    longest start at the latest. Raises SetupError with the end of its log when it does not come up.
    """
    place = place or default_place()
    make_environment(place)
    port = port or _free_port()
    log = place.root / f"server-{port}.log"
    with open(log, "wb") as log_file:
        process = subprocess.Popen(
            _command(place, port, arguments),
            stdin=subprocess.DEVNULL,
            stdout=log_file,
            stderr=subprocess.STDOUT,
            cwd=place.root,
            env=_environment(),
            start_new_session=True,
            preexec_fn=functools.partial(_die_with_parent, os.getpid()),
        )
    guard = _start_guard(process.pid, START_LIMIT_S + max_seconds)
    try:
        server = Server(process, port, log)
        _await_answer(server)
        yield server
    finally:
        _end(process)
        with contextlib.suppress(BrokenPipeError):
            guard.communicate(b"done", timeout=STOP_LIMIT_S)


def _command(place: Place, port: int, arguments: Sequence[str]) -> list[str]:
    """Return the command line; vLLM's own entry script looks for another package's version."""
    module = "vllm.entrypoints.openai.api_server"
    where = ["--model", str(place.model), "--served-model-name", MODEL_NAME]
    listen = ["--host", HOST, "--port", str(port)]
    return [str(place.python), "-m", module, *where, *listen, *SERVER_ARGUMENTS, *arguments]


def _environment() -> dict[str, str]:
    """Return our environment without what would lead another Python's packages into it."""
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    return {**kept, **SERVER_ENVIRONMENT}


def _die_with_parent(parent_pid: int) -> None:
    """Ask the kernel, in the child, for SIGTERM when the launcher dies: vLLM then ends all."""
    ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
    if os.getppid() != parent_pid:  # it died before the call above could see it
        os._exit(1)


def _start_guard(group: int, max_seconds: float) -> subprocess.Popen[bytes]:
    """Start the process that kills the group when the launcher no longer can."""
    limits = [str(group), str(max_seconds), str(STOP_LIMIT_S)]
    return subprocess.Popen(
        [sys.executable, "-S", "-c", GUARD_SOURCE, *limits],
        stdin=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        start_new_session=True,
    )


def _await_answer(server: Server) -> None:
    """Poll the health check until it answers, the process ends or the time is up."""
    began = time.monotonic()
    announce(f"starting vLLM as PID {server.pid}, log in {server.log}")
    while time.monotonic() - began < START_LIMIT_S:
        if server.process.poll() is not None:
            ended = f"vLLM ended with {server.process.returncode}"
            raise SetupError(f"{ended}:\n{_last_lines(server.log)}")
        if server.is_answering(timeout_s=2.0):
            announce(f"ready after {time.monotonic() - began:.0f} s")
            return
        time.sleep(0.25)
    raise SetupError(f"no answer within {START_LIMIT_S:.0f} s:\n{_last_lines(server.log)}")


def _last_lines(log: Path, count: int = 20) -> str:
    """Return the end of the server's log."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def _end(process: subprocess.Popen[bytes]) -> None:
    """Ask the server to stop, then kill what is left of its process group."""
    with contextlib.suppress(ProcessLookupError):
        process.terminate()
    try:
        process.wait(STOP_LIMIT_S)
    except subprocess.TimeoutExpired:
        announce(f"PID {process.pid} did not stop within {STOP_LIMIT_S:.0f} s; killing it")
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _free_port() -> int:
    """Return a port that is free now."""
    with socket.socket() as probe:
        probe.bind((HOST, 0))
        return int(probe.getsockname()[1])


def main() -> int:
    """Serve until Ctrl-C, SIGTERM, the server's own end, or the time is up."""
    parser = argparse.ArgumentParser(
        description="Start the tiny vLLM server; what is not listed here is handed to vLLM."
    )
    parser.add_argument("--port", type=int, help="default: a free one")
    parser.add_argument("--max-seconds", type=float, default=MAX_SECONDS)
    options, arguments = parser.parse_known_args()
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        with running_server(options.port, arguments, max_seconds=options.max_seconds) as server:
            print(f"pid={server.pid} url={server.url} model={MODEL_NAME}", flush=True)
            server.process.wait(options.max_seconds)
            announce(f"the server ended with {server.process.returncode}")
            return 1
    except SetupError as error:
        announce(str(error))
        return 1
    except subprocess.TimeoutExpired:
        announce(f"stopped after {options.max_seconds:.0f} s")
    except KeyboardInterrupt:
        announce("stopped")
    return 0


if __name__ == "__main__":
    sys.exit(main())
