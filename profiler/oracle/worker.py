"""The Worker role: one thread that computes steps. ``python -m profiler.oracle.worker``."""

from __future__ import annotations

import argparse
import os
import time

from profiler.oracle.frames import Channel, ChannelClosed, send_frame
from profiler.oracle.lifetime import become_child
from profiler.oracle.model import Model, Sequences, prepare_inputs, wait_for_device
from profiler.oracle.model_card import GHOST_STEP_TOKENS
from profiler.oracle.truth.control import start_control
from profiler.oracle.truth.history import History
from profiler.oracle.truth.ledger import own_the_gil
from profiler.oracle.truth.timed import TimedSocket, time_sockets


def run_worker(steps: Channel, device_ns: int, ghost_count: int) -> None:
    """Compute every step that arrives; each takes at least ``device_ns``.

    ``ghost_count`` is how many ghost sequences each step holds; the device has no work with them.
    Raises `ChannelClosed` when the EngineCore is gone.
    """
    model = Model(ghost_count)
    ghost_token_count = ghost_count * GHOST_STEP_TOKENS
    sequences = Sequences()
    send_frame(steps, {"pid": os.getpid()})
    while True:
        for frame in steps.wait_frames():
            started_ns = time.monotonic_ns()
            inputs = prepare_inputs(sequences, frame.header, frame.payload)
            tokens = model.sample(model.forward(inputs))
            wait_for_device(started_ns, device_ns, len(inputs.token_ids) - ghost_token_count)
            sampled = iter(tokens)
            for request_id, _, _, samples in frame.header["chunks"]:
                if samples:
                    sequences.last_token[request_id] = next(sampled)
            send_frame(steps, {"tokens": tokens})


def main() -> None:
    """Run until the EngineCore closes its channel."""
    parser = argparse.ArgumentParser(description="The oracle's Worker")
    for name in ("parent", "steps-fd", "control-fd", "deadline-ns", "device-ns", "ghosts"):
        parser.add_argument(f"--{name}", type=int, required=True)
    options = parser.parse_args()
    become_child(options.parent)
    time_sockets()
    own_the_gil()
    start_control(History("worker"), TimedSocket(fileno=options.control_fd), options.deadline_ns)
    try:
        steps = Channel(TimedSocket(fileno=options.steps_fd))
        run_worker(steps, options.device_ns, options.ghosts)
    except ChannelClosed:
        return


if __name__ == "__main__":
    main()
