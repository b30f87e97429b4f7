"""Where the Python stacks of one process lie: plain numbers, found once and handed to the sampler.

This module is imported by the sampler child and stays free of anything slow to import.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class StackLayout(NamedTuple):
    """What a reader needs to know about one process. Addresses are of the target's memory."""

    pid: int
    start_ticks: int  # /proc/PID/stat field 22: which life of this PID
    interpreter_address: int
    threads_head_offset: int  # in the interpreter
    next_offset: int  # the rest of this block: in the thread state
    thread_id_offset: int
    current_offset: int  # the innermost frame, or the _PyCFrame that points to it
    chunk_offset: int  # datastack_chunk; datastack_top and datastack_limit follow it
    cframe_offset: int  # of the frame's pointer in the _PyCFrame; -1: there is none in between
    code_offset: int  # in a frame
    previous_offset: int
    owner_offset: int
    filename_offset: int  # in a code object
    name_offset: int  # of co_qualname
    ascii_bytes: int  # header of an ASCII string; its text follows
    compact_bytes: int  # header of any other one
    is_namespaced: bool  # thread ids in its memory are those of an inner PID namespace


def from_fields(fields: list[Any]) -> StackLayout:
    """Rebuild a layout that went through JSON as a list."""
    return StackLayout(*fields)
