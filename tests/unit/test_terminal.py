"""What ``cputax analyze`` prints of what a capture does not hold."""

from __future__ import annotations

import pytest
from captures import CaptureBuilder

from analyzers.analysis import analyze
from profiler.render.terminal import print_analysis

OFFER = "add --otlp"


@pytest.fixture
def capture() -> CaptureBuilder:
    """A capture of one thread, without requests."""
    made = CaptureBuilder()
    thread = made.thread(made.process("api_server"), tid=1)
    for ms in range(0, 1001, 50):
        made.look(thread, ms, run=ms / 2)
    return made


def printed(made: CaptureBuilder, capsys: pytest.CaptureFixture[str]) -> str:
    print_analysis(analyze(made.build()).to_json())
    return capsys.readouterr().out


def test_requests_that_nobody_asked_for_are_offered_not_missed(
    capture: CaptureBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(capture, capsys)

    assert "What could not be answered" in text  # no stacks, no GIL
    assert "the capture holds no requests" not in text
    assert OFFER in text


def test_requests_that_were_asked_for_and_did_not_come_are_missed(
    capture: CaptureBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    capture.probe("otlp", "unavailable", reason="its port is taken")

    text = printed(capture, capsys)

    assert "request-waterfall not computable" in text
    assert OFFER not in text
