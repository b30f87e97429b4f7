"""A program that knows, from inside, when each of its threads held the GIL and when it wanted it.

Run as ``python workload.py SCENARIO SECONDS``, on CPython 3.10 and later, standard library only. It
prints one JSON line ``{"pid"}`` when it is ready, begins at the first line on stdin, and prints
its truth as one JSON line at the end.

The truth needs no sampler and no knowledge of the lock: Python code runs only while its thread
holds the GIL, so the instants at which a thread read the clock in a tight loop are instants at
which it held it. A span ends where the next reading is late; `truth.py` puts the spans of all
threads together and tells a lost GIL from a lost CPU.
"""

import ctypes
import hashlib
import json
import os
import sys
import threading
import time

# A tight loop reads the clock every 0.1 us or so; this much later something came between. The GIL
# cannot go to another thread and come back faster: that takes two wake-ups.
LATE_NS = 2_000
PR_SET_TIMERSLACK = 29
MS = 1_000_000


class Worker(threading.Thread):
    """One thread and what it knows. Spans are ``(section, start_ns, end_ns)``."""

    def __init__(self, name, begin, life_ns):
        super().__init__(name=name)
        self.begin = begin
        self.life_ns = life_ns
        self.spans = []
        self.wants = []  # (start_ns, end_ns): it wanted the GIL, whether it had it or not

    def run(self):
        # Without it every sleep ends up to 50 us late, and that would look like waiting.
        ctypes.CDLL(None).prctl(PR_SET_TIMERSLACK, 1, 0, 0, 0)
        self.begin.wait()
        delay_ns = run_delay_ns()
        cpu_ns = time.thread_time_ns()
        self.begin_ns = wanted_ns = time.monotonic_ns()
        self.until_ns = self.begin_ns + self.life_ns
        section = 0
        while wanted_ns < self.until_ns:
            wanted_ns = self.section(section, wanted_ns)
            section += 1
        self.end_ns = time.monotonic_ns()
        self.cpu_ns = time.thread_time_ns() - cpu_ns
        self.run_delay_ns = run_delay_ns() - delay_ns

    def hold(self, section, until_ns):
        """Run pure Python until then; return when it let go."""
        clock = time.monotonic_ns
        spans = self.spans
        start = last = clock()
        while last < until_ns:
            now = clock()
            if now - last > LATE_NS:
                spans.append((section, start, last))
                start = now
            last = now
        spans.append((section, start, last))
        return last


class Pure(Worker):
    """Pure Python for ``busy_ms``, then asleep for ``rest_ms``; 0: never."""

    def __init__(self, name, begin, life_ns, busy_ms, rest_ms):
        super().__init__(name, begin, life_ns)
        self.busy_ns = busy_ms * MS
        self.rest_ns = rest_ms * MS

    def section(self, section, wanted_ns):
        until_ns = wanted_ns + self.busy_ns if self.rest_ns else self.until_ns
        last_ns = self.hold(section, until_ns)
        self.wants.append((wanted_ns, last_ns))
        if not self.rest_ns:
            return last_ns
        time.sleep(self.rest_ns / 1e9)
        return last_ns + self.rest_ns


class Hash(Worker):
    """Hashes a large buffer over and over: C code that lets go of the GIL, and never sleeps.

    So what it neither ran nor waited for a CPU, it waited for the GIL; no wants are kept.
    """

    buffer = bytes(4 << 20)

    def section(self, section, wanted_ns):
        hashlib.sha256(self.buffer)
        now_ns = time.monotonic_ns()
        self.spans.append((section, now_ns, now_ns))
        return now_ns


def pure_and_hash(begin, life_ns):
    # Nobody is told to let go: the spans are exact even where threads lose their CPU.
    sys.setswitchinterval(1)
    return [
        Pure("pure", begin, life_ns, 6, 4),
        Hash("hash", begin, life_ns),
        Pure("sleeper", begin, life_ns, 0, 10),
    ]


def contended(begin, life_ns):
    return [
        Pure("always", begin, life_ns, 1, 0),
        Pure("often", begin, life_ns, 30, 20),
        Pure("seldom", begin, life_ns, 12, 48),
        Pure("sleeper", begin, life_ns, 0, 20),
    ]


SCENARIOS = {"pure_and_hash": pure_and_hash, "contended": contended}


def run_delay_ns():
    """How long this thread has waited for a CPU in all its life, as the scheduler counts it."""
    with open("/proc/thread-self/schedstat") as schedstat:
        return int(schedstat.read().split()[1])


def main():
    begin = threading.Event()
    workers = SCENARIOS[sys.argv[1]](begin, int(float(sys.argv[2]) * 1e9))
    for worker in workers:
        worker.start()
    print(json.dumps({"pid": os.getpid()}), flush=True)
    sys.stdin.readline()
    begin.set()
    for worker in workers:
        worker.join()
    kept = ("name", "begin_ns", "end_ns", "cpu_ns", "run_delay_ns", "spans", "wants")
    truth = [
        {"tid": worker.native_id, **{field: getattr(worker, field) for field in kept}}
        for worker in workers
    ]
    print(json.dumps(truth), flush=True)


if __name__ == "__main__":
    main()
