"""Looks like ``vllm serve`` from outside when started through a link named ``vllm``.

Serves /metrics in vLLM's words (each look counts as one request more) and /version, and computes a
little. Says its PID and port on the pipe HELLO_FD; ends when stdin closes.
"""

import http.server
import json
import os
import sys
import threading

PAGE = """\
# TYPE vllm:num_requests_running gauge
vllm:num_requests_running{engine="0",model_name="tiny"} 2.0
# TYPE vllm:prompt_tokens_total counter
vllm:prompt_tokens_total{engine="0",model_name="tiny"} 1000.0
# TYPE vllm:time_to_first_token_seconds histogram
vllm:time_to_first_token_seconds_bucket{engine="0",le="+Inf",model_name="tiny"} %(count)d
vllm:time_to_first_token_seconds_count{engine="0",model_name="tiny"} %(count)d
vllm:time_to_first_token_seconds_sum{engine="0",model_name="tiny"} %(sum)f
"""


class Handler(http.server.BaseHTTPRequestHandler):
    looks = 0

    def do_GET(self):
        Handler.looks += 1
        page = PAGE % {"count": Handler.looks, "sum": Handler.looks * 0.5}
        pages = {"/metrics": page, "/version": json.dumps({"version": "0.0.1"}), "/health": ""}
        body = pages.get(self.path, "").encode()
        self.send_response(200 if self.path in pages else 404)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *_arguments):
        pass


def compute_a_while(ending):
    while not ending.wait(0.005):
        sum(range(50_000))


def main():
    ending = threading.Event()
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=compute_a_while, args=(ending,), name="busy", daemon=True).start()
    threading.Thread(target=server.serve_forever, name="http", daemon=True).start()
    with os.fdopen(int(os.environ["HELLO_FD"]), "w") as hello:
        hello.write(json.dumps({"pid": os.getpid(), "port": server.server_port}) + "\n")
    sys.stdin.buffer.read()
    ending.set()


main()
