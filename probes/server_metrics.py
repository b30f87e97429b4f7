"""The server's own word: vLLM's ``/metrics``, once a second; less on a host without idle CPU.

Only the families that say something about a request's life are parsed, and no histogram buckets:
the whole page is some hundred kilobytes on a busy server. Metric names and meaning:
https://docs.vllm.ai/en/latest/usage/metrics.html
"""

from __future__ import annotations

import http.client
import json
import re
import time
from collections.abc import Iterator
from itertools import pairwise
from typing import Final
from urllib.parse import urlsplit

import psutil
from prometheus_client.parser import text_string_to_metric_families

from collectors.manifest import ProbeRecord
from probes import roles
from probes.base import Capability, Context, Level
from probes.governor import WakeGovernor
from probes.pacer import Pacer
from probes.target import Process, Target

RATE_HZ: Final = 1.0
# The page costs the API server's event loop 4 to 20 ms, and requests stand behind that: while less
# than one CPU is idle, a twentieth of the scrapes must do.
SCARCE_DIVISOR: Final = 20.0
TIMEOUT_S: Final = 5.0
LOOK_TIMEOUT_S: Final = 1.0
MAX_PAGE_BYTES: Final = 64 << 20

_WANTED = re.compile(
    r"(?:# TYPE )?vllm:(time_to_first_token_seconds|request_queue_time_seconds"
    r"|request_prefill_time_seconds|request_decode_time_seconds|request_inference_time_seconds"
    r"|e2e_request_latency_seconds|num_requests_running|num_requests_waiting"
    r"|kv_cache_usage_perc|prefix_cache_queries|prefix_cache_hits|prompt_tokens|generation_tokens"
    r"|num_preemptions|request_success)(?!\w*_bucket)"
)
_UNITS = {"seconds": "s", "perc": "ratio", "tokens": "tokens"}


def server_urls(target: Target) -> Iterator[str]:
    """Yield the base URL of each port that an API server of the target listens on."""
    processes = target.of_role(roles.API_SERVER) + target.of_role(roles.LAUNCHER)
    for process in processes:
        try:
            connections = psutil.Process(process.pid).net_connections(kind="tcp")
        except psutil.Error:
            continue
        for connection in connections:
            if connection.status == psutil.CONN_LISTEN:
                host = connection.laddr.ip
                host = {"0.0.0.0": "127.0.0.1", "::": "::1"}.get(host, host)
                bracketed = f"[{host}]" if ":" in host else host
                yield f"http://{bracketed}:{connection.laddr.port}"


def fetch(url: str, path: str, timeout_s: float) -> tuple[int, bytes]:
    """GET ``path`` of the server at ``url``; return the status and the body.

    Raises:
        OSError, http.client.HTTPException: no answer, or one that takes too long or never ends.
        ValueError: ``url`` is none.
    """
    deadline_s = time.monotonic() + timeout_s  # the socket's own is for each read
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=timeout_s)
    try:
        connection.request("GET", path)
        response = connection.getresponse()
        body = bytearray()
        while chunk := response.read1(1 << 16):
            body += chunk
            if len(body) > MAX_PAGE_BYTES:
                raise http.client.HTTPException("the page is too long")
            if time.monotonic() > deadline_s:
                raise TimeoutError
        return response.status, bytes(body)
    finally:
        connection.close()


def server_version(url: str) -> str | None:
    """Ask the server at ``url`` for its version; None when it does not say."""
    try:
        status, body = fetch(url, "/version", LOOK_TIMEOUT_S)
        return str(json.loads(body)["version"]) if status == 200 else None
    except (OSError, http.client.HTTPException, ValueError, KeyError, TypeError):
        return None


def parse_metrics(page: str) -> Iterator[tuple[str, str, float, bool]]:
    """Yield (sample name, labels as ``a="b",...``, value, is a running total) of what we keep."""
    wanted = "".join(line + "\n" for line in page.splitlines() if _WANTED.match(line))
    for family in text_string_to_metric_families(wanted):
        for sample in family.samples:
            if sample.name.endswith("_created"):
                continue
            labels = ",".join(f'{key}="{value}"' for key, value in sorted(sample.labels.items()))
            yield sample.name, labels, float(sample.value), family.type != "gauge"


