"""A made server whose GPU is idle for reasons that are known to the nanosecond.

One thread launches steps of kernels, waits for the GPU, and launches the next. Now and then it is
late, for one of the `PLANTED` reasons. What the probes would have recorded of that is made as they
record it: stacks at 100 Hz and looks at the GIL at 1,000 Hz at random instants of their beat, the
waiters' names at a fifth of the looks, counters at 20 Hz with jitter, and the calls of the GPU's
runtime exactly.
"""

from __future__ import annotations

import random
from bisect import bisect_right
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import pairwise

from collectors.capture import Capture
from collectors.manifest import IMPORTED
from collectors.slices import PYTHON
from tests.unit.captures import SITE, CaptureBuilder, Frame

MS = 1_000_000
US = 1_000
RUNNER = f"{SITE}/vllm/v1/worker/gpu_model_runner.py"
LOOP: list[Frame] = [
    ("EngineCoreProc.run_busy_loop", f"{SITE}/vllm/v1/engine/core.py"),
    ("Worker.execute_model", f"{SITE}/vllm/v1/worker/gpu_worker.py"),
]
FORWARD = [
    [
        *LOOP,
        ("GPUModelRunner._model_forward", RUNNER),
        ("LlamaMLP.forward", f"{SITE}/model_{one}.py"),
    ]
    for one in range(6)
]
PREPARE: list[Frame] = [*LOOP, ("GPUModelRunner._prepare_inputs", RUNNER)]
SYNC: list[Frame] = [*LOOP, ("Event.synchronize", f"{SITE}/torch/cuda/streams.py")]
SAMPLE: list[Frame] = [*LOOP, ("GPUModelRunner._sample", RUNNER)]
SCHEDULE = [
    [LOOP[0], ("Scheduler.schedule", f"{SITE}/vllm/v1/core/sched/scheduler.py"), (leaf, "heapq.py")]
    for leaf in ("heappush", "heappop", "nlargest")
]
IPC: list[Frame] = [
    LOOP[0],
    ("MessageQueue.dequeue", f"{SITE}/vllm/distributed/device_communicators/shm_broadcast.py"),
]
MISSED_RATIO = 0.02
PLANTED = ("gil_wait", "run_queue", "python", "ipc")


@dataclass(frozen=True, slots=True)
class Span:
    """What the thread did: ``does`` is run, call, sync, or one of `PLANTED`."""

    start: int
    end: int
    does: str
    stack: list[Frame]


@dataclass(slots=True)
class Story:
    """What really happened: the thread's spans, its calls by correlation, and the GPU's slices."""

    spans: list[Span] = field(default_factory=list)
    calls: list[tuple[int, int, str, int]] = field(default_factory=list)
    kernels: list[tuple[int, int, int]] = field(default_factory=list)
    now: int = 0

    def do(self, does: str, length: int, stack: list[Frame]) -> None:
        self.spans.append(Span(self.now, self.now + length, does, stack))
        self.now += length

    def planted(self) -> Iterator[Span]:
        return (span for span in self.spans if span.does in PLANTED)


