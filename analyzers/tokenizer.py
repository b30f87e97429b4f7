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

import numpy as np

from analyzers.base import Analyzer, Outcome, missing
from analyzers.cpu_time import NATIVE, CpuTime, ThreadCpu, measure_cpu
from analyzers.findings import Finding, Quantity, Rank, abstention
from analyzers.intervals import Intervals, clip, covered_before, empty, joined
from analyzers.server import (
    NOTABLE_RATIO,
    QUEUE,
    TTFT,
    ServerMetrics,
    caveats_of,
    measure_server,
    milliseconds,
)
from analyzers.stages import classify
from analyzers.timeline import Thread, Timeline, runs_by_thread

SLUG: Final = "tokenizer-convoy"
API_SERVER: Final = "api_server"
TOKENIZE: Final = "tokenize"
# vLLM 0.32 renders chat templates in the same pool, so both stand behind the same counter.
SERVICE: Final = frozenset({TOKENIZE, "chat_template"})
# Fewer service times than this in the residual are a request and its neighbour, not a line.
FEWEST_IN_LINE: Final = 2.0
DEFAULT_RATE_HZ: Final = 100.0


@dataclass(frozen=True, slots=True)
class TokenizerCost:
    """Tokenizing in the API servers over the scrape window. Times in seconds."""

    thread: Thread  # the busiest tokenizer thread
    window: float
    request_count: float  # of all API servers
    tokenize_cpu: float  # of all API servers
    service_cpu: float  # with the chat template
    api_cpu: float
    api_native_cpu: float  # threads of the API servers that run no Python, among them pools
    thread_share: float  # of the service CPU time, the busiest thread's
    thread_cpu: float  # the busiest thread's, in service
    thread_wait: float  # its wait for a CPU, in service
    stretches: Intervals  # when its stacks were in service
    is_batched: bool  # prompts tokenized together are released together

    @property
    def service(self) -> float | None:
        """Per request: the thread's CPU time and its wait for a CPU while in service."""
        requests = self.request_count * self.thread_share
        return (self.thread_cpu + self.thread_wait) / requests if requests > 0 else None

    @property
    def utilisation(self) -> float:
        """Share of the window in which the busiest thread ran or waited for a CPU in service."""
        return (self.thread_cpu + self.thread_wait) / self.window

    @property
    def busy_ratio(self) -> float:
        """Share of the window in which its sampled stacks were in service."""
        return self.stretches.total() / 1e9 / self.window

    @property
    def stretch(self) -> float:
        """Mean length of the busy stretch that an instant of service lies in."""
        lengths = self.stretches.lengths() / 1e9
        return float((lengths**2).sum() / lengths.sum()) if len(lengths) else 0.0


@dataclass(frozen=True, slots=True)
class Line:
    """Requests in front of the engine against what the tokenizer explains. Times in seconds."""

    residual: float
    service: float
    stretch: float
    rate_hz: float  # requests that this tokenizer thread serves
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
        """What of the residual the line explains, at most all of it."""
        predicted = self.predicted_batch if self.is_batched else self.predicted_fifo
        return min(self.residual, predicted)

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
    cost = _measure(timeline, timeline.once(measure_cpu), server)
    if cost is None:
        return Outcome({"tokenizer": None}, [_no_tokenizing(timeline)])
    section = _section(cost)
    if server is None:
        without = missing(SLUG, "counters", timeline)
        return Outcome({"tokenizer": section}, [without])
    line = _line(cost, server)
    if line is None:
        reason = (
            f"in {cost.window:.1f} s of metrics {server.request_count:.0f} requests got a first "
            f"token and {server.count(QUEUE):.0f} finished: no mean of TTFT, queue and prefill"
        )
        return Outcome(
            {"tokenizer": section},
            [abstention(SLUG, reason, "record while requests finish, or for longer: -d 60s")],
        )
    section |= _line_section(line)
    return Outcome({"tokenizer": section}, _findings(cost, server, line))


def _no_tokenizing(timeline: Timeline) -> Finding:
    roles = {process.role for process in timeline.processes.values()}
    if API_SERVER not in roles:
        return abstention(SLUG, "the target has no API server: no requests to tokenize")
    return abstention(
        SLUG,
        "no CPU time in a tokenizer was seen in the API server",
        "record while the server takes text prompts",
    )


