"""The EngineCore role: takes requests in, runs steps, hands tokens out; three threads as in vLLM.

Started by the API server: ``python -m profiler.oracle.engine_core``.
"""

from __future__ import annotations

import argparse
import os
import queue
import select
import socket
import sys
import threading
from typing import Any

from profiler.oracle.block_pool import hash_blocks
from profiler.oracle.frames import (
    Channel,
    ChannelClosed,
    Frame,
    send_frame,
    tokens_from_bytes,
)
from profiler.oracle.lifetime import become_child, spawn
from profiler.oracle.scheduler import Chunk, EngineRequest, Scheduler, make_ghosts
from profiler.oracle.truth.control import start_control
from profiler.oracle.truth.history import History
from profiler.oracle.truth.ledger import own_the_gil
from profiler.oracle.truth.timed import TimedSocket, drain, time_sockets, wait_item, wait_readable

Inbox = queue.SimpleQueue[EngineRequest | int]  # a number aborts the request with that id
Outbox = queue.SimpleQueue[dict[str, Any]]


def receive_requests(requests: Channel, inbox: Inbox) -> None:
    """The input thread: decode requests and hash their blocks, away from the step loop."""
    try:
        while True:
            for frame in requests.wait_frames():
                inbox.put(_decode(frame))
    except ChannelClosed:
        os._exit(0)  # the API server is gone; the worker follows when its channel closes


def _decode(frame: Frame) -> EngineRequest | int:
    if "abort" in frame.header:
        return int(frame.header["abort"])
    prompt = tokens_from_bytes(frame.payload)
    return EngineRequest(
        frame.header["id"], prompt, hash_blocks(prompt), frame.header["max_tokens"]
    )


def send_outputs(outputs: Channel, outbox: Outbox) -> None:
    """The output thread: serialise and send, away from the step loop."""
    try:
        while True:
            send_frame(outputs, wait_item(outbox))
    except ChannelClosed:
        os._exit(0)


def watch_worker(steps: Channel) -> None:
    """The monitor thread: the engine does not outlive its worker, not even while it has no work."""
    poller = select.poll()
    poller.register(steps.socket, 0)  # a hang-up is reported unasked
    wait_readable(poller)
    os._exit(1)


def run_steps(scheduler: Scheduler, inbox: Inbox, outbox: Outbox, steps: Channel) -> None:
    """The main thread: one scheduling step after another, waiting when there is no work.

    ``steps`` carries frames both ways. Raises `ChannelClosed` when the worker is gone.
    """
    finished_ids: list[int] = []
    while True:
        arrived = drain(inbox)
        if not arrived and not scheduler.has_work:
            arrived = [wait_item(inbox)]
        for item in arrived:
            if isinstance(item, int):
                scheduler.abort(item)
                finished_ids.append(item)
            else:
                scheduler.add(item)
        chunks = scheduler.schedule()
        if not chunks:
            continue
        send_frame(steps, *_step_message(chunks, finished_ids))
        (reply,) = steps.wait_frames()
        outputs = scheduler.update(chunks, reply.header["tokens"])
        finished_ids = [output["id"] for output in outputs if output["finished"]]
        if outputs:
            outbox.put({"outputs": outputs, "stats": scheduler.stats()})


def _step_message(chunks: list[Chunk], finished_ids: list[int]) -> tuple[dict[str, Any], bytes]:
    """What the worker needs: chunks in order, and the prompts it has not seen yet."""
    new_requests = [chunk.request for chunk in chunks if chunk.is_new]
    header = {
        "chunks": [
            [chunk.request.request_id, chunk.start, chunk.token_count, int(chunk.samples)]
            for chunk in chunks
        ],
        "new": [
            [chunk.request.request_id, len(chunk.request.prompt)]
            for chunk in chunks
            if chunk.is_new
        ],
        "finished": finished_ids,
    }
    return header, b"".join(new.prompt.tobytes() for new in new_requests)


def main() -> None:
    """Run until the API server closes its channel."""
    parser = argparse.ArgumentParser(description="The oracle's EngineCore")
    for name in ("parent", "requests-fd", "outputs-fd", "control-fd", "worker-control-fd"):
        parser.add_argument(f"--{name}", type=int, required=True)
    for name in ("deadline-ns", "device-ns", "ghosts"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    become_child(options.parent)
    time_sockets()
    own_the_gil()

    steps, worker_steps = socket.socketpair()
    _worker = spawn(  # kept, so that nobody reaps it behind our back
        "profiler.oracle.worker",
        [
            f"--steps-fd={worker_steps.fileno()}",
            f"--control-fd={options.worker_control_fd}",
            f"--deadline-ns={options.deadline_ns}",
            f"--device-ns={options.device_ns}",
            f"--ghosts={options.ghosts}",
        ],
        [worker_steps.fileno(), options.worker_control_fd],
    )
    worker_steps.close()
    os.close(options.worker_control_fd)
    channel = Channel(steps)
    (ready,) = channel.wait_frames()

    requests = Channel(TimedSocket(fileno=options.requests_fd))
    outputs = Channel(TimedSocket(fileno=options.outputs_fd))
    control = TimedSocket(fileno=options.control_fd)
    start_control(History("engine_core"), control, options.deadline_ns)
    inbox: Inbox = queue.SimpleQueue()
    outbox: Outbox = queue.SimpleQueue()
    for name, target, arguments in (
        ("input", receive_requests, (requests, inbox)),
        ("output", send_outputs, (outputs, outbox)),
        ("worker monitor", watch_worker, (channel,)),
    ):
        threading.Thread(target=target, args=arguments, name=name, daemon=True).start()
    outbox.put({"ready": {"engine_core": os.getpid(), "worker": ready.header["pid"]}})
    try:
        run_steps(Scheduler(ghosts=make_ghosts(options.ghosts)), inbox, outbox, channel)
    except ChannelClosed:
        sys.exit(1)


if __name__ == "__main__":
    main()
