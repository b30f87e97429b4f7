"""The server's own word about its requests: what its metrics rose by while the capture ran.

Names and meaning: https://docs.vllm.ai/en/latest/usage/metrics.html. A mean is the rise of a
histogram's sum over the rise of its count. Time to first token (TTFT) is observed at the first
token, queue, prefill and decode when a request finishes: over a short capture these are means of
different requests.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from analyzers.base import Analyzer, Outcome, missing
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.timeline import Timeline, column, rows_by

PREFIX: Final = "vllm:"  # of all names of its metrics
TTFT: Final = "vllm:time_to_first_token_seconds"
QUEUE: Final = "vllm:request_queue_time_seconds"
PREFILL: Final = "vllm:request_prefill_time_seconds"
DECODE: Final = "vllm:request_decode_time_seconds"
E2E: Final = "vllm:e2e_request_latency_seconds"
# Below this share of TTFT a part is not worth a line.
NOTABLE_RATIO: Final = 0.1
# Means over numbers of requests that differ by more than this do not subtract well.
UNEQUAL_RATIO: Final = 0.2


@dataclass(frozen=True, slots=True)
class Level:
    """A gauge over the capture."""

    mean: float
    highest: float


@dataclass(frozen=True, slots=True)
class ServerMetrics:
    """What the metrics said between the first scrape and the last."""

    start_ns: int
    end_ns: int
    scrape_count: int
    reset_count: int
    totals: dict[str, float]  # rises by sample name, label sets added up
    levels: dict[str, Level]

    @property
    def window_seconds(self) -> float:
        """From the first scrape to the last."""
        return (self.end_ns - self.start_ns) / 1e9

    def rise(self, name: str) -> float | None:
        """Return by how much a total rose; None if the server has no such total."""
        for candidate in (name, f"{name}_total"):
            if candidate in self.totals:
                return self.totals[candidate]
        return None

    def count(self, histogram: str) -> float:
        """Return how many observations a histogram took; 0 if there is none."""
        return self.totals.get(f"{histogram}_count", 0.0)

    def mean(self, histogram: str) -> float | None:
        """Return the mean of a histogram's new observations; None if it took none."""
        count = self.count(histogram)
        return self.totals[f"{histogram}_sum"] / count if count > 0 else None

    @property
    def request_count(self) -> float:
        """Requests that got their first token in the window."""
        return self.count(TTFT)

    @property
    def prefix_cache_hit_ratio(self) -> float | None:
        """Return which share of the prompts' tokens the prefix cache held; None if not told."""
        queries, hits = self.rise("vllm:prefix_cache_queries"), self.rise("vllm:prefix_cache_hits")
        return hits / queries if hits is not None and queries else None

    @property
    def residual_seconds(self) -> float | None:
        """Return mean TTFT less queue and prefill: the front of the API server, and a little more.

        It also holds the way to the engine, the engine step that ran at arrival and the way back.
        """
        ttft, queue, prefill = self.mean(TTFT), self.mean(QUEUE), self.mean(PREFILL)
        if ttft is None or queue is None or prefill is None:
            return None
        residual = ttft - queue - prefill
        # Negative: the requests that finished are not like those that began. It says nothing then.
        return residual if residual >= 0 else None


def measure_server(timeline: Timeline) -> ServerMetrics | None:
    """Return the rises and levels; None with fewer than two scrapes."""
    table = timeline.capture.table("counters")
    times = column(table, "time_ns")
    values = column(table, "value", np.float64)
    types = {row["counter"]: row for row in timeline.capture.table("counter_types").to_pylist()}
    totals: dict[str, float] = {}
    gauges: dict[str, list[tuple[float, float]]] = {}
    reset_count = 0
    vllm_rows = [
        (types[counter], rows)
        for counter, rows in rows_by(table, "counter").items()
        if counter in types
        and types[counter]["name"].startswith(PREFIX)
        and np.isfinite(values[rows]).all()  # a gauge may be NaN: not known
    ]
    if not vllm_rows:
        return None
    scrapes = np.unique(np.concatenate([times[rows] for _, rows in vllm_rows]))
    if len(scrapes) < 2:
        return None
    for kind, rows in vllm_rows:
        if kind["kind"] == "total":
            # A label set that appears later began at zero.
            series = values[rows]
            if times[rows[0]] > scrapes[0]:
                series = np.concatenate(([0.0], series))
            steps = np.diff(series)
            reset_count += int((steps < 0).sum())
            # A total that fell began anew: the server, or one of its processes, restarted.
            rise = float(np.where(steps < 0, series[1:], steps).sum())
            totals[kind["name"]] = totals.get(kind["name"], 0.0) + rise
        else:
            level = float(values[rows].mean()), float(values[rows].max())
            gauges.setdefault(kind["name"], []).append(level)
    levels = {name: _level(name, parts) for name, parts in gauges.items()}
    return ServerMetrics(
        int(scrapes[0]), int(scrapes[-1]), len(scrapes), reset_count, totals, levels
    )


