"""The child that switches a server's profiler on, and off again whatever happens to us.

Run as ``python -m probes.torch_profiler.switch URL SECONDS BODY``; `probes.torch_profiler.
slice_child` does. Descriptor 1 is a connected stream socket: what happened goes out, one JSON
object a line, and nothing comes in; its end is the sign to stop. So is SIGTERM, which the keeper
sends when the session dies, and the kernel when the keeper does. The standard library only.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import select
import signal
import sys
import time
from http import HTTPStatus
from typing import Any, Final, NoReturn
from urllib.parse import urlsplit

CHANNEL: Final = 1
STARTED: Final = "started"
STOPPED: Final = "stopped"
REFUSED: Final = "refused"  # nothing listens at the port
# The first start loads the GPU's tracing library; a start also waits for the step under way.
START_LIMIT_S: Final = 30.0
# Every worker writes its trace before the server answers: 65 s were seen, with stacks.
STOP_LIMIT_S: Final = 120.0
_REASON_CHARS: Final = 200


class _Told(Exception):
    """The keeper or the kernel told us to end."""


def main(arguments: list[str]) -> None:
    """Start the profiler, wait, stop it; say when and how each of both was answered."""
    url, slice_s, body = arguments[0], float(arguments[1]), arguments[2]
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, _raise_told)
    is_ours = True
    try:
        begin_ns = time.monotonic_ns()
        answer = post(url, "/start_profile", START_LIMIT_S, body)
        _say(STARTED, begin_ns, answer)
        is_ours = may_be_running(answer)
        if answer["status"] == HTTPStatus.OK:
            select.select([CHANNEL], [], [], slice_s)
        # Within the block, so that no signal falls between it and the next line.
        signal.signal(signal.SIGTERM, signal.SIG_IGN)
    except _Told:
        pass
    if is_ours:
        begin_ns = time.monotonic_ns()
        _say(STOPPED, begin_ns, post(url, "/stop_profile", STOP_LIMIT_S))


def may_be_running(answer: dict[str, Any]) -> bool:
    """Whether the profiler may run after this answer to a start, by our doing.

    A start that was not answered may still take effect; one that was refused does not. 409: it is
    somebody else's just now, and not ours to stop.
    """
    status = answer["status"]
    return bool(answer["error"] != REFUSED if status is None else not 400 <= status < 500)


def post(url: str, path: str, limit_s: float, body: str = "") -> dict[str, Any]:
    """POST to the server; return ``status`` (None: no answer), ``error`` and ``reason``."""
    parts = urlsplit(url)
    connection = http.client.HTTPConnection(parts.hostname or "", parts.port, timeout=limit_s)
    headers = {"Content-Type": "application/json"} if body else {}
    try:
        connection.request("POST", path, body or None, headers)
        response = connection.getresponse()
        text = response.read(_REASON_CHARS).decode("utf-8", "replace")
        return {"status": response.status, "error": "", "reason": text}
    except ConnectionRefusedError:
        return {"status": None, "error": REFUSED, "reason": "nothing listens there"}
    except TimeoutError:
        reason = f"no answer within {limit_s:.0f} s"
        return {"status": None, "error": "timeout", "reason": reason}
    except (OSError, http.client.HTTPException) as error:
        return {"status": None, "error": "broken", "reason": type(error).__name__}
    finally:
        connection.close()


def timed(begin_ns: int, answer: dict[str, Any]) -> dict[str, Any]:
    """Add to an answer that came just now when it was asked for and when it came."""
    return {"begin_ns": begin_ns, "end_ns": time.monotonic_ns(), **answer}


def _say(what: str, begin_ns: int, answer: dict[str, Any]) -> None:
    event = {"what": what, **timed(begin_ns, answer)}
    with contextlib.suppress(OSError):  # nobody listens any more
        os.write(CHANNEL, json.dumps(event).encode() + b"\n")


def _raise_told(_number: int, _frame: object) -> NoReturn:
    signal.signal(signal.SIGTERM, signal.SIG_IGN)  # once is enough
    raise _Told


if __name__ == "__main__":
    main(sys.argv[1:])
