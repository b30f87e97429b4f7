"""Messages between the oracle's processes."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from profiler.oracle.frames import (
    Channel,
    ChannelClosed,
    receive_frames,
    send_frame,
    tokens_from_bytes,
    tokens_to_bytes,
)


@pytest.fixture
def ends() -> Iterator[tuple[Channel, Channel]]:
    left, right = socket.socketpair()
    with left, right:
        yield Channel(left), Channel(right)


def test_frames_arrive_whole_and_in_order(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    token_ids = list(range(5_000))

    send_frame(sender, {"id": 1}, tokens_to_bytes(token_ids))
    send_frame(sender, {"abort": 1})
    frames = receiver.wait_frames()
    while len(frames) < 2:
        frames += receiver.wait_frames()

    assert [frame.header for frame in frames] == [{"id": 1}, {"abort": 1}]
    assert list(tokens_from_bytes(frames[0].payload)) == token_ids


def test_a_frame_that_comes_in_pieces_is_put_together(ends: tuple[Channel, Channel]) -> None:
    sender, receiver = ends
    send_frame(sender, {"id": 1}, b"payload")
    whole = receiver.socket.recv(1000)

    for piece in (whole[:3], whole[3:12]):
        sender.socket.sendall(piece)
        assert receive_frames(receiver) == []
    sender.socket.sendall(whole[12:])

    assert receive_frames(receiver) == [({"id": 1}, b"payload")]


def test_both_directions_notice_that_the_other_end_is_gone(ends: tuple[Channel, Channel]) -> None:
    left, right = ends
    right.socket.close()

    with pytest.raises(ChannelClosed):
        left.wait_frames()
    with pytest.raises(ChannelClosed):
        send_frame(left, {})
