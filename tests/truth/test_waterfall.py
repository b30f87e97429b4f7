"""Every part of every request's waterfall against the oracle, which knows its own boundaries."""

from __future__ import annotations

import socket
import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pyarrow as pa
import pytest

from analyzers.intervals import Times
from analyzers.request_parts import measure_requests
from analyzers.request_rows import RequestRows
from analyzers.timeline import Timeline
from analyzers.tokenizer_turns import PIECES
from analyzers.waterfall import BOTH, UNKNOWN, Waterfalls, cut, stack, waterfalls
from collectors.capture import Capture, open_capture
from probes.otlp.probe import OtlpProbe
from probes.target import find_target
from profiler.load.endpoint import Endpoint
from profiler.load.runner import run_scenario
from profiler.load.scenario import Scenario, WarmUp
from profiler.load.site import Site
from profiler.oracle.model_card import MODEL_NAME
from profiler.practice import Oracle, running_oracle
from profiler.probe_set import Rates, make_probes
from profiler.session import Session

pytestmark = pytest.mark.truth

LIMIT_NS = 2_000_000
LIMIT_RATIO = 0.03
SHARE_WITHIN = 0.95
ATTEMPTS = 3
DISTURBED_CORES = 0.1  # used by other programs: both sides see each other late
STACK_HZ = 400  # more costs the server more than it tells, on two CPUs
REQUESTS = {1: 40, 8: 96, 32: 192}
PROMPT_CHARS = 16_000
MAX_TOKENS = 8
SPANS_WITHIN_S = 10.0
# The oracle renders and tokenizes in one go; its boundaries do not tell them apart.
TOKENIZING = "template + tokenize"


@dataclass(frozen=True)
class Error:
    """One part over all requests, ns; what the analysis does not know is NaN."""

    part: str
    truth: np.ndarray
    error: np.ndarray

    @property
    def within_ratio(self) -> float:
        limit = np.maximum(LIMIT_NS, LIMIT_RATIO * self.truth)
        return float((np.abs(self.error) <= limit).mean())

    def __str__(self) -> str:
        far = np.abs(self.error[~np.isnan(self.error)]) / 1e6
        p50, p95 = np.percentile(far, (50, 95)) if len(far) else (np.nan, np.nan)
        return (
            f"{self.part:20} {self.truth.mean() / 1e6:9.3f} ms  within {self.within_ratio:6.1%}  "
            f"bias {np.nanmean(self.error) / 1e6 if len(far) else np.nan:+8.3f}  "
            f"|error| p50 {p50:7.3f}  p95 {p95:7.3f}  unknown {np.isnan(self.error).sum()}"
        )


@pytest.mark.parametrize("users", [1, 8, 32])
def test_every_part_is_near_the_truth_for_nearly_every_request(users: int, tmp_path: Path) -> None:
    tables, others = [], []
    for attempt in range(ATTEMPTS):
        errors, others_cores = measure(users, tmp_path / str(attempt))
        table = "\n".join(map(str, errors))
        tables.append(f"{users} users, other programs used {others_cores:.2f} cores\n{table}")
        others.append(others_cores)
        print(f"\n{tables[-1]}")
        if all(one.within_ratio >= SHARE_WITHIN for one in errors):
            return
    if min(others) > DISTURBED_CORES:
        pytest.skip(f"other programs used {min(others):.2f} cores: nothing can be said of 2 ms")
    pytest.fail("\n\n".join(tables))


def measure(users: int, directory: Path) -> tuple[list[Error], float]:
    """Return the error of each part, and how many cores other programs used meanwhile."""
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    endpoint = f"http://127.0.0.1:{port}/v1/traces"
    with running_oracle("--otlp-endpoint", endpoint, "--otlp-delay-ms", "200") as oracle:
        before_s, began_s = cpu_seconds_of_others(oracle.pid), time.monotonic()
        capture = record_load(oracle, users, port, directory)
        others_s = cpu_seconds_of_others(oracle.pid) - before_s
        others_cores = others_s / (time.monotonic() - began_s)
        truth = oracle.truth(capture.start_ns, capture.end_ns)["requests"]
    measured = measure_requests(Timeline(capture))
    (group,) = [one for one in measured.groups if one.chain is BOTH]
    chosen = group.rows[[measured.rows.scenario[row] == "truth" for row in group.rows]]
    assert len(chosen) == REQUESTS[users]
    seen = group.falls.of(np.searchsorted(group.rows, chosen))
    known = true_falls(measured.rows, chosen, {one["client_id"]: one for one in truth})
    errors = [
        Error(part, known[part].astype(float), in_ns(seen, part) - known[part]) for part in known
    ]
    return errors, others_cores


