"""How a request can fail, by kind; the kind is the ``status`` of its row."""

from __future__ import annotations

from enum import StrEnum

from collectors import schema


class Failure(StrEnum):
    """Kinds of failure; an HTTP status other than 200 is `http_failure` of it."""

    REFUSED = "refused"  # nobody listens there
    UNREACHABLE = "unreachable"  # no route, or no connection in the kernel's time
    DNS = "dns"  # the host name has no address
    TLS = "tls"  # no encrypted connection, or not with a trusted certificate
    RESET = "reset"  # the connection was torn down before any headers came
    CLOSED_EARLY = "closed-before-headers"
    CLOSED_MID_STREAM = "closed-mid-stream"  # after the headers, before the end of the answer
    MALFORMED = "malformed-stream"  # no events, or events that are no JSON chunks
    ERROR_EVENT = "error-in-stream"  # the server reported a failure of its own as an event
    BAD_HTTP = "malformed-http"
    TIMEOUT = "timeout"  # not done by the request's deadline
    INTERRUPTED = schema.INTERRUPTED  # the run was stopped while it was in flight
    NO_DESCRIPTOR = "client-no-descriptor"  # this process may open no more connections
    OTHER = "other"


def http_failure(status: int) -> str:
    """Return the kind of an answer with this HTTP status."""
    return f"http-{status}"


class RequestFailed(Exception):
    """A request failed in a way that the HTTP library has no error for."""

    def __init__(self, kind: str, detail: str) -> None:
        super().__init__(detail)
        self.kind = kind
        self.detail = detail
