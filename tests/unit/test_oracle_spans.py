"""The oracle's spans: what our own receiver reads of them, and that they get there."""

from __future__ import annotations

import json
import os
import queue
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from collectors.clock import read_anchor
from probes.otlp.messages import parse, spans_of
from probes.otlp.spans import read_request
from profiler.oracle.http import parse_request
from profiler.oracle.protocol import request_name
from profiler.oracle.request_truth import RequestTruth
from profiler.oracle.spans import Receiver, SpanExporter, message_of, span_of

DEADLINE_S = 20.0
# Two clocks are read one after the other, twice; durations go through floating point.
CLOCK_NS = 1_000_000


def finished_request(client_id: str = "mine-7", *, is_chat: bool = True) -> RequestTruth:
    begin = read_anchor().monotonic_ns - 1_000_000_000
    return RequestTruth(
        request_id=7, arrived_ns=begin, parsed_ns=begin + 1, client_id=client_id,
        name=request_name(client_id, is_chat=is_chat), validated_ns=begin + 2_000_000,
        queued_ns=begin + 30_000_000, scheduled_ns=begin + 40_000_000,
        first_token_ns=begin + 60_000_000, first_token_seen_ns=begin + 61_000_000,
        last_token_ns=begin + 90_000_000, last_token_seen_ns=begin + 93_000_000,
        finished_ns=begin + 94_000_000, prompt_token_count=1000, generated_token_count=4,
    )  # fmt: skip


@pytest.mark.parametrize("is_chat", [True, False])
def test_the_receiver_reads_what_the_oracle_knows(is_chat: bool) -> None:
    truth = finished_request(is_chat=is_chat)

    body = json.dumps(message_of([span_of(truth)])).encode()
    ((_, span),) = spans_of(parse(body, is_json=True))
    row, doubtful_count = read_request(span, read_anchor())

    assert doubtful_count == 0
    assert (row["request"], row["prompt_tokens"], row["output_tokens"]) == ("mine-7", 1000, 4)
    # The engine's instants are late by the first output's way, the shorter one.
    late_ns = truth.first_token_seen_ns - truth.first_token_ns
    expected = {
        "time_ns": truth.validated_ns,
        "queued_ns": truth.queued_ns + late_ns,
        "scheduled_ns": truth.scheduled_ns + late_ns,
        "first_token_ns": truth.first_token_seen_ns,
        "last_token_ns": truth.last_token_seen_ns,
        "done_ns": truth.finished_ns,
    }
    assert {name: row[name] for name in expected} == pytest.approx(expected, abs=CLOCK_NS, rel=0)


def test_a_request_carries_the_client_s_id() -> None:
    head = b"POST /v1/completions HTTP/1.1\r\n%bContent-Length: 0\r\n\r\n"

    named = parse_request(bytearray(head % b"X-Request-Id: mine-7\r\n"), 0)
    nameless = parse_request(bytearray(head % b""), 0)

    assert named is not None
    assert nameless is not None
    assert (named.client_id, nameless.client_id) == ("mine-7", "")


def test_the_span_says_which_process_sends_it() -> None:
    body = json.dumps(message_of([span_of(finished_request())])).encode()

    assert [sender for sender, _ in spans_of(parse(body, is_json=True))] == [os.getpid()]


class Inbox:
    """An HTTP server that keeps what is posted to it."""

    def __init__(self, port: int = 0) -> None:
        self.posted: queue.SimpleQueue[tuple[str, str, bytes]] = queue.SimpleQueue()
        inbox = self

        class Handler(BaseHTTPRequestHandler):
            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["Content-Length"]))
                inbox.posted.put((self.path, self.headers["Content-Type"], body))
                self.send_response(200)
                self.send_header("Content-Length", "0")
                self.end_headers()

            def log_message(self, format: str, *args: object) -> None:
                """Say nothing."""

        self.server = HTTPServer(("127.0.0.1", port), Handler)
        self.url = f"http://127.0.0.1:{self.server.server_address[1]}/v1/traces"
        self.thread = threading.Thread(target=self.server.serve_forever, args=(0.01,))
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()


@pytest.fixture
def inbox() -> Iterator[Inbox]:
    inbox = Inbox()
    yield inbox
    inbox.close()


def names_in(body: bytes) -> list[str]:
    spans = json.loads(body)["resourceSpans"][0]["scopeSpans"][0]["spans"]
    attributes = [one for span in spans for one in span["attributes"]]
    return [one["value"]["stringValue"] for one in attributes if one["key"] == "gen_ai.request.id"]


def test_spans_are_sent_after_the_delay(inbox: Inbox) -> None:
    exporter = SpanExporter(Receiver.parse(inbox.url), delay_ms=1)
    exporter.start()

    exporter.export(finished_request("one"))

    path, content_type, body = inbox.posted.get(timeout=DEADLINE_S)
    assert (path, content_type) == ("/v1/traces", "application/json")
    assert names_in(body) == ["chatcmpl-one"]
    exporter.close()


def test_what_has_gathered_is_sent_at_the_end_without_waiting(inbox: Inbox) -> None:
    exporter = SpanExporter(Receiver.parse(inbox.url), delay_ms=1_000_000)
    exporter.start()
    for client_id in ("one", "two"):
        exporter.export(finished_request(client_id))

    exporter.close()

    assert names_in(inbox.posted.get_nowait()[2]) == ["chatcmpl-one", "chatcmpl-two"]


def test_a_receiver_that_comes_later_is_heard() -> None:
    # Given a port where nobody listens any more
    gone = Inbox()
    gone.close()
    exporter = SpanExporter(Receiver.parse(gone.url), delay_ms=1)
    exporter.start()
    exporter.export(finished_request())

    # When somebody does
    back = Inbox(gone.server.server_address[1])
    deadline_s = time.monotonic() + DEADLINE_S
    while back.posted.empty():
        assert time.monotonic() < deadline_s
        exporter.export(finished_request("later"))

    # Then the spans of from then on arrive
    assert "chatcmpl-later" in names_in(back.posted.get_nowait()[2])
    exporter.close()
    back.close()


@pytest.mark.parametrize("url", ["https://127.0.0.1/x", "127.0.0.1:4318", ""])
def test_an_endpoint_that_is_no_http_url_is_refused(url: str) -> None:
    with pytest.raises(ValueError, match="http"):
        Receiver.parse(url)
