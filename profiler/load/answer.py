"""What the client saw of one request: a row of the ``requests`` table in the making."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, Final

import pyarrow as pa

from collectors.schema import CLIENT, CLIENT_BOUNDARIES, OK, REQUESTS

# Columns that are attributes of an answer under the same name.
_COLUMNS: Final = (
    "time_ns", "request", "scenario", "status", "prompt_tokens", "output_tokens", "request_bytes",
    "response_bytes", *CLIENT_BOUNDARIES, "token_ns",
)  # fmt: skip


@dataclass(slots=True)
class Answer:
    """One request; CLOCK_MONOTONIC ns, None while a boundary has not been seen.

    ``time_ns`` is when it was due; the boundaries are `collectors.schema.CLIENT_BOUNDARIES`.
    """

    request: str
    scenario: str
    time_ns: int
    status: str = OK
    detail: str = ""  # the server's or the kernel's own words on a failure; not kept in the table
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    request_bytes: int | None = None
    response_bytes: int | None = None
    begun_ns: int | None = None
    built_ns: int | None = None
    serialised_ns: int | None = None
    connected_ns: int | None = None
    sent_ns: int | None = None
    headers_ns: int | None = None
    first_byte_ns: int | None = None
    done_ns: int | None = None
    parsed_ns: int | None = None
    token_ns: list[int] = field(default_factory=list)

    @property
    def first_token_ns(self) -> int | None:
        """When the first event with text arrived."""
        return self.token_ns[0] if self.token_ns else None

    @property
    def last_token_ns(self) -> int | None:
        """When the last event with text arrived."""
        return self.token_ns[-1] if self.token_ns else None


def to_batch(answers: Sequence[Answer]) -> pa.RecordBatch:
    """Return answers as rows of `collectors.schema.REQUESTS`."""
    columns: dict[str, list[Any]] = {
        name: [getattr(answer, name) for answer in answers] for name in _COLUMNS
    }
    columns["source"] = [CLIENT] * len(answers)
    unknown = [None] * len(answers)
    arrays = [pa.array(columns.get(one.name, unknown), one.type) for one in REQUESTS]
    return pa.RecordBatch.from_arrays(arrays, schema=REQUESTS)
