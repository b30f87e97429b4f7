"""The OTLP receiver with the official exporters as its clients, and with hostile ones."""

from __future__ import annotations

import gzip
import http.client
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import grpc
import psutil
import pytest
from opentelemetry.exporter.otlp.proto.grpc.trace_exporter import OTLPSpanExporter as GrpcExporter
from opentelemetry.exporter.otlp.proto.http import Compression
from opentelemetry.exporter.otlp.proto.http.trace_exporter import OTLPSpanExporter as HttpExporter
from opentelemetry.sdk.resources import Resource
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor, SpanExporter

from collectors.capture import Capture, open_capture
from collectors.errors import ProbeUnavailable
from probes.base import Capability, Level
from probes.otlp.http_receiver import MAX_CONNECTIONS
from probes.otlp.messages import MAX_BODY_BYTES
from probes.otlp.probe import OtlpProbe
from probes.target import find_target
from profiler.session import Session, StopReason
from tests.programs import Program
from tests.unit.otlp_spans import ATTRIBUTES, SECRET, make_message, make_span
from tests.waiting import wait_until

METHOD = "/opentelemetry.proto.collector.trace.v1.TraceService/Export"
PROTOBUF = {"Content-Type": "application/x-protobuf"}


class Rig:
    """A recording of a program with the OTLP probe alone."""

    def __init__(self, program: Program, directory: Path) -> None:
        self.program_pid = program.pid
        self.directory = directory
        self.probe = OtlpProbe(0, 0)
        self.session = Session(find_target(program.pid), directory, [self.probe])
        self.session.start()
        self.grpc_port = int(self.probe.grpc_endpoint.rpartition(":")[2])
        self.http_port = int(self.probe.http_endpoint.split(":")[2].partition("/")[0])
        self.is_finished = False

    def finish(self) -> Capture:
        """Stop and open the capture."""
        if not self.is_finished:
            self.is_finished = True
            assert self.session.finish(StopReason.DURATION) is None
        return open_capture(self.directory)

    def detail(self) -> dict[str, Any]:
        """Stop and return what the manifest says of the probe."""
        (record,) = self.finish().manifest.probes
        return record.detail

    def post(
        self, body: bytes, headers: dict[str, str] = PROTOBUF, path: str = "/v1/traces"
    ) -> int:
        """POST and return the status."""
        connection = http.client.HTTPConnection("127.0.0.1", self.http_port, timeout=20)
        try:
            connection.request("POST", path, body, headers)
            return connection.getresponse().status
        finally:
            connection.close()

    def call(self, body: bytes) -> None:
        """Call Export with these bytes; raises grpc.RpcError."""
        with grpc.insecure_channel(f"127.0.0.1:{self.grpc_port}") as channel:
            channel.unary_unary(METHOD)(body, timeout=20)


@pytest.fixture
def rig(program: Program, tmp_path: Path) -> Iterator[Rig]:
    running = Rig(program, tmp_path / "c")
    yield running
    running.finish()


def export(exporter: SpanExporter, resource: dict[str, str], *request_ids: str) -> None:
    """Send one span per request, made as vLLM makes it, through the official SDK."""
    provider = TracerProvider(resource=Resource.create(resource))
    provider.add_span_processor(SimpleSpanProcessor(exporter))
    tracer = provider.get_tracer("vllm.llm_engine")
    for request_id in request_ids:
        span = tracer.start_span("llm_request", start_time=time.time_ns() - 3_000_000_000)
        span.set_attributes({**ATTRIBUTES, "gen_ai.request.id": request_id})
        span.end()
    provider.shutdown()


EXPORTERS = {
    "grpc": lambda rig: GrpcExporter(endpoint=rig.probe.grpc_endpoint, insecure=True),
    "grpc gzip": lambda rig: GrpcExporter(
        endpoint=rig.probe.grpc_endpoint, insecure=True, compression=grpc.Compression.Gzip
    ),
    "http": lambda rig: HttpExporter(endpoint=rig.probe.http_endpoint),
    "http gzip": lambda rig: HttpExporter(
        endpoint=rig.probe.http_endpoint, compression=Compression.Gzip
    ),
    "http deflate": lambda rig: HttpExporter(
        endpoint=rig.probe.http_endpoint, compression=Compression.Deflate
    ),
}


