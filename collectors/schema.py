"""The Arrow schemas of a capture, in one place.

Times are int64 nanoseconds on the host's CLOCK_MONOTONIC, ``[start, end)``; an imported timeline is
on the clock that its manifest names. A *track* is who a row belongs to: a process or a thread of
it, a GPU or a stream of it. A null is "unknown", never zero.
"""

from __future__ import annotations

from typing import Final

import pyarrow as pa

SCHEMA_VERSION: Final = 3


def _schema(*fields: tuple[str, pa.DataType, bool]) -> pa.Schema:
    return pa.schema([pa.field(name, kind, nullable=null) for name, kind, null in fields])


I8, I16, I32, I64 = pa.int8(), pa.int16(), pa.int32(), pa.int64()
F64, TEXT = pa.float64(), pa.utf8()

TRACKS = _schema(
    ("track", I32, False),
    ("kind", TEXT, False),  # process, thread, device, stream, host, outsider (a thread of no
    # process of the target), idle (of a CPU)
    ("parent", I32, True),  # a thread's process, a process's parent process, a stream's device
    ("pid", I32, True),  # of a stream: whose work it does; of a device: null
    ("tid", I64, True),  # the kernel's thread id, as seen from the host; a stream's or queue's id
    ("name", TEXT, False),
    ("role", TEXT, False),  # of the process: api_server, engine_core, worker, ...
    ("rank", I32, True),
    ("inner_tid", I32, True),  # tid inside the process's own PID namespace; null: the same
    ("device", I32, True),  # of a device or a stream: the GPU's index, as its source counts
)
FRAMES = _schema(("frame", I32, False), ("function", TEXT, False), ("file", TEXT, False))
# A prefix tree: a stack is named by its leaf; parent -1 is the root.
STACKS = _schema(("stack", I32, False), ("parent", I32, False), ("frame", I32, False))
# A run of samples in which one thread showed the same Python stack: from the tick that first saw it
# to the tick that saw another. A sleeping thread has a stack too: it is not a claim of work.
SAMPLES = _schema(
    ("time_ns", I64, False),
    ("duration_ns", I64, False),
    ("track", I32, False),
    ("stack", I32, False),
)
# Cumulative since the thread began; a row only when something changed, and one at start and stop.
THREAD_COUNTERS = _schema(
    ("time_ns", I64, False),
    ("track", I32, False),
    ("run_ns", I64, False),
    ("wait_ns", I64, False),  # runnable, waiting for a CPU
    ("timeslice_count", I64, False),
    ("voluntary_count", I64, True),
    ("involuntary_count", I64, True),
    ("cpu", I16, True),  # where it last ran
)
# A thread's stay on a CPU, from the switch that put it there to the switch that took it off; only
# threads of the target. Of one thread they do not overlap, and between them it is off the CPU.
CPU_SLICES = _schema(
    ("time_ns", I64, False),
    ("duration_ns", I64, False),
    ("track", I32, False),  # the thread
    ("cpu", I16, False),
    ("leave", I8, True),  # why it left the CPU: `collectors.cpu_slices`; null: that was not seen
    ("next", I32, True),  # who got the CPU: a thread, an outsider, or idle; null: not seen
    ("woken_ns", I64, True),  # when it became ready for this stay; null: not seen, or it was ready
)
# One look at a process's GIL.
GIL = _schema(
    ("time_ns", I64, False),
    ("track", I32, False),  # the process
    ("holder", I32, True),  # thread track; null: nobody holds it
    ("waiter_count", I16, True),  # null: this build's layout is unknown
    ("switch_count", I64, False),
    ("waiters", pa.list_(I32), True),  # thread tracks; null: not looked this time
)
# What slices are called; ``kind`` is one of those in `collectors.slices`.
NAMES = _schema(("name", I32, False), ("kind", TEXT, False), ("text", TEXT, False))
# Something that lasted: a kernel or a copy on a GPU's stream, an API call or operator on a thread.
SLICES = _schema(
    ("time_ns", I64, False),
    ("duration_ns", I64, False),
    ("track", I32, False),  # a stream, or a thread
    ("name", I32, False),
    ("correlation", I64, True),  # the same in a call and in what it put on the GPU; per process
    ("launch_track", I32, True),  # the thread that launched it, where the source says so
    ("size_bytes", I64, True),  # of a copy
    ("graph", I64, True),  # the graph whose replay launched it
)
COUNTER_TYPES = _schema(
    ("counter", I32, False),
    ("name", TEXT, False),
    ("labels", TEXT, False),
    ("unit", TEXT, False),
    ("kind", TEXT, False),  # level, total (total: cumulative, only differences mean something)
)
COUNTERS = _schema(
    ("time_ns", I64, False), ("track", I32, False), ("counter", I32, False), ("value", F64, False)
)
# Instants in a request's life, in order, each as seen by the row's source; null: not seen there.
CLIENT_BOUNDARIES: Final = (
    "begun_ns",  # its turn came (time_ns: when it was due)
    "built_ns",  # the prompt and the fields are there
    "serialised_ns",  # the body is bytes
    "connected_ns",  # a connection is open; an earlier one may have been kept
    "sent_ns",  # the body's last byte was handed to the kernel
    "headers_ns",  # the response's headers have arrived
    "first_byte_ns",  # the first byte of its body
    "first_token_ns",  # the first event that carries text
    "last_token_ns",
    "done_ns",  # the end of its body
    "parsed_ns",  # the last event is decoded
)
SERVER_BOUNDARIES: Final = (
    "queued_ns",  # it entered the engine's queue (time_ns: it arrived in the frontend)
    "scheduled_ns",  # it left that queue
    "first_token_ns",
    "last_token_ns",
    "done_ns",
)
# Words of REQUESTS: sources, statuses, and a scenario's name.
CLIENT: Final = "client"  # the load client
OTLP: Final = "otlp"  # the server's own trace
OK: Final = "ok"
ERROR: Final = "error"  # as the server's own trace has it; the client tells kinds of failure
INTERRUPTED: Final = "interrupted"  # by the user, who ended the load: neither well nor a failure
WARM_UP: Final = "warm-up"  # the load client's name for requests that do not count
# One request as one source saw it: the load client, or the server's own trace.
REQUESTS = _schema(
    ("time_ns", I64, False),
    ("request", TEXT, False),  # the same text in all sources: the client's X-Request-Id
    ("source", TEXT, False),  # CLIENT, OTLP
    ("scenario", TEXT, True),
    ("status", TEXT, False),  # OK, INTERRUPTED, or the kind of failure
    ("prompt_tokens", I32, True),
    ("output_tokens", I32, True),
    ("request_bytes", I64, True),
    ("response_bytes", I64, True),
    *((name, I64, True) for name in CLIENT_BOUNDARIES),
    *((name, I64, True) for name in SERVER_BOUNDARIES if name not in CLIENT_BOUNDARIES),
    ("decode_duration_ns", I64, True),  # first to last token by the engine's clock; lengths only
    ("token_ns", pa.list_(I64), True),  # when each event with text arrived
)
GAPS = _schema(
    ("probe", TEXT, False),
    ("start_ns", I64, False),
    ("end_ns", I64, False),
    ("lost_count", I64, True),  # null: nobody knows how much
    ("reason", TEXT, False),
    ("track", I32, True),
)

TABLES: Final[dict[str, pa.Schema]] = {
    "tracks": TRACKS,
    "frames": FRAMES,
    "stacks": STACKS,
    "samples": SAMPLES,
    "thread_counters": THREAD_COUNTERS,
    "cpu_slices": CPU_SLICES,
    "gil": GIL,
    "names": NAMES,
    "slices": SLICES,
    "counter_types": COUNTER_TYPES,
    "counters": COUNTERS,
    "requests": REQUESTS,
    "gaps": GAPS,
}