def cpu_seconds_of_others(server_pid: int) -> float:
    """Return the CPU time that everybody has used but the server, this process and its children.

    The time that another virtual machine took from this one counts as used.
    """
    host, own = psutil.cpu_times(), psutil.Process().cpu_times()
    server = psutil.Process(server_pid)
    servers = [one.cpu_times() for one in (server, *server.children(recursive=True))]
    server_s = sum(one.user + one.system for one in servers)
    own_s = own.user + own.system + own.children_user + own.children_system
    return float(sum(host[:8]) - host.idle - host.iowait - server_s - own_s)


def record_load(oracle: Oracle, users: int, port: int, directory: Path) -> Capture:
    """Return a capture of one load, with the client's rows in it."""
    target = find_target(oracle.pid)
    otlp = OtlpProbe(0, port)
    rates = Rates(STACK_HZ, is_governed=False)
    session = Session(
        target,
        directory / "made.capture",
        [*make_probes(target, ["stacks", "gil"], rates), otlp],
    )
    scenario = Scenario(
        name="truth", users=users, requests=REQUESTS[users], prompt_chars=PROMPT_CHARS,
        max_tokens=MAX_TOKENS, warm_up=WarmUp(2),
    )  # fmt: skip
    session.start()
    with ThreadPoolExecutor(1) as pool:
        site = Site(Endpoint(oracle.url, MODEL_NAME))
        running = pool.submit(run_scenario, scenario, site, directory / "load")

        def end_when_all_is_there() -> None:
            if running.done() and (
                running.exception() or otlp.kept_count >= running.result().rows.num_rows
            ):
                session.stop_requested.set()

        session.finish(session.run(SPANS_WITHIN_S * 6, end_when_all_is_there))
        rows = running.result().rows
    capture = open_capture(session.directory)
    capture.tables["requests"] = pa.concat_tables([capture.table("requests"), rows])
    return capture


def true_falls(
    rows: RequestRows, chosen: np.ndarray, truth: dict[str, dict[str, Any]]
) -> dict[str, Times]:
    """Return the true parts: the client's own boundaries, and the server's from inside."""
    told = [truth[rows.request[row]] for row in chosen]

    def server(*path: str) -> Times:
        values = []
        for one in told:
            value: Any = one
            for key in path:
                value = value[key]
            values.append(value)
        return np.array(values, np.int64)

    instants = {name: values[chosen] for name, values in rows.instants.items()} | {
        "arrived": server("validated_ns"),
        "queued": server("queued_ns"),
        "scheduled": server("scheduled_ns"),
        "engine_first": server("first_token_seen_ns"),
        "engine_last": server("last_token_seen_ns"),
        "finished": server("finished_ns"),
    }
    made = cut(stack(BOTH, instants, np.arange(len(chosen))))
    submitted, started, ended = (
        server("tokenizing", f"{name}_ns") for name in ("submitted", "started", "ended")
    )
    falls = waterfalls(BOTH, made).parts
    del falls["frontend"]
    return {
        **falls,
        "tokenize_wait": started - submitted,
        TOKENIZING: ended - started,
        "hand_over": server("queued_ns") - ended,
    }


def in_ns(falls: Waterfalls, part: str) -> np.ndarray:
    """Return a part of each request as floats, NaN where it is not known."""
    if part == TOKENIZING:
        return in_ns(falls, "template") + in_ns(falls, "tokenize")
    unknown = np.full(len(falls.wall), UNKNOWN)
    values = falls.parts.get(part, unknown if part in PIECES else None)
    assert values is not None
    floats: np.ndarray = np.where(values == UNKNOWN, np.nan, values.astype(float))
    return floats
