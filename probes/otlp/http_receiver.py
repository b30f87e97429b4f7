"""OTLP over HTTP: ``POST /v1/traces``, protobuf or JSON, on the loopback interface.

The protocol: https://opentelemetry.io/docs/specs/otlp/#otlphttp
"""

from __future__ import annotations

import contextlib
import socket
import socketserver
import sys
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from typing import Any, Final

from probes.otlp import LOOPBACK
from probes.otlp.intake import Intake, IntakeClosed
from probes.otlp.messages import MAX_BODY_BYTES, MessageRefused, MessageTooBig, inflate

PATH: Final = "/v1/traces"
MEDIA_TYPES: Final = {"application/x-protobuf": False, "application/json": True}  # is it JSON
CODINGS: Final = frozenset({"identity", "gzip", "deflate"})  # all that the exporters can use
MAX_LENGTH_DIGITS: Final = 12  # of a Content-Length: int() of a long one is slow
MAX_CONNECTIONS: Final = 16  # a thread each; a server keeps one per API server process
# Longer than an exporter waits between two batches, so that it can keep its connection.
IDLE_TIMEOUT_S: Final = 20.0
POLL_S: Final = 0.2  # how often the accepting thread looks whether it shall end


class HttpReceiver:
    """Has its port from the beginning, answers from `serve` until `close`."""

    def __init__(self, port: int, intake: Intake) -> None:
        """Take the port; 0 takes any that is free.

        Raises:
            OSError: the port cannot be had.
        """
        self._server = _Server((LOOPBACK, port), intake)
        self.port: int = self._server.server_address[1]
        self._thread = threading.Thread(
            target=self._server.serve_forever, args=(POLL_S,), name="otlp-http", daemon=True
        )

    def serve(self) -> None:
        """Begin to answer."""
        self._thread.start()

    def close(self) -> None:
        """Let the port go and hang up on everybody."""
        if self._thread.ident is not None:
            self._server.shutdown()
            self._thread.join()
        self._server.server_close()
        self._server.hang_up()


class _Server(socketserver.ThreadingTCPServer):
    allow_reuse_address = True  # what lingers in TIME_WAIT; never a port that is listened on
    daemon_threads = True
    request_queue_size = MAX_CONNECTIONS

    def __init__(self, address: tuple[str, int], intake: Intake) -> None:
        self.intake = intake
        self._connections: set[socket.socket] = set()
        super().__init__(address, _Handler)

    def verify_request(self, request: Any, client_address: Any) -> bool:
        return len(self._connections) < MAX_CONNECTIONS

    def process_request(self, request: Any, client_address: Any) -> None:
        self._connections.add(request)
        super().process_request(request, client_address)

    def shutdown_request(self, request: Any) -> None:
        self._connections.discard(request)
        super().shutdown_request(request)

    def hang_up(self) -> None:
        """Wake the threads that wait for a client's next word."""
        for connection in list(self._connections):
            with contextlib.suppress(OSError):  # it has gone by itself
                connection.shutdown(socket.SHUT_RDWR)

    def handle_error(self, request: Any, client_address: Any) -> None:
        if not isinstance(sys.exception(), OSError):  # not just a client that has gone
            super().handle_error(request, client_address)


class _Handler(BaseHTTPRequestHandler):
    server: _Server
    protocol_version = "HTTP/1.1"
    server_version = "cputax"
    sys_version = ""
    timeout = IDLE_TIMEOUT_S
    disable_nagle_algorithm = True

    def do_POST(self) -> None:
        intake = self.server.intake
        try:
            is_json = self._is_json()
            reply = intake.take(self._body(), is_json=is_json)
        except IntakeClosed:
            self._refuse(HTTPStatus.SERVICE_UNAVAILABLE)
        except MessageRefused as error:
            intake.refuse(str(error))
            self._refuse(_status(error))
        else:
            self.send_response(HTTPStatus.OK)
            self.send_header("Content-Type", self.headers.get_content_type())
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

    def _refuse_method(self) -> None:
        self._refuse(HTTPStatus.METHOD_NOT_ALLOWED)

    do_GET = do_HEAD = do_PUT = do_PATCH = do_DELETE = do_OPTIONS = _refuse_method

    def _refuse(self, status: HTTPStatus) -> None:
        """Answer without a body and hang up: the request's own may not have been read."""
        self.send_response(status)
        if status is HTTPStatus.METHOD_NOT_ALLOWED:
            self.send_header("Allow", "POST")
        self.send_header("Content-Length", "0")
        self.send_header("Connection", "close")
        self.end_headers()

    def _is_json(self) -> bool:
        if self.path.partition("?")[0] != PATH:
            raise _Unacceptable(HTTPStatus.NOT_FOUND, f"a path other than {PATH}")
        media_type = self.headers.get_content_type()
        if media_type not in MEDIA_TYPES:
            raise _Unacceptable(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an unknown Content-Type")
        return MEDIA_TYPES[media_type]

    def _body(self) -> bytes:
        length = self.headers.get("Content-Length", "")
        if not (length.isascii() and length.isdecimal()) or "Transfer-Encoding" in self.headers:
            raise _Unacceptable(HTTPStatus.LENGTH_REQUIRED, "no Content-Length")
        if len(length) > MAX_LENGTH_DIGITS or int(length) > MAX_BODY_BYTES:
            raise MessageTooBig(f"a message of more than {MAX_BODY_BYTES} bytes")
        coding = self.headers.get("Content-Encoding", "identity").strip().lower()
        if coding not in CODINGS:
            raise _Unacceptable(HTTPStatus.UNSUPPORTED_MEDIA_TYPE, "an unknown Content-Encoding")
        body = self.rfile.read(int(length))
        if len(body) < int(length):
            raise MessageRefused("a body that was cut off")
        return body if coding == "identity" else inflate(body)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: what is refused is counted."""


class _Unacceptable(MessageRefused):
    def __init__(self, status: HTTPStatus, fault: str) -> None:
        super().__init__(f"an HTTP request with {fault}")
        self.status = status


def _status(error: MessageRefused) -> HTTPStatus:
    if isinstance(error, _Unacceptable):
        return error.status
    if isinstance(error, MessageTooBig):
        return HTTPStatus.REQUEST_ENTITY_TOO_LARGE
    return HTTPStatus.BAD_REQUEST