@pytest.mark.parametrize("transport", EXPORTERS)
def test_what_the_official_exporters_send_is_in_the_capture(rig: Rig, transport):
    sender = {"vllm.process_id": str(rig.program_pid)}
    export(EXPORTERS[transport](rig), sender, "chatcmpl-a", "cmpl-b-0")

    assert rig.probe.kept_count == 2
    capture = rig.finish()
    rows = capture.table("requests").to_pylist()
    assert [row["request"] for row in rows] == ["a", "b"]
    for row in rows:
        assert row["first_token_ns"] - row["time_ns"] == 1_000_000_000
        assert row["last_token_ns"] - row["time_ns"] == 2_500_000_000
        # Its end was stamped while recording: wall time has become capture time.
        assert row["last_token_ns"] < capture.start_ns < row["done_ns"] < capture.end_ns
    assert rig.detail()["requests_kept"] == 2
    assert SECRET not in str(rows)


def test_requests_of_a_server_that_is_not_the_target_are_left_out(rig: Rig):
    export(EXPORTERS["http"](rig), {"vllm.process_id": str(os.getpid())}, "chatcmpl-a")

    assert rig.detail()["spans_of_another_server"] == 1
    assert rig.finish().table("requests").num_rows == 0


def test_it_listens_on_the_loopback_interface_only(rig: Rig):
    ports = {rig.grpc_port, rig.http_port}
    listening = {
        (one.laddr.port, one.laddr.ip.removeprefix("::ffff:"))
        for one in psutil.Process().net_connections(kind="tcp")
        if one.status == psutil.CONN_LISTEN and one.laddr.port in ports
    }

    assert listening == {(port, "127.0.0.1") for port in ports}


def test_the_addresses_are_told_while_recording(rig: Rig):
    assert rig.probe.grpc_endpoint in rig.session.status["otlp"]
    assert rig.probe.http_endpoint in rig.session.status["otlp"]
    assert rig.detail()["http_endpoint"] == rig.probe.http_endpoint


@pytest.mark.parametrize(
    "garbage", [b"\0" * 5000, bytes(range(256)) * 20, b"POST / HTTP/9.9\r\n\r\n", b"\r\n" * 99]
)
def test_garbage_on_either_port_hurts_nobody(rig: Rig, garbage, capfd):
    for port in (rig.grpc_port, rig.http_port):
        with socket.create_connection(("127.0.0.1", port), timeout=20) as client:
            client.sendall(garbage)
            client.shutdown(socket.SHUT_WR)
            try:
                while client.recv(1 << 16):
                    pass  # until it hangs up
            except ConnectionResetError:
                pass

    export(EXPORTERS["grpc"](rig), {}, "chatcmpl-a")
    export(EXPORTERS["http"](rig), {}, "chatcmpl-b")

    assert rig.finish().table("requests")["request"].to_pylist() == ["a", "b"]
    assert "Traceback" not in capfd.readouterr().err


def test_bytes_that_are_no_message_are_refused_and_counted_on_both(rig: Rig, capfd):
    with pytest.raises(grpc.RpcError) as refused:
        rig.call(b"\xff\xff")
    status = rig.post(b"\xff\xff")

    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert status == 400
    assert rig.detail()["refused_messages"] == {"a body that is no trace message": 2}
    reasons = rig.finish().table("gaps")["reason"].to_pylist()
    assert "a body that is no trace message" in reasons
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize(
    ("headers", "path", "status"),
    [
        (PROTOBUF, "/v1/traces", 200),
        ({"Content-Type": "Application/X-Protobuf; charset=utf-8"}, "/v1/traces?x=1", 200),
        (PROTOBUF, "/", 404),
        (PROTOBUF, "/v1/metrics", 404),
        ({}, "/v1/traces", 415),
        ({"Content-Type": "text/plain"}, "/v1/traces", 415),
        ({**PROTOBUF, "Content-Encoding": "br"}, "/v1/traces", 415),
        ({**PROTOBUF, "Content-Encoding": "gzip"}, "/v1/traces", 400),
        ({"Content-Type": "application/json"}, "/v1/traces", 400),
        ({**PROTOBUF, "Transfer-Encoding": "chunked"}, "/v1/traces", 411),
        ({**PROTOBUF, "Content-Length": "-1"}, "/v1/traces", 411),
        ({**PROTOBUF, "Content-Length": str(MAX_BODY_BYTES + 1)}, "/v1/traces", 413),
        ({**PROTOBUF, "Content-Length": "9" * 5000}, "/v1/traces", 413),
    ],
)
def test_http_is_answered_with_the_right_status(rig: Rig, headers, path, status):
    assert rig.post(make_message([make_span()]).SerializeToString(), headers, path) == status

    refused = rig.detail()["refused_messages"]
    assert sum(refused.values()) == (status != 200)


