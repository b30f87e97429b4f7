"""Reads the stack sampler's lines (`probes.stacks.wire`) back, and numbers its stacks anew."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np

from collectors.stacks import ROOT, StackTable
from probes.sampler_link import StreamBroken

_LINE_BYTES_LIMIT: Final = 1 << 28


@dataclass(frozen=True, slots=True)
class Look:
    """How often one process was looked at since its sampler began, and when."""

    count: int
    first_ns: int
    last_ns: int
    largest_gap_ns: int = 0

    @property
    def rate_hz(self) -> float | None:
        """Looks a second; None below two."""
        span_ns = self.last_ns - self.first_ns
        return (self.count - 1) * 1e9 / span_ns if span_ns > 0 else None


@dataclass(frozen=True, slots=True)
class StackBatch:
    """Half a second of one sampler; see `probes.stacks.wire` for the rows."""

    looks: dict[int, Look]
    runs: list[list[int]]
    frames: list[tuple[str, str]]
    stacks: list[tuple[int, int]]
    gaps: list[tuple[int, int, int, str]]
    events: list[tuple[int, str, int]]
    unread: dict[int, int]
    missed_count: int
    cpu_ns: int


class LineDecoder:
    """Turns chunks of bytes into batches; holds back an unfinished line."""

    def __init__(self) -> None:
        self._pending = b""

    def feed(self, chunk: bytes) -> list[StackBatch]:
        """Take more bytes and return the batches that are complete.

        Raises:
            StreamBroken: a line is no batch.
        """
        *lines, self._pending = (self._pending + chunk).split(b"\n")
        if len(self._pending) > _LINE_BYTES_LIMIT:
            raise StreamBroken("the stack sampler sends a line without end")
        try:
            return [_batch(json.loads(line)) for line in lines]
        except (ValueError, KeyError, TypeError) as error:
            raise StreamBroken("a line of the stack sampler is no batch") from error


def _batch(fields: dict[str, Any]) -> StackBatch:
    return StackBatch(
        looks={pid: Look(*look) for pid, *look in fields["seen"]},
        runs=fields["runs"],
        frames=[(function, file) for function, file in fields["frames"]],
        stacks=[(parent, frame) for parent, frame in fields["stacks"]],
        gaps=[(pid, start, end, reason) for pid, start, end, reason in fields["gaps"]],
        events=[(pid, what, errno) for pid, what, errno in fields["events"]],
        unread=dict(fields["unread"]),
        missed_count=fields["missed"],
        cpu_ns=fields["cpu_ns"],
    )


@dataclass(slots=True)
class Renumbering:
    """The capture's numbers for one sampler's frames and stacks; samplers come and go."""

    table: StackTable
    _frames: list[int] = field(default_factory=list)
    _stacks: list[int] = field(default_factory=list)

    def learn(self, batch: StackBatch) -> None:
        """Take the frames and stacks that the sampler has sent for the first time.

        Raises:
            StreamBroken: a stack names a frame or a parent that was never sent.
        """
        self._frames += [self.table.frame(*frame) for frame in batch.frames]
        for parent, frame in batch.stacks:
            if not (-1 <= parent < len(self._stacks) and 0 <= frame < len(self._frames)):
                raise StreamBroken("the stack sampler names a frame that it never sent")
            above = ROOT if parent < 0 else self._stacks[parent]
            self._stacks.append(self.table.child(above, self._frames[frame]))

    def translate(self, stacks: list[int]) -> np.ndarray[Any, np.dtype[np.int32]]:
        """Return the capture's numbers of these stacks of the sampler.

        Raises:
            StreamBroken: one was never sent.
        """
        if stacks and not 0 <= min(stacks) <= max(stacks) < len(self._stacks):
            raise StreamBroken("the stack sampler names a stack that it never sent")
        return np.array([self._stacks[stack] for stack in stacks], np.int32)
