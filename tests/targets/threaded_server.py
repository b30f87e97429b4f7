"""Looks like ``vllm serve`` through a link named ``vllm``, makes threads, processes and tokens.

Arguments after ``serve MODEL``: tokens per second, and (optional) the CPU that one thread is bound
to. Its counters grow with the clock. ``POST /thread`` makes a thread, ``POST /process`` a process,
each made by the thread that answers; both stay to the end. Says its PID and port on the pipe
HELLO_FD; ends when stdin closes.
"""

import http.server
import json
import os
import subprocess
import sys
import threading
import time

PAGE = """\
# TYPE vllm:generation_tokens counter
vllm:generation_tokens_total{engine="0",model_name="tiny"} %(tokens)f
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} %(running)d
"""
RATE_HZ = float(sys.argv[3])


class Handler(http.server.BaseHTTPRequestHandler):
    ending = threading.Event()

    def do_GET(self):
        page = PAGE % {"tokens": time.monotonic() * RATE_HZ, "running": 2 if RATE_HZ else 0}
        self.answer(page if self.path == "/metrics" else "")

    def do_POST(self):
        if self.path == "/thread":
            thread = threading.Thread(target=self.ending.wait, daemon=True)
            thread.start()
            self.answer(str(thread.native_id))
        else:
            # It ends with us: its standard input closes.
            child = subprocess.Popen(["/bin/cat"], stdin=subprocess.PIPE)
            self.answer(str(child.pid))

    def answer(self, text):
        body = text.encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


def main():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    for _ in range(4):
        threading.Thread(target=Handler.ending.wait, daemon=True).start()
    if len(sys.argv) > 4:
        bound = threading.Thread(target=Handler.ending.wait, daemon=True)
        bound.start()
        os.sched_setaffinity(bound.native_id, {int(sys.argv[4])})
    threading.Thread(target=server.serve_forever, daemon=True).start()
    with os.fdopen(int(os.environ["HELLO_FD"]), "w") as hello:
        hello.write(json.dumps({"pid": os.getpid(), "port": server.server_port}) + "\n")
    sys.stdin.buffer.read()


main()
