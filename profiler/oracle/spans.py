"""vLLM's ``llm_request`` span for each finished request, sent by OTLP over HTTP in JSON.

Names and meaning are those of `OutputProcessor.do_tracing` in vLLM: the span begins when the
frontend took the request up, latencies are in seconds, and the engine tells lengths only. As with
the OpenTelemetry SDK a thread of its own sends what has gathered; a batch that nobody takes is
dropped. Its waits are timed like all others of the oracle, so that the books stay whole.

The form of the JSON: https://opentelemetry.io/docs/specs/otlp/#json-protobuf-encoding
"""

from __future__ import annotations

import http.client
import json
import os
import queue
import random
import select
import socket
import threading
import time
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final
from urllib.parse import urlsplit

from profiler.oracle.request_truth import RequestTruth
from profiler.oracle.truth.ledger import released
from profiler.oracle.truth.timed import drain, wait_item, wait_readable

# Of the OpenTelemetry SDK: how long spans gather (OTEL_BSP_SCHEDULE_DELAY), how many go at a time.
DELAY_MS: Final = 5_000
BATCH_SPANS: Final = 512
_TIMEOUT_S: Final = 5.0
_JOIN_S: Final = 3.0  # the last batch may take so long when the server ends


@dataclass(frozen=True, slots=True)
class Receiver:
    """Where spans go."""

    host: str
    port: int
    path: str

    @classmethod
    def parse(cls, url: str) -> Receiver:
        """Return the receiver at ``http://HOST:PORT/PATH``; ValueError when it is no such URL."""
        parts = urlsplit(url)
        if parts.scheme != "http" or parts.hostname is None:
            raise ValueError(f"not an http:// URL: {url}")
        return cls(parts.hostname, parts.port or 80, parts.path or "/")


class SpanExporter:
    """Sends the spans of finished requests. Create it once sockets are timed (`time_sockets`)."""

    def __init__(self, receiver: Receiver, delay_ms: int = DELAY_MS) -> None:
        self._receiver = receiver
        self._delay_ms = delay_ms
        self._finished: queue.SimpleQueue[RequestTruth | None] = queue.SimpleQueue()
        self._woken_by, self._waker = socket.socketpair()
        self._thread = threading.Thread(target=self._run, name="span export", daemon=True)

    def start(self) -> None:
        """Begin to send."""
        self._thread.start()

    def export(self, truth: RequestTruth) -> None:
        """Send the span of a finished request by and by; here it is only put aside."""
        self._finished.put(truth)

    def close(self) -> None:
        """Send what is left, for a few seconds at most."""
        self._finished.put(None)
        self._waker.close()
        released(self._thread.join, _JOIN_S)

    def _run(self) -> None:
        poller = select.poll()
        poller.register(self._woken_by, 0)  # a hang-up is reported unasked
        is_open = True
        while is_open:
            gathered = [wait_item(self._finished)]
            wait_readable(poller, self._delay_ms)
            gathered += drain(self._finished)
            is_open = None not in gathered
            spans = [span_of(truth) for truth in gathered if truth is not None]
            for first in range(0, len(spans), BATCH_SPANS):
                # Nobody is there, or it is no receiver: the server does not suffer from that.
                with suppress(OSError, http.client.HTTPException):
                    self._send(spans[first : first + BATCH_SPANS])

    def _send(self, spans: list[dict[str, Any]]) -> None:
        to = self._receiver
        body = json.dumps(message_of(spans)).encode()
        connection = http.client.HTTPConnection(to.host, to.port)
        connection.sock = released(socket.create_connection, (to.host, to.port), _TIMEOUT_S)
        try:
            connection.request("POST", to.path, body, {"Content-Type": "application/json"})
            connection.getresponse().read()
        finally:
            connection.close()


def span_of(truth: RequestTruth) -> dict[str, Any]:
    """Return the span of a finished request."""
    to_wall_ns = time.time_ns() - time.monotonic_ns()
    lasted_ns = {
        "time_to_first_token": truth.first_token_seen_ns - truth.validated_ns,
        "e2e": truth.last_token_seen_ns - truth.validated_ns,
        "time_in_queue": truth.scheduled_ns - truth.queued_ns,
        "time_in_model_prefill": truth.first_token_ns - truth.scheduled_ns,
        "time_in_model_decode": truth.last_token_ns - truth.first_token_ns,
        "time_in_model_inference": truth.last_token_ns - truth.scheduled_ns,
    }
    counts = {
        "prompt_tokens": truth.prompt_token_count,
        "completion_tokens": truth.generated_token_count,
    }
    return {
        "traceId": f"{random.getrandbits(128):032x}",
        "spanId": f"{random.getrandbits(64):016x}",
        "name": "llm_request",
        "startTimeUnixNano": str(truth.validated_ns + to_wall_ns),
        "endTimeUnixNano": str(truth.finished_ns + to_wall_ns),
        "attributes": [
            *(_attribute(f"gen_ai.latency.{key}", ns / 1e9) for key, ns in lasted_ns.items()),
            *(_attribute(f"gen_ai.usage.{key}", count) for key, count in counts.items()),
            _attribute("gen_ai.request.id", truth.name),
        ],
    }


def message_of(spans: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that carries spans, with this process as their sender."""
    resource = {"attributes": [_attribute("vllm.process_id", str(os.getpid()))]}
    return {"resourceSpans": [{"resource": resource, "scopeSpans": [{"spans": spans}]}]}


def _attribute(key: str, value: float | int | str) -> dict[str, Any]:
    match value:
        case str():
            return {"key": key, "value": {"stringValue": value}}
        case int():  # 64 bits are text in JSON
            return {"key": key, "value": {"intValue": str(value)}}
        case _:
            return {"key": key, "value": {"doubleValue": value}}
