"""What it costs to decode buffered GPU records, and what a traced server pays for them.

Each line is a fresh process with the stand-in for rocprofiler-sdk (made by cc on the spot), which
delivers its buffers on a thread of its own. Times are that thread's CPU time, or where the GIL is
meant, wall time. The figure to reach: 3 million records a second decoded on one core.

    python tests/bench/bench_rocprof_decode.py
"""

from __future__ import annotations

import ctypes
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from probes.rocprof import _abi, payloads, sdk
from probes.rocprof._library import Library
from probes.rocprof.decode import KERNEL_FIELDS, decode_kernels
from probes.rocprof.spool import SpoolReader, spool_directory
from probes.rocprof.spool_writer import SpoolWriter
from probes.rocprof.timeline import Timeline

SOURCE = Path(__file__).parents[1] / "targets" / "rocprof" / "fake_rocprofiler_sdk.c"
RECORDS = 3_000_000
LOOP_RECORDS = 200_000
ROUNDS = 5


def by_numpy(headers: int, count: int) -> int:
    """Decode a delivered buffer as cputax does: blocks of memory to columns."""
    return sum(
        len(decode_kernels(block.memory, block.stride)["start_ns"])
        for block in payloads.blocks(headers, count)
    )


def by_ctypes(headers: int, count: int) -> int:
    """Decode the same columns record by record, as a binding would that knows no numpy."""
    columns: dict[str, list[int]] = {column: [] for column in KERNEL_FIELDS}
    pointers = ctypes.cast(headers, ctypes.POINTER(ctypes.POINTER(_abi.RecordHeader)))
    for number in range(count):
        payload = pointers[number].contents.payload
        record = ctypes.cast(payload, ctypes.POINTER(_abi.KernelDispatchRecord)).contents
        info = record.dispatch_info
        columns["start_ns"].append(record.start_timestamp)
        columns["end_ns"].append(record.end_timestamp)
        columns["thread"].append(record.thread_id)
        columns["correlation"].append(record.correlation_id.internal)
        columns["agent"].append(info.agent_id)
        columns["queue"].append(info.queue_id)
        columns["kernel"].append(info.kernel_id)
        columns["dispatch"].append(info.dispatch_id)
    return len(columns["start_ns"])


class Decoder(sdk.Tracer):
    """Decodes in the callback, and does no more."""

    def __init__(self, library: Library, spool: SpoolWriter, decode: Callable[[int, int], int]):
        super().__init__(library, spool)
        self.decode = decode
        self.cpu_ns = self.decoded_count = 0

    def _on_delivery(self, _context: int, _buffer: int, headers: int, count: int, *_: Any) -> None:
        began_ns = time.thread_time_ns()
        self.decoded_count += self.decode(headers, count)
        self.cpu_ns += time.thread_time_ns() - began_ns


def run_decoder(path: Path, decode: Callable[[int, int], int], count: int) -> str:
    library = Library(path)
    with spool_directory() as directory:
        tracer = Decoder(library, SpoolWriter(str(directory / "1.spool")), decode)
        assert tracer.configure()
        tracer.start()
        emit(path, count)
        tracer.close()
    assert tracer.decoded_count == count
    return f"{count / tracer.cpu_ns * 1e3:8.2f} million records/s"


def run_server(path: Path) -> str:
    """Measure what a traced server pays: to the spool, which the session empties meanwhile."""
    library = Library(path)
    with spool_directory() as directory:
        spool = directory / "1.spool"
        tracer = sdk.Tracer(library, SpoolWriter(str(spool)))
        assert tracer.configure()
        tracer.start()
        reader = SpoolReader(spool, 1)
        for _ in range(30):
            emit(path, RECORDS // 30)
            assert all(body for _, body in reader.frames())
        tracer.close()
    totals = tracer.totals
    assert totals.record_count == RECORDS
    assert totals.unwritten_count == 0
    return (
        f"{totals.held_ns / totals.delivery_count / 1e3:8.1f} us of GIL per buffer of "
        f"{totals.record_count / totals.delivery_count:.0f} records, longest "
        f"{totals.longest_held_ns / 1e3:.0f} us; {totals.held_ns / RECORDS:.0f} ns per record"
    )


def run_session(path: Path) -> str:
    """Measure the session's own work: frames to slices."""
    library = Library(path)
    with spool_directory() as directory:
        spool = directory / "1.spool"
        tracer = sdk.Tracer(library, SpoolWriter(str(spool), 1 << 30))
        assert tracer.configure()
        tracer.start()
        emit(path, RECORDS)
        tracer.close()
        timeline = Timeline(1)
        began_s = time.process_time()
        for kind, body in SpoolReader(spool, 1).frames():
            timeline.take(kind, body)
        count = len(timeline.drain().slices())
        spent_s = time.process_time() - began_s
    assert count == RECORDS
    return f"{RECORDS / spent_s / 1e6:8.2f} million records/s"


def emit(path: Path, count: int) -> None:
    fake = ctypes.CDLL(str(path))
    fake.fake_run_kernels.argtypes = (ctypes.c_uint64, ctypes.c_uint64)
    fake.fake_run_kernels.restype = ctypes.c_uint64
    assert fake.fake_run_kernels(count, 100) == count


VARIANTS: dict[str, tuple[str, Callable[[Path], str]]] = {
    "numpy": ("decoded in the callback, numpy", lambda p: run_decoder(p, by_numpy, RECORDS)),
    "ctypes": ("likewise, a ctypes loop", lambda p: run_decoder(p, by_ctypes, LOOP_RECORDS)),
    "server": ("what a server pays", run_server),
    "session": ("spool to slices, in cputax", run_session),
}


def main() -> None:
    if len(sys.argv) == 3:
        print(VARIANTS[sys.argv[1]][1](Path(sys.argv[2])))
        return
    with tempfile.TemporaryDirectory() as directory:
        library = Path(directory, "librocprofiler-sdk.so.1")
        flags = ["-std=c17", "-O2", "-fvisibility=hidden", "-shared", "-fPIC"]
        subprocess.run(["cc", *flags, "-o", str(library), str(SOURCE), "-lpthread"], check=True)
        for name, (label, _) in VARIANTS.items():
            for _ in range(ROUNDS):
                command = [sys.executable, __file__, name, str(library)]
                ended = subprocess.run(command, capture_output=True, text=True, check=True)
                print(f"{label:32}{ended.stdout.rstrip()}", flush=True)


if __name__ == "__main__":
    main()
