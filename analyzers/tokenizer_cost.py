"""What tokenizing cost in the API servers: CPU time, run-queue wait, busy stretches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from analyzers.cpu_time import NATIVE, ThreadCpu, measure_cpu
from analyzers.intervals import Intervals, clip, covered_before, joined, union
from analyzers.server import measure_server
from analyzers.stages import shown
from analyzers.timeline import Thread, Timeline

API_SERVER: Final = "api_server"
TOKENIZE: Final = "tokenize"
# vLLM 0.32 renders chat templates in the same pool, so both stand behind the same counter.
SERVICE: Final = frozenset({TOKENIZE, "chat_template"})
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
    def thread_request_count(self) -> float:
        """Requests that the busiest thread served: its share of the service time's."""
        return self.request_count * self.thread_share

    @property
    def service(self) -> float | None:
        """Per request: the thread's CPU time and its wait for a CPU while in service."""
        requests = self.thread_request_count
        return (self.thread_cpu + self.thread_wait) / requests if requests > 0 else None

    @property
    def service_wait(self) -> float | None:
        """The part of `service` that was waiting for a CPU."""
        requests = self.thread_request_count
        return self.thread_wait / requests if requests > 0 else None

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


def measure_tokenizer(timeline: Timeline) -> TokenizerCost | None:
    """Return the cost; None when no CPU time in a tokenizer of an API server was seen."""
    server = timeline.once(measure_server)
    threads = timeline.once(measure_cpu).of_role(API_SERVER)
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
        is_batched=is_batched(timeline),
    )


def _stretches(timeline: Timeline, thread: Thread, start_ns: int, end_ns: int) -> Intervals:
    """Return when a thread's stacks were in service.

    Between two prompts the thread is off for microseconds, but now and then a tick hits them: holes
    of a tick and a half are closed where that makes the stretch no more than a quarter holes.
    """
    tick_ns = 1e9 / (timeline.sampling_rate_hz(thread.process) or DEFAULT_RATE_HZ)
    raw = shown(timeline, thread, SERVICE)
    closed = joined(raw.start, raw.end, within_ns=int(1.5 * tick_ns))
    filled = covered_before(raw, closed.end) - covered_before(raw, closed.start)
    is_dense = filled >= 0.75 * closed.lengths()
    dense = Intervals(closed.start[is_dense], closed.end[is_dense])
    return clip(union(raw, dense), start_ns, end_ns)


def is_batched(timeline: Timeline) -> bool:
    """Whether vLLM's micro-batching tokenizer (up to 0.19) was seen at work.

    It lets up to 32 prompts go together.
    """
    functions = timeline.capture.table("frames")["function"].to_pylist()
    return any(name.startswith("AsyncMicrobatchTokenizer.") for name in functions)
