"""``vllm bench serve``, kept ready: both ends of a pipe to a process in vLLM's environment.

Importing vLLM takes many seconds, so one process imports it once and then runs the program's own
``main`` per line that it reads, with the arguments that a user would give. In between it waits,
which costs nothing. Run as a program (by vLLM's Python) this file is that process; imported, it is
the side that gives the orders. Its top level needs the standard library only: neither side's
packages are installed on the other.

One part is replaced: ``get_samples``, the reader of data sets, which needs pandas and gives each
chat's content as a list of parts. All that sends, reads and times requests is vLLM's own. With the
argument ``without-lookups`` its HTTP session goes without ``trust_env``, for which aiohttp looks
for a password and a proxy in two other threads before each request is sent, with vLLM's clock
running.
"""

from __future__ import annotations

import importlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Final, NamedTuple

END_LIMIT_S: Final = 10.0
LOG_LINES: Final = 20
WITHOUT_LOOKUPS: Final = "without-lookups"


class Request(NamedTuple):
    """A request that ended well, by either client. An event is one with ``choices``."""

    start_s: float  # CLOCK_MONOTONIC, which is Python's perf_counter on Linux
    first_event_s: float  # from the start: vLLM's TTFT
    first_text_s: float | None  # what `cputax load` calls TTFT; vLLM has no more than its own
    end_s: float  # from the start to the last event: vLLM's E2EL
    prompt_tokens: int
    output_tokens: int
    event_count: int  # a server that is short of CPU puts several tokens into one


@dataclass(frozen=True)
class BenchServe:
    """What ``vllm bench serve --save-detailed`` says of one run.

    ``cpu_s`` is the CPU time of the process while its ``benchmark`` ran: the requests and its
    statistics, but not the imports.
    """

    requests: list[Request]
    errors: list[str]
    cpu_s: float


class VllmClient:
    """The process that waits for orders; use ``with``. Its chatter goes to ``log``."""

    def __init__(
        self, python: Path, environment: Mapping[str, str], log: Path, *, with_lookups: bool
    ) -> None:
        self._log = log
        with open(log, "wb") as log_file:
            self._process = subprocess.Popen(
                [str(python), __file__, *([] if with_lookups else [WITHOUT_LOOKUPS])],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=log_file,
                env=dict(environment),
            )

    def __enter__(self) -> VllmClient:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, _error: object, _trace: TracebackType | None
    ) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_LIMIT_S if kind is None else 0.0)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()

    def await_ready(self) -> str:
        """Wait until vLLM is imported; return its version."""
        return str(self._read()["version"])

    def run(self, arguments: Sequence[str]) -> BenchServe:
        """Run it once; ``arguments`` are those of ``vllm bench serve``."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(list(arguments)).encode() + b"\n")
        self._process.stdin.flush()
        said = self._read()
        requests = [Request(*fields) for fields in said["requests"]]
        return BenchServe(requests, said["errors"], said["cpu_s"])

    def _read(self) -> dict[str, Any]:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            last_lines = self._log.read_text(errors="replace").splitlines()[-LOG_LINES:]
            raise RuntimeError("vllm bench serve ended:\n" + "\n".join(last_lines))
        fields: dict[str, Any] = json.loads(line)
        return fields


def read_samples(path: Path, sample_type: type[Any]) -> list[Any]:
    """Read requests for ``vllm bench serve``, one per line.

    A line is a JSON object with ``max_tokens`` and ``prompt`` or ``messages``, and more that is
    ignored: the body of a completion's or a chat's request.
    """
    samples = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines()):
        fields = json.loads(line)
        sample = sample_type(
            prompt=fields.get("prompt", ""),
            prompt_len=0,  # until the server has said how many it counted
            expected_output_len=fields["max_tokens"],
            request_id=f"{path.stem}-{number}",
            chat_messages=fields.get("messages"),
        )
        samples.append(sample)
    return samples


def serve_runs() -> None:
    """Read the arguments of a run per line, and write its results as one."""
    results = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what vLLM prints is for the log
    # By name, as the project's environment has no vLLM that types could be checked against.
    vllm = importlib.import_module("vllm")
    bench_serve: Any = importlib.import_module("vllm.benchmarks.serve")
    sample_type = importlib.import_module("vllm.benchmarks.datasets").SampleRequest
    parser = importlib.import_module("vllm.utils.argparse_utils").FlexibleArgumentParser()
    bench_serve.add_cli_args(parser)
    run_benchmark = bench_serve.benchmark
    cpu_s = 0.0

    async def timed_benchmark(**arguments: Any) -> Any:
        nonlocal cpu_s
        before_s = time.process_time()
        result = await run_benchmark(**arguments)
        cpu_s = time.process_time() - before_s
        return result

    def get_samples(options: Any, _tokenizer: object) -> list[Any]:
        return read_samples(Path(options.dataset_path), sample_type)

    aiohttp: Any = importlib.import_module("aiohttp")
    make_session = aiohttp.ClientSession

    def make_plain_session(**settings: Any) -> Any:
        return make_session(**settings | {"trust_env": False})

    if WITHOUT_LOOKUPS in sys.argv:
        aiohttp.ClientSession = make_plain_session
    bench_serve.benchmark = timed_benchmark
    bench_serve.get_samples = get_samples
    print(json.dumps({"version": vllm.__version__}), file=results)
    for order in iter(sys.stdin.readline, ""):
        said = bench_serve.main(parser.parse_args(json.loads(order)))
        columns = (
            said["start_times"], said["ttfts"], said["ttfts"], said["latencies"],
            said["input_lens"], said["output_lens"], [1 + len(gaps) for gaps in said["itls"]],
        )  # fmt: skip
        rows = zip(zip(*columns, strict=True), said["errors"], strict=True)
        requests = [fields for fields, error in rows if not error]
        errors = [error for error in said["errors"] if error]
        print(json.dumps({"requests": requests, "errors": errors, "cpu_s": cpu_s}), file=results)


if __name__ == "__main__":
    serve_runs()
