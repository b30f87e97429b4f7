"""Captures with context switches, the host's counters and its description, made row by row."""

from __future__ import annotations

from typing import Any

from captures import CaptureBuilder

from collectors.cpu_slices import BLOCKED, PREEMPTED, READY, YIELDED

__all__ = ["BLOCKED", "PREEMPTED", "READY", "YIELDED", "SchedBuilder"]


class SchedBuilder(CaptureBuilder):
    """Adds what the scheduling probes record; times are ms from the start of the capture."""

    def stay(
        self, thread: int, start: float, end: float, leave: int | None = BLOCKED, *, cpu: int = 0,
        to: int | None = None, woken: float | None = None,
    ) -> None:  # fmt: skip
        """A stay on a CPU, from switch to switch."""
        self._add(
            "cpu_slices", time_ns=self.at(start), duration_ns=self.at(end) - self.at(start),
            track=thread, cpu=cpu, leave=leave, next=to,
            woken_ns=None if woken is None else self.at(woken),
        )  # fmt: skip

    def outsider(self, tid: int, name: str) -> int:
        return self._track(kind="outsider", tid=tid, name=name, role="outsider")

    def idle(self) -> int:
        return self._track(kind="idle", name="", role="idle")

    def host(self) -> int:
        return self._track(kind="host", name="", role="host")

    def total(self, track: int, name: str, labels: str, first: float, last: float) -> None:
        """A counter that rose over the whole capture of 10 s."""
        self.counter(track, 0, name, first, labels=labels)
        self.counter(track, 10_000, name, last, labels=labels)

    def level(self, track: int, ms: float, name: str, labels: str, value: float) -> None:
        self.counter(track, ms, name, value, labels=labels, kind="level")

    def machine(
        self, *, nodes: dict[int, list[int]], gpus: dict[str, int | None],
        processes: dict[int, dict[str, Any]], distance: int = 20,
    ) -> None:  # fmt: skip
        """What the host probe says of a machine: CPUs by node, nodes of GPUs, and processes."""
        topology = {
            "nodes": [
                {
                    "node": node,
                    "cpus": cpus,
                    "distances": [10 if other == node else distance for other in nodes],
                }
                for node, cpus in nodes.items()
            ]
        }
        devices = [{"address": one, "kind": "gpu", "node": node} for one, node in gpus.items()]
        self.probe(
            "host",
            "works",
            detail={
                "host": {"topology": topology, "devices": devices},
                "processes": {str(pid): one for pid, one in processes.items()},
            },
        )