@pytest.mark.parametrize("method", ["GET", "HEAD", "PUT", "DELETE", "OPTIONS"])
def test_other_methods_are_not_allowed(rig: Rig, method):
    connection = http.client.HTTPConnection("127.0.0.1", rig.http_port, timeout=20)
    connection.request(method, "/v1/traces")
    response = connection.getresponse()

    assert (response.status, response.getheader("Allow")) == (405, "POST")
    connection.close()


def test_what_inflates_too_far_is_refused_on_both(rig: Rig):
    zeros = bytes(4 * MAX_BODY_BYTES)
    status = rig.post(gzip.compress(zeros), {**PROTOBUF, "Content-Encoding": "gzip"})
    with (
        grpc.insecure_channel(f"127.0.0.1:{rig.grpc_port}") as channel,
        pytest.raises(grpc.RpcError) as refused,
    ):
        channel.unary_unary(METHOD)(zeros, timeout=20, compression=grpc.Compression.Gzip)

    assert status == 413
    assert refused.value.code() is grpc.StatusCode.RESOURCE_EXHAUSTED


def framed(tag: bytes, body: bytes) -> bytes:
    """Return a protobuf field with its length, a varint."""
    length, rest = bytearray(), len(body)
    while rest > 127:
        length.append(rest & 127 | 128)
        rest >>= 7
    return tag + bytes([*length, rest]) + body


def test_a_million_spans_are_refused_at_once(rig: Rig):
    # Two bytes each: ExportTraceServiceRequest.resource_spans = 1, the other fields are 2.
    body = framed(b"\x0a", framed(b"\x12", b"\x12\x00" * 1_000_000))

    assert rig.post(body) == 413
    with pytest.raises(grpc.RpcError):
        rig.call(body)
    export(EXPORTERS["grpc"](rig), {}, "chatcmpl-a")

    assert rig.finish().table("requests").num_rows == 1


def test_connections_are_bounded_and_come_free_again(rig: Rig):
    held = [socket.create_connection(("127.0.0.1", rig.http_port)) for _ in range(MAX_CONNECTIONS)]

    with socket.create_connection(("127.0.0.1", rig.http_port), timeout=20) as too_many:
        assert too_many.recv(1) == b""
    for connection in held:
        connection.close()

    def is_served() -> bool:
        try:
            return rig.post(b"") == 200
        except (ConnectionError, http.client.HTTPException):
            return False

    wait_until(is_served, "a place is free")


def test_it_stops_under_a_client_that_says_nothing_more(rig: Rig):
    idle = socket.create_connection(("127.0.0.1", rig.http_port), timeout=20)
    half = socket.create_connection(("127.0.0.1", rig.http_port), timeout=20)
    half.sendall(b"POST /v1/traces HTTP/1.1\r\nContent-Type: application/x-protobuf\r\n")
    channel = grpc.insecure_channel(f"127.0.0.1:{rig.grpc_port}")
    grpc.channel_ready_future(channel).result(20)

    rig.finish()

    assert idle.recv(1) == half.recv(1) == b""
    for port in (rig.grpc_port, rig.http_port):
        with pytest.raises(ConnectionRefusedError):
            socket.create_connection(("127.0.0.1", port))
    channel.close()
    idle.close()
    half.close()


@pytest.mark.parametrize("taken", ["gRPC", "HTTP"])
def test_a_port_that_is_lost_before_the_start_fails_this_probe_only(
    program: Program, tmp_path, taken
):
    # Given a port that was free when the probe was asked
    ports = {"gRPC": 0, "HTTP": 0}
    with socket.create_server(("127.0.0.1", 0)) as other:
        ports[taken] = other.getsockname()[1]
        probe = OtlpProbe(ports["gRPC"], ports["HTTP"])
        session = Session(find_target(program.pid), tmp_path / "c", [probe])
        session.capabilities = {"otlp": Capability("otlp", Level.WORKS)}

        # When it starts
        session.start()
        session.finish(StopReason.DURATION)

    # Then
    (record,) = open_capture(tmp_path / "c").manifest.probes
    assert record.level == "unavailable"
    assert f"{taken} port 127.0.0.1:{ports[taken]}" in (record.reason or "")
    assert record.remedy


def test_a_taken_port_is_refused_before_anything_begins(program: Program, tmp_path):
    with socket.create_server(("127.0.0.1", 0)) as other:
        probe = OtlpProbe(other.getsockname()[1], 0)
        session = Session(find_target(program.pid), tmp_path / "c", [probe])

        with pytest.raises(ProbeUnavailable, match="is taken"):
            session.start()
