"""Ghost sequences: work in every step of the oracle, and nothing else."""

from __future__ import annotations

import contextlib
import queue
import socket
import threading
from array import array
from collections.abc import Iterator
from dataclasses import dataclass, field

import numpy as np
import pytest

from profiler.oracle.engine_core import Inbox, Outbox, run_steps
from profiler.oracle.frames import Channel, ChannelClosed, Frame, send_frame
from profiler.oracle.model import Model, Sequences, prepare_inputs
from profiler.oracle.model_card import GHOST_STEP_TOKENS
from profiler.oracle.scheduler import EngineRequest, Limits, Scheduler, make_ghosts


def make_request(request_id: int, token_count: int = 4, max_tokens: int = 3) -> EngineRequest:
    return EngineRequest(request_id, array("I", [9] * token_count), [], max_tokens)


@dataclass
class Engine:
    """An engine's step loop on a thread of its own; the test plays the worker."""

    scheduler: Scheduler
    worker: Channel
    inbox: Inbox = field(default_factory=queue.SimpleQueue)
    outbox: Outbox = field(default_factory=queue.SimpleQueue)

    def next_step(self) -> Frame:
        (frame,) = self.worker.wait_frames()
        return frame

    def answer(self, step: Frame) -> None:
        send_frame(self.worker, {"tokens": [7] * len(step.header["chunks"])})


@contextlib.contextmanager
def running_engine(ghost_count: int) -> Iterator[Engine]:
    ours, theirs = socket.socketpair()
    ours.settimeout(10)
    engine = Engine(Scheduler(ghosts=make_ghosts(ghost_count)), Channel(ours))
    steps = Channel(theirs)

    def run() -> None:
        with contextlib.suppress(ChannelClosed):
            run_steps(engine.scheduler, engine.inbox, engine.outbox, steps)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    with ours, theirs:
        yield engine
        ours.shutdown(socket.SHUT_RDWR)
        engine.inbox.put(make_request(99))  # wakes an engine that has no work
        thread.join(10)
    assert not thread.is_alive()


def test_every_step_message_has_the_ghosts_after_the_real_requests() -> None:
    with running_engine(ghost_count=2) as engine:
        engine.inbox.put(make_request(1))
        first = engine.next_step()
        engine.answer(first)
        second = engine.next_step()

    count = GHOST_STEP_TOKENS
    assert first.header["chunks"] == [[1, 0, 4, 1], [-1, 0, count, 1], [-2, 0, count, 1]]
    assert first.header["new"] == [[1, 4], [-1, count], [-2, count]]
    assert second.header["chunks"] == [[1, 4, 1, 1], [-1, count, count, 1], [-2, count, count, 1]]
    assert (second.header["new"], second.payload) == ([], b"")


def test_without_ghosts_a_step_message_is_about_real_requests_only() -> None:
    with running_engine(ghost_count=0) as engine:
        engine.inbox.put(make_request(1))
        step = engine.next_step()

    assert step.header == {"chunks": [[1, 0, 4, 1]], "new": [[1, 4]], "finished": []}


def test_the_api_server_hears_nothing_of_ghosts() -> None:
    with running_engine(ghost_count=5) as engine:
        engine.inbox.put(make_request(1, max_tokens=1))
        engine.answer(engine.next_step())
        message = engine.outbox.get(timeout=10)

    assert [output["id"] for output in message["outputs"]] == [1]
    assert (message["stats"]["running_count"], message["stats"]["kv_usage_ratio"]) == (0, 0)


def test_ghosts_alone_make_no_step() -> None:
    scheduler = Scheduler(ghosts=make_ghosts(3))

    assert not scheduler.has_work
    assert scheduler.schedule() == []


@pytest.mark.parametrize("ghost_count", [0, 50])
def test_ghosts_take_nothing_from_the_limits_of_a_step(ghost_count: int) -> None:
    limits = Limits(step_tokens=10, running_requests=2, block_count=8)
    scheduler = Scheduler(limits, ghosts=make_ghosts(ghost_count))
    for request_id in (1, 2, 3):
        scheduler.add(make_request(request_id, token_count=7))

    chunks = scheduler.schedule()

    real = [chunk for chunk in chunks if not chunk.request.is_ghost]
    assert [(chunk.request.request_id, chunk.token_count) for chunk in real] == [(1, 7), (2, 3)]
    assert len(chunks) - len(real) == ghost_count


def test_the_worker_computes_every_row_of_a_ghost_and_samples_once() -> None:
    sequences = Sequences()
    model = Model(ghost_count=1)
    count = GHOST_STEP_TOKENS
    new = {"chunks": [[-1, 0, count, 1]], "new": [[-1, count]], "finished": []}
    prepare_inputs(sequences, new, array("I", [3] * count).tobytes())
    sequences.last_token[-1] = 5

    decode = {"chunks": [[-1, count, count, 1]], "new": [], "finished": []}
    inputs = prepare_inputs(sequences, decode, b"")

    assert inputs.token_ids.tolist() == [5] * count
    assert inputs.last_rows == [count - 1]
    assert model.forward(inputs).shape[0] == len(model.sample(model.forward(inputs))) == 1


def test_the_model_has_room_for_a_full_step_and_all_ghosts() -> None:
    model = Model(ghost_count=100)
    limit = Limits().step_tokens + 100 * GHOST_STEP_TOKENS
    header = {"chunks": [[1, 0, limit, 1]], "new": [[1, limit]], "finished": []}

    inputs = prepare_inputs(Sequences(), header, np.full(limit, 3, np.uint32).tobytes())

    assert len(model.sample(model.forward(inputs))) == 1
