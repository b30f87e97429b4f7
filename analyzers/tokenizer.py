"""What tokenizing costs, measured where it happens, and whether requests stand in line for it.

A tokenizer behind one thread is a server with one counter: N prompts that arrive together are
tokenized one after another, so the mean wait is (N + 1) / 2 times the service time s where each
prompt goes on when it is done, and N times s where a batch is released together. In vLLM both
happen before the engine knows of the request: its queue wait stays near zero while the time to
first token grows with N. s is the tokenizer thread's CPU time plus its wait for a CPU, per request.

What is compared:

* the residual, TTFT - queue - prefill: what a request spent in front of the engine, and a little
  more. It is a residual, so no part of it is given to the tokenizer because nothing else claims it;
* busy stretches: for how long at a time the sampled stacks of the tokenizer thread were tokenizing.
  A stretch of B held N = B / s prompts, and a request waits no longer than the stretch it arrives
  in. What of the residual is longer than the mean wait of N prompts is called unattributed.

So the claim is refuted when the thread's busy stretches are short against the residual, whatever
tokenizing costs in total; and it is not made when less than two service times fit in the residual.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

from analyzers.base import Analyzer, Outcome, missing
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.server import (
    NOTABLE_RATIO,
    PREFILL,
    QUEUE,
    TTFT,
    ServerMetrics,
    caveats_of,
    measure_server,
    milliseconds,
)
from analyzers.timeline import Timeline, runs_by_thread
from analyzers.tokenizer_cost import API_SERVER, TokenizerCost, measure_tokenizer

SLUG: Final = "tokenizer-convoy"
# Fewer service times than this in the residual are a request and its neighbour, not a line.
FEWEST_IN_LINE: Final = 2.0


# A cached prefix does not help: it is tokenized again for every request.
REMEDY: Final = (
    "more tokenizers, if there are CPUs to spare: vllm serve ... --api-server-count 4, or "
    "--renderer-num-workers 4 from vLLM 0.32 on"
)


@dataclass(frozen=True, slots=True)
class Line:
    """Requests in front of the engine against what the tokenizer explains. Times in seconds."""

    residual: float
    service: float
    service_wait: float  # the part of `service` that is waiting for a CPU
    stretch: float
    rate_hz: float  # requests that this tokenizer thread serves
    fill: float  # of the stretches, the share in which the thread ran or waited for a CPU
    is_batched: bool

    @property
    def back_to_back(self) -> float:
        """Prompts that were tokenized without a pause."""
        return self.stretch / self.service

    @property
    def predicted_fifo(self) -> float:
        """Mean wait of prompts that arrive together and go on one by one."""
        return (self.back_to_back + 1) / 2 * self.service

    @property
    def predicted_batch(self) -> float:
        """Mean wait of prompts that arrive together and are released together."""
        return self.stretch

    @property
    def explained(self) -> float:
        """What of the residual the line explains, at most all of it.

        Time in which the thread's stack was tokenizing and it neither ran nor waited for a CPU (it
        may have waited for the GIL) is nobody's.
        """
        predicted = self.predicted_batch if self.is_batched else self.predicted_fifo
        return self.fill * min(self.residual, predicted)

    @property
    def unattributed(self) -> float:
        """What of the residual the line does not explain."""
        return self.residual - self.explained

    @property
    def in_front(self) -> float:
        """Requests in front of the engine at an instant, by Little's law."""
        return self.rate_hz * self.residual

    @property
    def is_convoy(self) -> bool:
        """Whether requests stood in line for the tokenizer."""
        return self.explained >= FEWEST_IN_LINE * self.service


def run(timeline: Timeline) -> Outcome:
    """Report the cost of tokenizing; a finding when requests stand in line for it."""
    if not timeline.once(runs_by_thread):
        return Outcome(findings=[missing(SLUG, "samples", timeline)])
    server = timeline.once(measure_server)
    cost = timeline.once(measure_tokenizer)
    if cost is None:
        return Outcome({"tokenizer": None}, [_no_tokenizing(timeline)])
    section = _section(cost)
    if server is None:
        return Outcome({"tokenizer": section}, [_no_metrics(timeline)])
    line = _line(cost, server)
    if line is None:
        reason = (
            f"in {cost.window:.1f} s of metrics {server.request_count:.0f} requests got a first "
            f"token and {server.count(QUEUE):.0f} finished: no TTFT, queue and prefill to compare"
        )
        return Outcome(
            {"tokenizer": section},
            [abstention(SLUG, reason, "record while requests finish, or for longer: -d 60s")],
        )
    section |= _line_section(line)
    return Outcome({"tokenizer": section}, _findings(cost, server, line))


def _no_metrics(timeline: Timeline) -> Finding:
    if timeline.capture.table("counters").num_rows == 0:
        return missing(SLUG, "counters", timeline)
    return abstention(SLUG, "the server's metrics were read only once", "record for longer: -d 60s")


def _no_tokenizing(timeline: Timeline) -> Finding:
    roles = {process.role for process in timeline.processes.values()}
    if API_SERVER not in roles:
        return abstention(SLUG, "the target has no API server: no requests to tokenize")
    return abstention(
        SLUG,
        "no CPU time in a tokenizer was seen in the API server",
        "record while the server takes text prompts",
    )


