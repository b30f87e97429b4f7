"""What the server itself counts in a window: tokens, requests, and how long they took.

Counter names and meaning: https://docs.vllm.ai/en/latest/usage/metrics.html. Prompt tokens count
when a prompt's prefill ends, in lumps; generated ones as they come.
"""

from __future__ import annotations

import http.client
import time
from dataclasses import dataclass
from typing import Any, Final

from collectors.errors import CputaxError, ExitCode
from probes.server_metrics import TIMEOUT_S, fetch, parse_metrics

_GENERATED: Final = "vllm:generation_tokens_total"
_PROMPT: Final = "vllm:prompt_tokens_total"
_FINISHED: Final = "vllm:request_success_total"
_RUNNING: Final = "vllm:num_requests_running"
_WAITING: Final = "vllm:num_requests_waiting"
_TTFT: Final = "vllm:time_to_first_token_seconds"
_E2E: Final = "vllm:e2e_request_latency_seconds"


class MetricsLost(CputaxError):
    """The server's counters cannot be read any more."""

    slug = "metrics-lost"
    exit_code = ExitCode.TARGET

    def __init__(self, url: str, reason: str) -> None:
        super().__init__(
            f"{url}/metrics does not answer any more ({reason})",
            "the masks are back; see the server's log, then run again",
        )


@dataclass(frozen=True, slots=True)
class Measure:
    """Something of a window that a plan may change."""

    name: str
    unit: str
    is_better_high: bool


THROUGHPUT: Final = Measure("output tokens", "1/s", True)
MEASURES: Final = (
    THROUGHPUT,
    Measure("prompt tokens", "1/s", True),
    Measure("requests", "1/s", True),
    Measure("mean TTFT", "s", False),
    Measure("mean latency", "s", False),
)


@dataclass(frozen=True, slots=True)
class Look:
    """One look at /metrics: totals by sample name, summed over labels."""

    time_ns: int
    values: dict[str, float]


@dataclass(frozen=True, slots=True)
class Window:
    """What happened between two looks; a value that nothing tells is None."""

    index: int
    is_pinned: bool
    seconds: float
    values: dict[str, float | None]
    request_count: float | None  # running or waiting, the mean of both ends

    @property
    def has_load(self) -> bool:
        """Whether the server made tokens."""
        return bool(self.values[THROUGHPUT.name])

    def to_json(self) -> dict[str, Any]:
        """Return it for ``--json``; rates are per second, latencies in seconds."""
        return {
            "index": self.index,
            "is_pinned": self.is_pinned,
            "seconds": self.seconds,
            "requests_in_server": self.request_count,
            "values": self.values,
        }


def look(url: str) -> Look:
    """Ask the server at ``url`` for its counters.

    Raises:
        MetricsLost: it does not answer as it did.
    """
    before_ns = time.monotonic_ns()
    try:
        status, body = fetch(url, "/metrics", TIMEOUT_S)
        samples = list(parse_metrics(body.decode("utf-8", "replace")))
    except (OSError, http.client.HTTPException, ValueError) as error:
        raise MetricsLost(url, type(error).__name__) from error
    if status != 200:
        raise MetricsLost(url, f"status {status}")
    values: dict[str, float] = {}
    for name, _, value, _ in samples:
        values[name] = values.get(name, 0.0) + value
    # The page is made somewhere between asking and getting it.
    return Look((before_ns + time.monotonic_ns()) // 2, values)


def window_of(index: int, is_pinned: bool, before: Look, after: Look) -> Window:
    """Return what happened between two looks."""
    seconds = (after.time_ns - before.time_ns) / 1e9

    def grown(name: str) -> float | None:
        if name not in before.values or name not in after.values:
            return None
        growth = after.values[name] - before.values[name]
        return growth if growth >= 0 else None  # less than before: the server was started anew

    def rate_hz(name: str) -> float | None:
        growth = grown(name)
        return None if growth is None else growth / seconds

    def mean_s(name: str) -> float | None:
        total, count = grown(f"{name}_sum"), grown(f"{name}_count")
        return total / count if total is not None and count else None

    rates = [rate_hz(name) for name in (_GENERATED, _PROMPT, _FINISHED)]
    numbers = [*rates, mean_s(_TTFT), mean_s(_E2E)]
    counts = [one.values.get(name) for one in (before, after) for name in (_RUNNING, _WAITING)]
    known = [count for count in counts if count is not None]
    return Window(
        index, is_pinned, seconds,
        dict(zip((measure.name for measure in MEASURES), numbers, strict=True)),
        sum(known) / 2 if known else None,
    )  # fmt: skip