def _level(name: str, parts: Iterable[tuple[float, float]]) -> Level:
    """Add up the engines' gauges; a ratio (``_perc`` in vLLM's names) is averaged instead."""
    means, highest = np.array(list(parts)).T
    if name.endswith("_perc"):
        return Level(float(means.mean()), float(highest.max()))
    return Level(float(means.sum()), float(highest.sum()))


def run(timeline: Timeline) -> Outcome:
    """Report the metrics; findings for what the engine itself took of the time to first token."""
    server = timeline.once(measure_server)
    if server is None and not _has_metrics(timeline):  # the counters are the host's
        return Outcome(findings=[missing("server", "counters", timeline)])
    if server is None:
        return Outcome(findings=[abstention("server", "the server's metrics were read only once",
                                            "record for longer")])  # fmt: skip
    return Outcome({"server": _section(server)}, _findings(server))


def _has_metrics(timeline: Timeline) -> bool:
    names = timeline.capture.table("counter_types")["name"].to_pylist()
    return any(name.startswith(PREFIX) for name in names)


def _section(server: ServerMetrics) -> dict[str, Any]:
    section: dict[str, Any] = {
        "window_seconds": server.window_seconds,
        "scrape_count": server.scrape_count,
        "reset_count": server.reset_count,
        "first_token_count": server.request_count,
        "finished_count": server.count(E2E),
        "request_rate_hz": server.request_count / server.window_seconds,
        "ttft_mean_seconds": server.mean(TTFT),
        "queue_mean_seconds": server.mean(QUEUE),
        "prefill_mean_seconds": server.mean(PREFILL),
        "decode_mean_seconds": server.mean(DECODE),
        "e2e_mean_seconds": server.mean(E2E),
        "residual_mean_seconds": server.residual_seconds,
        "prompt_token_count": server.rise("vllm:prompt_tokens"),
        "generation_token_count": server.rise("vllm:generation_tokens"),
        "preemption_count": server.rise("vllm:num_preemptions"),
        "prefix_cache_hit_ratio": server.prefix_cache_hit_ratio,
    }
    for key, name in (
        ("running", "vllm:num_requests_running"),
        ("waiting", "vllm:num_requests_waiting"),
        ("kv_cache_usage", "vllm:kv_cache_usage_perc"),
    ):
        level = server.levels.get(name)
        unit = "ratio" if name.endswith("_perc") else "count"
        section[f"{key}_mean_{unit}"] = None if level is None else level.mean
        section[f"{key}_max_{unit}"] = None if level is None else level.highest
    return section


def caveats_of(server: ServerMetrics) -> tuple[str, ...]:
    """Return what is doubtful about this window's means."""
    caveats = []
    first, finished = server.request_count, server.count(QUEUE)
    if abs(first - finished) > UNEQUAL_RATIO * max(first, finished):
        caveats.append(
            f"means of different requests: {first:.0f} got their first token in the window and "
            f"{finished:.0f} finished in it"
        )
    if server.reset_count:
        caveats.append(f"the server's counters began anew {server.reset_count} times")
    return tuple(caveats)


def milliseconds(value_seconds: float) -> str:
    """Return a time as a person reads it: three significant digits, in ms."""
    value = value_seconds * 1e3
    return f"{value:.0f} ms" if value >= 100 else f"{value:.3g} ms"


def _findings(server: ServerMetrics) -> list[Finding]:
    ttft = server.mean(TTFT)
    if not ttft:
        return []
    findings = []
    for slug, histogram, text in (
        ("engine-queue", QUEUE, "waiting in the engine's queue to be scheduled"),
        ("engine-prefill", PREFILL, "in the engine's prefill, scheduled but without a token"),
    ):
        mean = server.mean(histogram)
        if mean is None or mean < NOTABLE_RATIO * ttft:
            continue
        findings.append(
            Finding(
                slug,
                f"Of a mean time to first token of {milliseconds(ttft)}, requests spent "
                f"{milliseconds(mean)} {text}.",
                Rank.REQUEST_TIME,
                Quantity(mean, "s"),
                {
                    "ttft_mean_seconds": ttft,
                    "mean_seconds": mean,
                    "request_count": server.request_count,
                    "request_seconds": mean * server.request_count,
                },
                caveats_of(server),
                cost_seconds=mean * server.request_count,
            )
        )
    return findings


ANALYZER: Final = Analyzer("server", ("counters",), run)
