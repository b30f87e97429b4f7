"""Targets that must not notice what happens to cputax, and the look at how they are."""

from __future__ import annotations

import contextlib
import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import psutil

from tests.live.driving import ROOT, chat_load

ANSWER_LIMIT_S = 20.0  # a saturated server of 32 users takes seconds even undisturbed
PLAIN_SERVER = """
import http.server, sys, threading
class Page(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200); self.end_headers(); self.wfile.write(b"ok")
    def log_message(self, *_): pass
def spin():
    while True: sum(range(20000)); threading.Event().wait(0.002)
for _ in range(3): threading.Thread(target=spin, daemon=True).start()
server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Page)
print(server.server_port, flush=True)
threading.Thread(target=lambda: (sys.stdin.read(), server.shutdown())).start()
server.serve_forever()
"""


@dataclass(frozen=True)
class HurtTarget:
    """Who is recorded: the root of its tree, and a page that it must keep answering."""

    pid: int
    url: str

    def problems(self) -> list[str]:
        """Return what is wrong with it now; nothing when all is well."""
        found = []
        try:
            with urllib.request.urlopen(self.url, timeout=ANSWER_LIMIT_S) as answer:
                answer.read()
        except OSError as error:
            found.append(f"{self.url} does not answer: {error}")
        try:
            root = psutil.Process(self.pid)
            for process in [root, *root.children(recursive=True)]:
                found += _thread_problems(process.pid)
        except psutil.NoSuchProcess as error:
            found.append(f"process {error.pid} is gone")
        return found


def _thread_problems(pid: int) -> list[str]:
    """Return which threads of a process are stopped or have a tracer."""
    found = []
    for task in Path(f"/proc/{pid}/task").glob("*"):
        with contextlib.suppress(OSError):  # a thread may end while it is looked at
            status = dict(
                line.split(":\t", 1) for line in (task / "status").read_text().splitlines()
            )
            if status["State"][0] in "Tt" or status["TracerPid"] != "0":
                state, tracer = status["State"], status["TracerPid"]
                found.append(f"thread {task.name} of {pid}: {state}, tracer {tracer}")
    return found


@contextlib.contextmanager
def plain_server() -> Iterator[HurtTarget]:
    """Run a small Python program with busy threads that answers HTTP; it ends with us."""
    process = subprocess.Popen(
        [sys.executable, "-c", PLAIN_SERVER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert process.stdout is not None
        yield HurtTarget(process.pid, f"http://127.0.0.1:{int(process.stdout.readline())}/")
    finally:
        process.kill()
        process.wait()


@contextlib.contextmanager
def vllm_under_load(seconds: float = 3600.0) -> Iterator[HurtTarget]:
    """Start the real server with 32 users on it."""
    sys.path.insert(0, str(ROOT / "examples" / "vllm_cpu"))
    from serve import running_server

    with running_server() as vllm, chat_load(vllm.url, seconds):
        yield HurtTarget(vllm.pid, f"{vllm.url}/health")
