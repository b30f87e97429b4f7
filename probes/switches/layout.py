"""What the records of our events look like, in 8-byte words from their header on.

Sources: the comments at enum perf_event_type in linux/perf_event.h. All events have the sample type
TID | TIME; one of them REGS_USER as well, and the wake-ups RAW:

    SWITCH           header | pid, tid | time
    SWITCH_CPU_WIDE  header | pid, tid of the other | pid, tid | time
    FORK, EXIT       header | pid, parent's pid | tid, parent's tid | time | pid, tid | time
    COMM             header | pid, tid | name ... | pid, tid | time
    LOST             header | event id | lost count | pid, tid | time
    SAMPLE           header | pid, tid | time | ABI | registers, or: u32 length, fields

There are no registers where the ABI is 0: a kernel thread.
"""

from __future__ import annotations

import platform
from dataclasses import dataclass
from typing import Final

from probes.perf.attributes import Sample
from probes.perf.tracepoints import Tracepoint

# enum perf_event_type
LOST: Final = 2
COMM: Final = 3
EXIT: Final = 4
FORK: Final = 7
SAMPLE: Final = 9
SWITCH: Final = 14
SWITCH_CPU_WIDE: Final = 15
KIND_LIMIT: Final = 32  # above all that the kernel knows

# The header's misc bits.
MISC_SWITCH_OUT: Final = 1 << 13
MISC_COMM_EXEC: Final = 1 << 13
MISC_SWITCH_OUT_PREEMPT: Final = 1 << 14  # Linux 4.17: it was still runnable

SAMPLE_TYPE: Final = Sample.TID | Sample.TIME
SAMPLE_ID_WORDS: Final = 2  # at the end of a side-band record
SAMPLE_BODY_WORD: Final = 3  # what follows TID and TIME
REGISTERS_WORD: Final = SAMPLE_BODY_WORD + 1
SAMPLE_WITH_REGISTERS_WORDS: Final = REGISTERS_WORD + 2
RAW_DATA_BYTE: Final = 8 * SAMPLE_BODY_WORD + 4


@dataclass(frozen=True, slots=True)
class Registers:
    """Two user registers that tell whether a thread is inside a system call.

    ``mask`` of `sample_regs_user`; the kernel writes them in the order of the bits: ``hint`` before
    the instruction pointer. Inside a call ``hint`` holds ``hint_value``.
    """

    mask: int
    hint_value: int


# asm/perf_regs.h: AX 0, IP 8; X8 8, PC 32. On entry x86-64 puts -ENOSYS into the slot of AX and
# leaves it there until the call returns (arch/x86/entry/entry_64.S); arm64 keeps the call's number
# in X8, and 124 is sched_yield.
REGISTERS: Final = {
    "x86_64": Registers(mask=1 << 0 | 1 << 8, hint_value=-38),
    "aarch64": Registers(mask=1 << 8 | 1 << 32, hint_value=124),
}.get(platform.machine())


@dataclass(frozen=True, slots=True)
class Layout:
    """How to read the records of one source.

    Switches are SWITCH_CPU_WIDE records where ``is_cpu_wide``, else SWITCH.
    """

    is_cpu_wide: bool
    registers: Registers | None  # None: no registers, so a yield looks like a preemption
    waking: Tracepoint | None = None

    @property
    def waking_words(self) -> int:
        """How long the record of a wake-up is, which no other sample is."""
        assert self.waking is not None
        return (RAW_DATA_BYTE + self.waking.size_bytes + 7) // 8