def tell(
    chance: random.Random, seconds: float, plant: Callable[[random.Random], tuple[str, int] | None]
) -> Story:
    """Make a story; ``plant`` is asked before each step for a reason and a length."""
    story, gpu_free, correlation = Story(), 0, 0
    while story.now < seconds * 1e9:
        planted = plant(chance)
        kernels = 25
        # In the middle of a step the GPU has work for a while yet; at its end it has none.
        place = chance.choice((0, 0, chance.randrange(kernels)))
        # A step of long kernels, which the thread runs ahead of, or of short ones, which it cannot.
        length = chance.choice((400 * US, 400 * US, 4 * US))
        story.do("run", chance.randint(100, 250) * US, PREPARE)
        for number in range(kernels):
            if planted is not None and number == place:
                _be_late(story, chance, *planted)
            story.do("run", chance.randint(6, 20) * US, FORWARD[number % len(FORWARD)])
            correlation += 1
            call = story.now
            story.do("call", chance.randint(3, 7) * US, FORWARD[number % len(FORWARD)])
            story.calls.append((call, story.now, "hipLaunchKernel", correlation))
            begin = max(gpu_free, call + chance.randint(4, 9) * US)
            gpu_free = begin + length + chance.randint(0, length // 10)
            story.kernels.append((begin, gpu_free, correlation))
        story.do("run", 20 * US, SAMPLE)
        call = story.now
        story.do("sync", max(2 * US, gpu_free - story.now) + 5 * US, SYNC)
        story.calls.append((call, story.now, "hipEventSynchronize", 0))
        story.do("run", chance.randint(150, 400) * US, SAMPLE)
    return story


def _be_late(story: Story, chance: random.Random, reason: str, length: int) -> None:
    if reason != "python":
        story.do(reason, length, IPC if reason == "ipc" else PREPARE)
        return
    end = story.now + length
    while story.now < end:
        piece = min(chance.randint(300, 4_000) * US, end - story.now)
        story.do("python", piece, chance.choice(SCHEDULE))


def record(story: Story, chance: random.Random, *, with_calls: bool = True) -> Capture:
    """Return what the probes would have recorded of a story."""
    made = CaptureBuilder(kind="vllm", seconds=story.now / 1e9, start_ns=0)
    process = made.process("worker")
    thread = made.thread(process, tid=100)
    other = made.thread(process, tid=101, name="other")
    stream = made.stream(made.device(0, name="MI300X"), process=process)
    for start, end, correlation in story.kernels:
        made.slice(
            stream, start / MS, end / MS, correlation=correlation if with_calls else None,
            launch_track=thread,
        )  # fmt: skip
    if with_calls:
        for start, end, name, correlation in story.calls:
            made.call(thread, start / MS, end / MS, name, correlation=correlation or None)
    starts = [span.start for span in story.spans]

    def at(time: int) -> Span:
        return story.spans[max(0, bisect_right(starts, time) - 1)]

    _stacks(made, thread, at, _beat(chance, story.now, 10 * MS))
    _gil(made, (process, thread, other), at, _beat(chance, story.now, MS), chance)
    _counters(made, thread, story, chance)
    made.probe("stacks", "works", requested_hz=100.0, achieved_hz=100.0)
    return made.build()


def record_from_inside(story: Story) -> Capture:
    """Return what a profiler inside the process would have written: calls and Python functions."""
    made = CaptureBuilder(kind=IMPORTED, seconds=story.now / 1e9, start_ns=0)
    process = made.process("python")
    thread = made.thread(process, tid=100)
    stream = made.stream(made.device(0), process=process)
    for start, end, correlation in story.kernels:
        made.slice(stream, start / MS, end / MS, correlation=correlation)
    for start, end, name, correlation in story.calls:
        made.call(thread, start / MS, end / MS, name, correlation=correlation or None)
    for span in story.spans:
        for function, file in span.stack:
            # Bare names, and files from the packages' folder on, as torch's profiler has them.
            text = f"{file.removeprefix(f'{SITE}/')}(1): {function.rpartition('.')[2]}"
            made.slice(thread, span.start / MS, span.end / MS, text, kind=PYTHON)
    return made.build()


def _beat(chance: random.Random, end: int, period: int) -> list[int]:
    """Return a random instant of each period; now and then the sampler sleeps through one."""
    return [
        start + chance.randrange(period)
        for start in range(0, end - period, period)
        if chance.random() > MISSED_RATIO
    ]


def _stacks(made: CaptureBuilder, thread: int, at: Callable[[int], Span], looks: list[int]) -> None:
    begun = looks[0]
    for now, then in pairwise(looks):
        if at(now).stack != at(then).stack or then == looks[-1]:
            made.run(thread, begun / MS, then / MS, at(now).stack)
            begun = then


def _gil(
    made: CaptureBuilder, tracks: tuple[int, int, int], at: Callable[[int], Span],
    looks: list[int], chance: random.Random,
) -> None:  # fmt: skip
    """Looks at the GIL: another thread wants it half of the time, and has it while it is wanted."""
    process, thread, other = tracks
    switches, last = 0, None
    for now in looks:
        does = at(now).does
        holder = {"gil_wait": other, "sync": None, "ipc": None}.get(does, thread)
        waiters = [thread] if does == "gil_wait" else []
        if holder == thread and chance.random() < 0.5:
            waiters.append(other)
        switches += holder != last
        last = holder
        is_named = bool(waiters) and chance.random() < 0.2
        made.gil(
            process, now / MS, holder=holder, waiter_count=len(waiters),
            waiters=waiters if is_named else None, switch_count=switches,
        )  # fmt: skip


def _counters(made: CaptureBuilder, thread: int, story: Story, chance: random.Random) -> None:
    """Counters at 20 Hz; each time it wakes up the thread waits a little for its CPU."""
    looks = [one + chance.randint(0, 3 * MS) for one in range(0, story.now - 60 * MS, 50 * MS)]
    run = wait = slices = 0
    spans = iter(story.spans)
    span = next(spans)
    for look in [*looks, story.now]:
        while span.end <= look:
            run, wait, slices = _account(span, span.end, run, wait, slices, chance)
            span = next(spans, Span(story.now, 1 << 62, "sync", []))
        # Of a span that goes on the kernel has booked what is over; a wait is booked at its end.
        part = max(0, look - span.start) if span.does in ("run", "call", "python") else 0
        made.look(thread, look / MS, run=(run + part) / MS, wait=wait / MS, timeslice_count=slices)


def _account(
    span: Span, end: int, run: int, wait: int, slices: int, chance: random.Random
) -> tuple[int, int, int]:
    length = end - span.start
    if span.does in ("run", "call", "python"):
        return run + length, wait, slices
    if span.does == "run_queue":
        return run, wait + length, slices + 1
    return run, wait + chance.randint(5, 60) * US, slices + 1
