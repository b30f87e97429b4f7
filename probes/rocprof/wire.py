"""What a traced server writes into its spool file, and the session reads: frames, one by one.

A frame is `HEADER` and its body. Records are passed on as the library laid them out: the session
decodes them, so that the server does not have to. Standard library only (see the package).
"""

from __future__ import annotations

import struct

MAGIC = 0x31505243  # "CRP1"
HEADER = struct.Struct("<IIQ")  # MAGIC, type, bytes of the body
RECORDS = struct.Struct("<QQQQ")  # mark, stride, count, drops so far of that buffer; then the rows
MAX_BODY_BYTES = 1 << 23  # no buffer of ours is larger, and no batch of names

# Types of frames. All but DATA hold one JSON object.
HELLO = 1  # who writes, with which library, and its GPUs
KERNELS = 2  # names of kernels by id, and of API calls by operation
DATA = 3
TOTALS = 4  # what the tracer counted so far
STARTED = 5  # records of what is launched from now on follow
STOPPED = 6  # all of them have come
PROBLEM = 7  # why there are none


def mark_of(category: int, kind: int) -> int:
    """Return what tells records apart: the first eight bytes of a record's header."""
    return category | kind << 32
