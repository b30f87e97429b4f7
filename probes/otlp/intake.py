"""What both receivers hand their messages to: it counts everything and keeps the requests.

Both ports are open to every local process, so nothing that is kept here grows with what is sent.
"""

from __future__ import annotations

import threading
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from collectors.clock import read_anchor
from collectors.recorder import Recorder
from probes.otlp.messages import answer, parse, spans_of
from probes.otlp.spans import SPAN_NAME, SpanRefused, read_request

if TYPE_CHECKING:
    from opentelemetry.proto.trace.v1.trace_pb2 import Span

MAX_NAMES: Final = 32
MAX_NAME_CHARS: Final = 64
# How often an exporter sends what has gathered, unless OTEL_BSP_SCHEDULE_DELAY says otherwise
# (opentelemetry-sdk): what ended longer ago than this has been sent.
BATCH_DELAY_NS: Final = 5_000_000_000


class IntakeClosed(Exception):
    """The recording has ended: nothing is taken any more."""


@dataclass(slots=True)
class Counts:
    """What came, and what became of it."""

    message_count: int = 0
    span_count: int = 0
    kept_count: int = 0
    earlier_count: int = 0  # requests that ended before the recording began: the sender's backlog
    foreign_count: int = 0  # spans of a server that is not the target
    doubtful_value_count: int = 0  # values that could not be, now null
    other_spans: Counter[str] = field(default_factory=Counter)  # by name
    refused_spans: Counter[str] = field(default_factory=Counter)  # requests, by reason
    refused_messages: Counter[str] = field(default_factory=Counter)  # by reason

    def to_json(self) -> dict[str, Any]:
        """Return them for the manifest."""
        return {
            "messages": self.message_count,
            "spans": self.span_count,
            "requests_kept": self.kept_count,
            "requests_before_the_recording": self.earlier_count,
            "spans_of_another_server": self.foreign_count,
            "doubtful_values": self.doubtful_value_count,
            "other_spans": dict(self.other_spans),
            "refused_requests": dict(self.refused_spans),
            "refused_messages": dict(self.refused_messages),
        }


class Intake:
    """Turns messages into rows of ``requests``. All methods may be called from any thread."""

    def __init__(
        self, recorder: Recorder, probe: str, is_target: Callable[[int], bool],
        on_kept: Callable[[int], None],
    ) -> None:  # fmt: skip
        """Begin now.

        Args:
            recorder: takes the rows, and the gaps in the name of ``probe``.
            probe: the probe's name.
            is_target: whether a PID, as its process sees it, is one of the target's.
            on_kept: told how many requests are kept, after each message.
        """
        self.counts = Counts()
        self._recorder, self._probe = recorder, probe
        self._is_target, self._on_kept = is_target, on_kept
        self._started_ns = time.monotonic_ns()
        # When each sender was last heard: several API servers each send their own batches.
        self._heard_ns: dict[int | None, int] = {}
        self._refused_ns: dict[str, int] = {}  # by reason: when last
        self._is_closed = False
        self._lock = threading.Lock()

    def take(self, body: bytes, *, is_json: bool = False) -> bytes:
        """Keep the requests in a message and return the answer to its sender.

        Raises:
            MessageRefused: nothing of it is kept.
            IntakeClosed: the recording has ended.
        """
        spans = spans_of(parse(body, is_json=is_json))
        with self._lock:
            if self._is_closed:
                raise IntakeClosed
            refused_before = self.counts.refused_spans.copy()
            self._keep(spans)
            refused = self.counts.refused_spans - refused_before
            kept_count = self.counts.kept_count
        self._on_kept(kept_count)
        return answer(refused.total(), "; ".join(refused), is_json=is_json)

    def refuse(self, reason: str) -> None:
        """Count a message of which nothing is kept, by a ``reason`` without values of its own."""
        with self._lock:
            if not self._is_closed:
                self.counts.refused_messages[reason] += 1
                self._refused_ns[reason] = time.monotonic_ns()

    def close(self) -> None:
        """Take nothing more, and note what was not seen."""
        with self._lock:
            self._is_closed = True
            now_ns = time.monotonic_ns()
            if not self._heard_ns:
                reason = "no spans came: start the server with --otlp-traces-endpoint"
                self._recorder.gap(self._probe, self._started_ns, now_ns, reason)
            else:
                reason = "the server sends its spans in batches; the last may not have come"
                since_ns = max(min(self._heard_ns.values()), now_ns - BATCH_DELAY_NS)
                self._recorder.gap(self._probe, since_ns, now_ns, reason)
            for reason, at_ns in self._refused_ns.items():
                # Whole messages are not in there: nobody knows how many spans they held.
                lost_count = self.counts.refused_spans.get(reason)
                self._recorder.gap(self._probe, at_ns, at_ns + 1, reason, lost_count)

    def _keep(self, spans: list[tuple[int | None, Span]]) -> None:
        counts = self.counts
        anchor = read_anchor()  # at each message: right after a clock step too
        rows = []
        for sender_pid, span in spans:
            if sender_pid is not None and not self._is_target(sender_pid):
                counts.foreign_count += 1
                continue
            self._heard_ns[sender_pid] = anchor.monotonic_ns
            if span.name != SPAN_NAME:
                _count_name(counts.other_spans, span.name[:MAX_NAME_CHARS])
                continue
            try:
                row, doubtful_count = read_request(span, anchor)
            except SpanRefused as error:
                counts.refused_spans[str(error)] += 1
                self._refused_ns[str(error)] = anchor.monotonic_ns
                continue
            if row["done_ns"] is not None and row["done_ns"] < self._started_ns:
                counts.earlier_count += 1
                continue
            counts.doubtful_value_count += doubtful_count
            rows.append(row)
        if rows:
            columns = {name: [row[name] for row in rows] for name in rows[0]}
            self._recorder.append("requests", columns)
        counts.message_count += 1
        counts.span_count += len(spans)
        counts.kept_count += len(rows)


def _count_name(names: Counter[str], name: str) -> None:
    names[name if name in names or len(names) < MAX_NAMES else "(more names)"] += 1