def _measure(
    timeline: Timeline, cpu: CpuTime, server: ServerMetrics | None
) -> TokenizerCost | None:
    threads = cpu.of_role(API_SERVER)
    if not threads:
        return None
    start_ns, end_ns = timeline.capture.start_ns, timeline.capture.end_ns
    edges = threads[0].counters.edges
    start_ns, end_ns = max(start_ns, int(edges[0])), min(end_ns, int(edges[-1]))
    if server is not None:
        start_ns, end_ns = max(start_ns, server.start_ns), min(end_ns, server.end_ns)
    if end_ns <= start_ns:
        return None

    def spent(one: ThreadCpu, stages: frozenset[str]) -> float:
        return one.stage_ns_between(stages, start_ns, end_ns) / 1e9

    service = {one.thread.track: spent(one, SERVICE) for one in threads}
    tokenize_cpu = sum(spent(one, frozenset({TOKENIZE})) for one in threads)
    if tokenize_cpu <= 0:
        return None
    busiest = max(threads, key=lambda one: service[one.thread.track])
    service_cpu = sum(service.values())
    cpu_total = spent(busiest, frozenset(busiest.cells))
    wait_total = busiest.counters.wait_ns_between(start_ns, end_ns) / 1e9
    in_service = service[busiest.thread.track]
    requests = server.request_count if server is not None else 0.0
    window = (end_ns - start_ns) / 1e9
    if server is not None and server.window_seconds > 0:
        requests *= window / server.window_seconds
    return TokenizerCost(
        thread=busiest.thread,
        window=window,
        request_count=requests,
        tokenize_cpu=tokenize_cpu,
        service_cpu=service_cpu,
        api_cpu=sum(spent(one, frozenset(one.cells)) for one in threads),
        api_native_cpu=sum(spent(one, frozenset({NATIVE})) for one in threads),
        thread_share=in_service / service_cpu,
        thread_cpu=in_service,
        thread_wait=wait_total * in_service / cpu_total,
        stretches=_stretches(timeline, busiest.thread, start_ns, end_ns),
        is_batched=_is_batched(timeline),
    )


def _stretches(timeline: Timeline, thread: Thread, start_ns: int, end_ns: int) -> Intervals:
    """Return when a thread's stacks were in service.

    Between two prompts the thread is off for microseconds, but now and then a tick hits them: holes
    of a tick and a half are closed where that makes the stretch no more than a quarter holes.
    """
    stages = timeline.once(classify)
    runs = timeline.once(runs_by_thread).get(thread.track)
    if runs is None:
        return empty()
    codes = stages.stage(thread.process.role, runs.stack)
    is_service = np.isin(codes, [stages.map.code(stage) for stage in SERVICE])
    tick_ns = 1e9 / _sampling_rate_hz(timeline)
    raw = joined(runs.start[is_service], runs.end[is_service], within_ns=0)
    closed = joined(raw.start, raw.end, within_ns=int(1.5 * tick_ns))
    filled = covered_before(raw, closed.end) - covered_before(raw, closed.start)
    is_dense = filled >= 0.75 * closed.lengths()
    dense = Intervals(closed.start[is_dense], closed.end[is_dense])
    return clip(
        joined(
            np.concatenate((raw.start, dense.start)),
            np.concatenate((raw.end, dense.end)),
            within_ns=0,
        ),
        start_ns,
        end_ns,
    )


def _sampling_rate_hz(timeline: Timeline) -> float:
    for record in timeline.capture.manifest.probes:
        if record.name == "pyspy":
            return record.achieved_hz or record.requested_hz or DEFAULT_RATE_HZ
    return DEFAULT_RATE_HZ


def _line(cost: TokenizerCost, server: ServerMetrics) -> Line | None:
    residual, service = server.residual_seconds, cost.service
    if residual is None or not service:
        return None
    rate_hz = server.request_count / server.window_seconds * cost.thread_share
    return Line(residual, service, cost.stretch, rate_hz, cost.is_batched)


def _is_batched(timeline: Timeline) -> bool:
    """Whether vLLM's micro-batching tokenizer (up to 0.19) was seen at work."""
    functions = timeline.capture.table("frames")["function"].to_pylist()
    return any(name.startswith("AsyncMicrobatchTokenizer.") for name in functions)


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
        # Those in front times the service time: the wait in a steady flow, (utilisation x residual).
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
        f"about {line.explained / line.service:.0f} requests deep at {milliseconds(line.service)} each, while the "
        f"engine's own queue wait is {milliseconds(queue)}.",
        Rank.REQUEST_TIME,
        Quantity(
            line.explained,
            "s",
            min(line.residual, line.predicted_fifo),
            min(line.residual, line.predicted_batch),
        ),
        {
            **_section(cost),
            **_line_section(line),
            "ttft_mean_seconds": server.mean(TTFT),
            "queue_mean_seconds": queue,
            "prefill_mean_seconds": server.mean("vllm:request_prefill_time_seconds"),
            "request_seconds": line.explained * server.request_count,
        },
        (
            "TTFT - queue - prefill is a residual: it also holds the way to the engine, the engine "
            "step that ran at arrival and the way back; "
            f"{milliseconds(line.unattributed)} of it is unattributed",
            "arrivals are not seen: the wait is that of prompts that arrive together, as many as were "
            "tokenized without a pause; less if they came one by one",
            "refuted if the thread's busy stretches are short against the residual, or if more API "
            "servers, or prompts sent as token ids, leave the residual as it is",
            *caveats_of(server),
        ),
        cost_seconds=line.explained * server.request_count,
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
