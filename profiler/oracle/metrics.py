"""The server's /metrics, under vLLM's names and meanings.

Names, buckets and labels follow vLLM's `vllm/v1/metrics/loggers.py`; `docs.vllm.ai` lists them
under "Production Metrics". Times of the engine are its own stamps; time to first token and
end-to-end latency count from the request's arrival, which is before its prompt is rendered.
"""

from __future__ import annotations

from typing import Final

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, generate_latest

from profiler.oracle.model_card import MODEL_NAME
from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import staged

_TTFT_BUCKETS: Final = (
    0.001, 0.005, 0.01, 0.02, 0.04, 0.06, 0.08, 0.1, 0.25, 0.5, 0.75, 1.0, 2.5, 5.0, 7.5, 10.0,
    20.0, 40.0, 80.0, 160.0, 640.0, 2560.0,
)  # fmt: skip
_LATENCY_BUCKETS: Final = (
    0.3, 0.5, 0.8, 1.0, 1.5, 2.0, 2.5, 5.0, 10.0, 15.0, 20.0, 30.0, 40.0, 50.0, 60.0, 120.0,
    240.0, 480.0, 960.0, 1920.0, 7680.0,
)  # fmt: skip

_REGISTRY: Final = CollectorRegistry()
_LABELS: Final = {"model_name": MODEL_NAME, "engine": "0"}


def _histogram(name: str, text: str, buckets: tuple[float, ...] = _LATENCY_BUCKETS) -> Histogram:
    family = Histogram(f"vllm:{name}", text, list(_LABELS), registry=_REGISTRY, buckets=buckets)
    return family.labels(**_LABELS)


def _counter(name: str, text: str) -> Counter:
    return Counter(f"vllm:{name}", text, list(_LABELS), registry=_REGISTRY).labels(**_LABELS)


def _gauge(name: str, text: str) -> Gauge:
    return Gauge(f"vllm:{name}", text, list(_LABELS), registry=_REGISTRY).labels(**_LABELS)


_TTFT: Final = _histogram("time_to_first_token_seconds", "Arrival to first token.", _TTFT_BUCKETS)
_E2E: Final = _histogram("e2e_request_latency_seconds", "Arrival to last token.")
_QUEUE: Final = _histogram("request_queue_time_seconds", "Queued in the engine to scheduled.")
_PREFILL: Final = _histogram("request_prefill_time_seconds", "Scheduled to first token.")
_DECODE: Final = _histogram("request_decode_time_seconds", "First token to last token.")
_INFERENCE: Final = _histogram("request_inference_time_seconds", "Scheduled to last token.")
_RUNNING: Final = _gauge("num_requests_running", "Requests in the engine's batch.")
_WAITING: Final = _gauge("num_requests_waiting", "Requests queued in the engine.")
_KV_USAGE: Final = _gauge("kv_cache_usage_perc", "Share of KV-cache blocks in use, 0 to 1.")
_PREFIX_QUERIES: Final = _counter("prefix_cache_queries", "Tokens looked up in the prefix cache.")
_PREFIX_HITS: Final = _counter("prefix_cache_hits", "Tokens found in the prefix cache.")
_PROMPT_TOKENS: Final = _counter("prompt_tokens", "Prompt tokens of requests.")
_GENERATION_TOKENS: Final = _counter("generation_tokens", "Tokens generated.")
_SUCCESS: Final = Counter(
    "vllm:request_success",
    "Finished requests.",
    [*_LABELS, "finished_reason"],
    registry=_REGISTRY,
).labels(**_LABELS, finished_reason="length")


@staged(Stage.METRICS)
def observe_first_token(arrived_ns: int, now_ns: int, prompt_token_count: int) -> None:
    """A request's first token has reached the API server."""
    _TTFT.observe((now_ns - arrived_ns) / 1e9)
    _PROMPT_TOKENS.inc(prompt_token_count)


@staged(Stage.METRICS)
def observe_finished(arrived_ns: int, now_ns: int, stamps: dict[str, int]) -> None:
    """A request's last token has reached the API server; ``stamps`` are the engine's."""
    first_ns, last_ns = stamps["first_token_ns"], stamps["last_token_ns"]
    scheduled_ns = stamps["scheduled_ns"]
    _E2E.observe((now_ns - arrived_ns) / 1e9)
    _QUEUE.observe((scheduled_ns - stamps["queued_ns"]) / 1e9)
    _PREFILL.observe((first_ns - scheduled_ns) / 1e9)
    _DECODE.observe((last_ns - first_ns) / 1e9)
    _INFERENCE.observe((last_ns - scheduled_ns) / 1e9)
    _SUCCESS.inc()


class SchedulerView:
    """Turns the engine's running totals into increments of counters."""

    def __init__(self) -> None:
        self._query_token_count = 0
        self._hit_token_count = 0

    @staged(Stage.METRICS)
    def observe_scheduler(self, stats: dict[str, float], new_token_count: int) -> None:
        """One step of the engine: its ``stats`` and how many tokens it made."""
        _RUNNING.set(stats["running_count"])
        _WAITING.set(stats["waiting_count"])
        _KV_USAGE.set(stats["kv_usage_ratio"])
        _PREFIX_QUERIES.inc(stats["query_token_count"] - self._query_token_count)
        _PREFIX_HITS.inc(stats["hit_token_count"] - self._hit_token_count)
        self._query_token_count = int(stats["query_token_count"])
        self._hit_token_count = int(stats["hit_token_count"])
        _GENERATION_TOKENS.inc(new_token_count)


@staged(Stage.METRICS)
def render() -> bytes:
    """The text that /metrics answers."""
    return generate_latest(_REGISTRY)