def _line(cost: TokenizerCost, server: ServerMetrics) -> Line | None:
    residual, service, wait = server.residual_seconds, cost.service, cost.service_wait
    if residual is None or not service or wait is None:
        return None
    rate_hz = server.request_count / server.window_seconds * cost.thread_share
    fill = min(1.0, cost.utilisation / cost.busy_ratio) if cost.busy_ratio else 0.0
    return Line(residual, service, wait, cost.stretch, rate_hz, fill, cost.is_batched)


def _section(cost: TokenizerCost) -> dict[str, Any]:
    return {
        "pid": cost.thread.process.pid,
        "tid": cost.thread.tid,
        "thread": cost.thread.name,
        "window_seconds": cost.window,
        "request_count": cost.request_count,
        "tokenize_cpu_seconds": cost.tokenize_cpu,
        "service_cpu_seconds": cost.service_cpu,
        "share_of_api_server_ratio": cost.tokenize_cpu / cost.api_cpu,
        "api_server_native_cpu_seconds": cost.api_native_cpu,
        "thread_share_ratio": cost.thread_share,
        "thread_cpu_seconds": cost.thread_cpu,
        "thread_wait_seconds": cost.thread_wait,
        "thread_utilisation_ratio": cost.utilisation,
        "thread_busy_ratio": cost.busy_ratio,
        "busy_stretch_seconds": cost.stretch,
        "service_seconds_per_request": cost.service,
        "service_wait_seconds_per_request": cost.service_wait,
    }


def _line_section(line: Line) -> dict[str, Any]:
    return {
        "is_convoy": line.is_convoy,
        "residual_seconds": line.residual,
        "explained_seconds": line.explained,
        "unattributed_seconds": line.unattributed,
        "requests_in_front_count": line.in_front,
        "back_to_back_count": line.back_to_back,
        "is_released_in_batches": line.is_batched,
        # In a steady flow: those in front, times the service time of each.
        "predicted_steady_seconds": line.in_front * line.service,
        "predicted_fifo_seconds": line.predicted_fifo,
        "predicted_batch_seconds": line.predicted_batch,
    }


def _findings(cost: TokenizerCost, server: ServerMetrics, line: Line) -> list[Finding]:
    ttft = server.mean(TTFT) or 0.0
    findings = []
    explained = 0.0
    if line.is_convoy and line.explained >= NOTABLE_RATIO * ttft:
        explained = line.explained
        findings.append(_convoy(cost, server, line))
    rest = line.residual - explained
    if rest >= NOTABLE_RATIO * ttft > 0:
        findings.append(_unattributed(server, line, rest))
    return findings


def _convoy(cost: TokenizerCost, server: ServerMetrics, line: Line) -> Finding:
    queue = server.mean(QUEUE) or 0.0
    thread = cost.thread
    return Finding(
        SLUG,
        f"Requests stand in line for one tokenizer thread in the API server (PID "
        f"{thread.process.pid}): of a mean time to first token of "
        f"{milliseconds(server.mean(TTFT) or 0.0)}, {milliseconds(line.explained)} passes there, "
        f"about {line.explained / line.service:.0f} requests deep at {milliseconds(line.service)} "
        f"each ({milliseconds(line.service_wait)} of it waiting for a CPU), while the engine's own "
        f"queue wait is {milliseconds(queue)}.",
        Rank.REQUEST_TIME,
        Quantity(
            line.explained,
            "s",
            line.fill * min(line.residual, line.predicted_fifo),
            min(line.residual, line.predicted_batch),
        ),
        {
            **_section(cost),
            **_line_section(line),
            "ttft_mean_seconds": server.mean(TTFT),
            "queue_mean_seconds": queue,
            "prefill_mean_seconds": server.mean(PREFILL),
            "request_seconds": line.explained * server.request_count,
        },
        (
            "TTFT - queue - prefill is a residual: it also holds the way to the engine, the engine "
            "step that ran at arrival and the way back; "
            f"{milliseconds(line.unattributed)} of it is unattributed",
            "arrivals are not seen: the wait is that of prompts that arrive together, as many as "
            "were tokenized without a pause; less if they came one by one",
            "refuted if the thread's busy stretches are short against the residual, or if more API "
            "servers, or prompts sent as token ids, leave the residual as it is",
            *caveats_of(server),
        ),
        cost_seconds=line.explained * server.request_count,
        remedy=REMEDY,
    )


def _unattributed(server: ServerMetrics, line: Line, rest: float) -> Finding:
    ttft = server.mean(TTFT) or 0.0
    return Finding(
        "ttft-unattributed",
        f"Of a mean time to first token of {milliseconds(ttft)}, {milliseconds(rest)} is neither "
        "queue nor prefill nor tokenizer line: it is unattributed.",
        Rank.REQUEST_TIME,
        Quantity(rest, "s"),
        {
            "ttft_mean_seconds": ttft,
            "residual_seconds": line.residual,
            "unattributed_seconds": rest,
            "request_seconds": rest * server.request_count,
        },
        ("own tokenizing, HTTP, the way between processes and the engine step at arrival are in it",
         *caveats_of(server)),
        cost_seconds=rest * server.request_count,
    )  # fmt: skip


ANALYZER: Final = Analyzer(SLUG, ("thread_counters",), run)
