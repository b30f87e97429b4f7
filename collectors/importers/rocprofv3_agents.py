"""Which GPU an ``Agent_Id`` of rocprofv3's CSV files means.

An id is ``Agent N``, ``GPU N`` or, up to SDK 0.6, N. All agents are counted, CPUs too, unless it
says GPU: by their logical number, unless the user set ROCPROF_AGENT_INDEX, or up to 0.6 by the
node's. ``X_agent_info.csv`` tells which of them are GPUs; without it, N is all there is.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from collectors.importers.csv_source import Skip, read_csv
from collectors.importers.groups import MAX_TRACK_COUNT

AGENT_COLUMNS: Final = ("Node_Id", "Logical_Node_Id", "Agent_Type")

_MAX_INDEX: Final = (1 << 31) - 1
_LABEL = re.compile(r"(?:(Agent|GPU) )?(\d{1,10})", re.ASCII)


@dataclass(frozen=True, slots=True)
class Gpu:
    """A GPU: its number among the GPUs, and what it is called."""

    index: int
    name: str = ""


class Agents:
    """The agents of one host, as far as they are known."""

    def __init__(self, by_node: dict[int, Gpu | None], by_logical: dict[int, Gpu | None]) -> None:
        """Take each agent by its numbers; a CPU is None."""
        self._by_node = by_node
        self._by_logical = by_logical

    def gpu(self, label: str) -> Gpu | None:
        """Return the GPU that an id means, None for a CPU or what is not listed."""
        match = _LABEL.fullmatch(label.strip())
        if match is None or int(match[2]) > _MAX_INDEX:
            return None
        number = int(match[2])
        if not self._by_node:
            return Gpu(number)
        if match[1] == "GPU":
            gpus = (gpu for gpu in self._by_node.values() if gpu and gpu.index == number)
            return next(gpus, None)
        tables = (self._by_node, self._by_logical)
        for table in tables if match[1] is None else reversed(tables):
            if number in table:
                return table[number]
        return None


UNKNOWN_AGENTS: Final = Agents({}, {})


def read_agents(path: Path, skip: Skip) -> Agents:
    """Read ``X_agent_info.csv``.

    Raises:
        ImportInvalid: it cannot be read, or lacks a column.
    """
    by_node: dict[int, Gpu | None] = {}
    by_logical: dict[int, Gpu | None] = {}
    gpu_count = 0
    texts = ("Agent_Type", "Name", "Product_Name")
    for batch in read_csv(path, AGENT_COLUMNS[:2], texts, skip=skip):
        columns = [batch.texts[name] for name in texts]
        for row in range(min(batch.row_count, MAX_TRACK_COUNT)):
            kind, name, product = (column.distinct[column.code[row]] for column in columns)
            gpu = None
            if kind == "GPU":
                gpu, gpu_count = Gpu(gpu_count, product or name), gpu_count + 1
            by_node[int(batch.integers["Node_Id"][row])] = gpu
            by_logical[int(batch.integers["Logical_Node_Id"][row])] = gpu
    return Agents(by_node, by_logical)
