"""A thread that spins on sched_yield, like vLLM's engine: how much of the time has it the GIL?

The truth comes from `gil/hold_clock.c`, preloaded into the target: it stands before the functions
through which CPython lets go of the GIL and takes it back, and reads the clock there. The lock is
taken somewhere within the one and let go somewhere within the other, so it gives two bounds.
"""

from __future__ import annotations

import os
import shutil
import struct
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
from gil.interpreters import find_interpreter

from probes.gil.link import SamplerLink
from probes.gil.runtime import find_gil
from probes.keeper import Keeper

SOURCE = Path(__file__).parent / "gil" / "hold_clock.c"
SLOT = struct.Struct("<7q")  # tid, held, since, releases, restore, save, forced: see the source
SAMPLE_COUNT = 4000
TOLERANCE_RATIO = 0.02
# A sample that came late was taken when the target let go of the CPU, so it says little of the
# GIL: of several measurements the one with the fewest of them counts.
LATE_NS = 200_000
FEW_LATE_RATIO = 0.005
ATTEMPTS = 6
SPIN = """
import os, sys
print('up', flush=True)
while True:
    os.sched_yield()
    for _ in range({work}): pass
"""

pytestmark = pytest.mark.truth


@pytest.fixture(scope="module")
def python() -> str:
    found = find_interpreter((3, 11))
    if found is None:
        pytest.skip("the hold clock knows CPython 3.11 only, and there is none here")
    linked = subprocess.run(["ldd", found], capture_output=True, text=True, check=False).stdout
    if "libpython3.11" not in linked:
        pytest.skip(f"{found} has no shared libpython to stand before")
    return found


@pytest.fixture(scope="module")
def hold_clock(tmp_path_factory: pytest.TempPathFactory) -> Path:
    compiler = shutil.which("cc")
    if compiler is None:
        pytest.skip("no C compiler here")
    library = tmp_path_factory.mktemp("clock") / "hold_clock.so"
    flags = ["-O2", "-shared", "-fPIC", "-o", str(library), str(SOURCE), "-ldl"]
    subprocess.run([compiler, *flags], check=True)
    return library


class Spinner:
    """A spinning process with a clock in it."""

    def __init__(self, process: subprocess.Popen[bytes], clock: Path) -> None:
        self.pid = process.pid
        self._clock = clock

    def held_ns(self) -> tuple[int, int]:
        """How long its main thread has had the GIL so far: at least, and at most."""
        now_ns = time.monotonic_ns()
        tid, held, since, _, restore, save, _ = SLOT.unpack(self._clock.read_bytes()[: SLOT.size])
        assert tid == self.pid
        low = held + (now_ns - since if since else 0)
        return low, low + restore + save


@pytest.fixture(params=[0, 20, 200], ids=lambda work: f"work{work}")
def spinner(
    request: pytest.FixtureRequest, python: str, hold_clock: Path, tmp_path: Path
) -> Iterator[Spinner]:
    clock = tmp_path / "hold"
    with subprocess.Popen(
        [python, "-c", SPIN.format(work=request.param)],
        stdout=subprocess.PIPE,
        env={**os.environ, "LD_PRELOAD": str(hold_clock), "HOLD_CLOCK": str(clock)},
    ) as process:
        assert process.stdout is not None
        process.stdout.readline()
        try:
            yield Spinner(process, clock.with_name(f"hold.{process.pid}"))
        finally:
            process.kill()


def measure(spinner: Spinner) -> tuple[float, float, float, float]:
    """Return the held ratio (at least, at most, as sampled) and the ratio of late samples."""
    keeper = Keeper()
    try:
        link = SamplerLink(
            keeper, [find_gil(spinner.pid)], rate_hz=1000, look_hz=200, is_realtime=True
        )
        stopping = threading.Event()
        taken = []
        begin: tuple[int, int, int] | None = None
        for batch in link.batches(stopping):
            if batch is None or not len(batch.samples):
                continue
            if begin is None:  # its own start is behind it
                begin = (time.monotonic_ns(), *spinner.held_ns())
                continue
            taken.append(batch.samples)
            if sum(map(len, taken)) >= SAMPLE_COUNT and not stopping.is_set():
                end = (time.monotonic_ns(), *spinner.held_ns())
                stopping.set()
        link.close()
    finally:
        keeper.close()
    assert begin is not None
    samples = np.concatenate(taken)
    samples = samples[(samples["time_ns"] >= begin[0]) & (samples["time_ns"] < end[0])]
    length_ns = end[0] - begin[0]
    return (
        (end[1] - begin[1]) / length_ns,
        (end[2] - begin[2]) / length_ns,
        float((samples["holder_tid"] == spinner.pid).mean()),
        float((samples["late_ns"] > LATE_NS).mean()),
    )


def test_a_spinning_thread_s_share_lies_between_the_bounds(spinner: Spinner) -> None:
    measured = []
    for _ in range(ATTEMPTS):
        measured.append(measure(spinner))
        print("held {:.4f}..{:.4f}, sampled {:.4f}, late {:.4f}".format(*measured[-1]))
        if measured[-1][3] < FEW_LATE_RATIO:
            break
    low, high, sampled, _ = min(measured, key=lambda one: one[3])
    assert low - TOLERANCE_RATIO < sampled < high + TOLERANCE_RATIO
