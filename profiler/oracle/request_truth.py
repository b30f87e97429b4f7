"""Every boundary of every request, as the server itself saw it."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

from profiler.oracle.tokenizer import TokenizeTimes


@dataclass(slots=True)
class RequestTruth:
    """One request; ns on CLOCK_MONOTONIC, in the order in which they pass. 0: not reached.

    ``client_id`` is the client's X-Request-Id, empty when it sent none; ``name`` is what the
    request is called in traces. A token is *seen* when the API server has received it; the request
    is *finished* when its last text was handed to whoever writes the answer.
    """

    request_id: int
    arrived_ns: int
    parsed_ns: int
    client_id: str = ""
    name: str = ""
    validated_ns: int = 0
    tokenizing: TokenizeTimes = field(default_factory=TokenizeTimes)
    headers_ns: int = 0
    engine_sent_ns: int = 0
    queued_ns: int = 0
    scheduled_ns: int = 0
    first_token_ns: int = 0
    first_token_seen_ns: int = 0
    last_token_ns: int = 0
    last_token_seen_ns: int = 0
    finished_ns: int = 0
    done_ns: int = 0
    prompt_token_count: int = 0
    generated_token_count: int = 0

    def take_stamps(self, output: dict[str, Any]) -> None:
        """Copy the engine's stamps from one of its outputs."""
        self.queued_ns = output["queued_ns"]
        self.scheduled_ns = output["scheduled_ns"]
        self.first_token_ns = output["first_token_ns"]
        self.last_token_ns = output["last_token_ns"]

    def to_dict(self) -> dict[str, Any]:
        """For JSON; holds no text of the request."""
        return asdict(self)


def summarize(requests: list[RequestTruth]) -> dict[str, float | int | None]:
    """Means over finished requests, in seconds; null when there are none."""
    done = [request for request in requests if request.done_ns]

    def mean_seconds(spans_ns: list[int]) -> float | None:
        return sum(spans_ns) / len(spans_ns) / 1e9 if spans_ns else None

    return {
        "request_count": len(done),
        "tokenize_wait_mean_seconds": mean_seconds(
            [r.tokenizing.started_ns - r.tokenizing.submitted_ns for r in done]
        ),
        "tokenize_wall_mean_seconds": mean_seconds(
            [r.tokenizing.ended_ns - r.tokenizing.started_ns for r in done]
        ),
        "tokenize_cpu_mean_seconds": mean_seconds([r.tokenizing.cpu_ns for r in done]),
        "ttft_mean_seconds": mean_seconds([r.first_token_seen_ns - r.validated_ns for r in done]),
        "queue_mean_seconds": mean_seconds([r.scheduled_ns - r.queued_ns for r in done]),
        "prefill_mean_seconds": mean_seconds([r.first_token_ns - r.scheduled_ns for r in done]),
        "e2e_mean_seconds": mean_seconds([r.done_ns - r.arrived_ns for r in done]),
    }