class ServerMetricsProbe:
    """Scrapes into the ``counters`` table, on the root process's track."""

    name = "server_metrics"

    def __init__(self, url: str | None = None, rate_hz: float = RATE_HZ) -> None:
        self.url = url
        self._pacer = Pacer(self.name, rate_hz, self._tick, self._miss)
        self._context: Context
        self._governor: WakeGovernor
        self._scrape_seconds: list[float] = []
        self._scraped_ns: list[int] = []
        self.latest: dict[str, float] = {}  # by sample name, summed over label sets

    def check(self, target: Target) -> Capability:
        """Look for the port that answers ``/metrics`` with vLLM's names."""
        if target.kind == roles.PYTHON and self.url is None:
            return Capability(
                self.name, Level.NOT_APPLICABLE, "the target is no inference server",
                "for a server with vLLM's metrics: --metrics-url http://HOST:PORT",
            )  # fmt: skip
        reasons = []
        for url in [self.url] if self.url else server_urls(target):
            try:
                status, body = fetch(url, "/metrics", LOOK_TIMEOUT_S)
            except (OSError, http.client.HTTPException) as error:
                reasons.append(f"{url}: no answer ({type(error).__name__})")
                continue
            except ValueError:
                reasons.append(f"{url!r} is no URL")
                continue
            if status == 200 and b"vllm:" in body:
                self.url = url
                return Capability(self.name, Level.WORKS)
            reasons.append(f"{url}/metrics: status {status}, no vllm: names")
        if not reasons:
            own = target.procfs.network_namespace()
            theirs = target.procfs.network_namespace(target.root_pid)
            reasons.append(
                "the server listens in another network namespace (a container)"
                if own != theirs
                else "no listening port of the server is visible to this user"
            )
        return Capability(
            self.name, Level.UNAVAILABLE, "; ".join(reasons),
            "say where it is: --metrics-url http://HOST:PORT",
        )  # fmt: skip

    def start(self, context: Context) -> None:
        """Begin with a scrape at once."""
        self._context = context
        self._governor = WakeGovernor(self._pacer.rate_hz, context.target.procfs, SCARCE_DIVISOR)
        self._pacer.start()

    def add(self, process: Process) -> None:
        """Nothing to do: one page speaks for the whole server."""

    def stop(self) -> ProbeRecord:
        """Scrape once more, so that the last deltas reach to the end."""
        self._pacer.stop()
        self._scrape()
        record = Capability(self.name, Level.WORKS).record(self._pacer.rate_hz)
        times_ns = self._scraped_ns
        if len(times_ns) > 1:
            record.achieved_hz = (len(times_ns) - 1) * 1e9 / (times_ns[-1] - times_ns[0])
            record.largest_gap_ns = max(after - before for before, after in pairwise(times_ns))
        if self._scrape_seconds:
            record.detail["longest_scrape_s"] = max(self._scrape_seconds)
        return record

    def _miss(self, error: Exception, since_ns: int | None = None) -> None:
        reason = f"no metrics: {type(error).__name__}"
        start_ns = self._pacer.last_ns if since_ns is None else since_ns
        self._context.recorder.gap(self.name, start_ns, time.monotonic_ns(), reason)

    def _tick(self, now_ns: int) -> None:
        """Scrape when it is time, or nearer to it than half a tick."""
        due_ns = 1e9 / self._governor.look(now_ns) - 0.5e9 / self._pacer.rate_hz
        if not self._scraped_ns or now_ns - self._scraped_ns[-1] >= due_ns:
            self._scrape()

    def _scrape(self) -> None:
        recorder, target = self._context.recorder, self._context.target
        before_ns = time.monotonic_ns()
        try:
            status, body = fetch(self.url or "", "/metrics", TIMEOUT_S)
            if status != 200:
                raise http.client.HTTPException(f"status {status}")
            # The page is made somewhere between asking and getting it.
            now_ns = (before_ns + time.monotonic_ns()) // 2
            found = list(parse_metrics(body.decode("utf-8", "replace")))
        except (OSError, http.client.HTTPException, ValueError) as error:
            self._miss(error, before_ns)
            return
        self._scraped_ns.append(now_ns)
        latest: dict[str, float] = {}
        for name, _, value, _ in found:
            latest[name] = latest.get(name, 0.0) + value
        self.latest = latest
        self._scrape_seconds.append((time.monotonic_ns() - before_ns) / 1e9)
        counters = [
            recorder.counter(name, labels, unit=_unit(name), kind="total" if is_total else "level")
            for name, labels, _, is_total in found
        ]
        recorder.append(
            "counters",
            {
                "time_ns": [now_ns] * len(found),
                "track": [self._context.tracks[target.root_pid]] * len(found),
                "counter": counters,
                "value": [value for _, _, value, _ in found],
            },
        )


def _unit(name: str) -> str:
    if name.endswith("_count"):
        return "requests"
    if "prefix_cache" in name:  # vLLM counts them in tokens
        return "tokens"
    return next((unit for part, unit in _UNITS.items() if part in name), "requests")
