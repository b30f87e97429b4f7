"""Slices that arrive in many batches, kept as one growing array per column.

A list of batches would leave the allocator's heap full of holes, as large as the trace, once they
are put together. A large array grows in place (mremap), and its memory goes back when it is freed.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any, Final

from numpy.typing import NDArray

from collectors.importers.trace import MAX_SLICE_COUNT, Trace
from collectors.slices import Slices, concatenate

_GROWTH_RATIO: Final = 1.25
_MIN_CAPACITY: Final = 1 << 16


class SliceBuffer:
    """Collects slices for a trace."""

    def __init__(self, trace: Trace) -> None:
        self._trace = trace
        self._columns: list[NDArray[Any]] = []
        self._count = self._capacity = 0
        self._begin()

    def add(self, batch: Slices) -> None:
        """Append a batch."""
        end = self._count + len(batch)
        if end > MAX_SLICE_COUNT:  # the trace says why not
            self.flush()
            self._trace.add(batch)
            return
        if end > self._capacity:
            self._resize(max(_MIN_CAPACITY, int(end * _GROWTH_RATIO)))
        for field, column in zip(fields(Slices), self._columns, strict=True):
            column[self._count : end] = getattr(batch, field.name)
        self._count = end

    def flush(self) -> None:
        """Hand all that was collected to the trace."""
        self._resize(self._count)
        self._trace.add(Slices(*self._columns))
        self._begin()

    def _begin(self) -> None:
        none = concatenate(())
        self._columns = [getattr(none, field.name).copy() for field in fields(Slices)]
        self._count = self._capacity = 0

    def _resize(self, capacity: int) -> None:
        for column in self._columns:
            column.resize(capacity, refcheck=False)  # nobody else has seen it yet
        self._capacity = capacity
