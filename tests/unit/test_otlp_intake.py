"""What becomes of received spans: rows, counts and gaps, and no word of anything else."""

from __future__ import annotations

import time

import pytest

from collectors.capture import open_capture
from probes.otlp import intake as intake_module
from probes.otlp.intake import Intake, IntakeClosed
from probes.otlp.messages import MessageRefused
from tests.recordings import make_recorder
from tests.unit.otlp_spans import SECRET, make_message, make_span

OUR_PID, OTHER_PID = 42, 43


@pytest.fixture
def rig(tmp_path):
    """An intake, the recorder it writes to, and what it said to have kept."""
    recorder = make_recorder(tmp_path / "c")
    kept: list[int] = []
    return Intake(recorder, "otlp", {OUR_PID}.__contains__, kept.append), recorder, kept


def send(intake: Intake, *spans, pid: int | None = None) -> bytes:
    resource = None if pid is None else {"vllm.process_id": str(pid)}
    return intake.take(make_message(spans, resource=resource).SerializeToString())


def opened(rig):
    """End the recording and open it."""
    intake, recorder, _ = rig
    intake.close()
    recorder.close()
    return open_capture(recorder.directory)


def gaps_of(capture):
    return [row for row in capture.table("gaps").to_pylist() if row["probe"] == "otlp"]


def test_requests_are_rows_and_other_spans_are_counted_by_name(rig):
    intake, _, kept = rig

    assert send(intake, make_span(), make_span(name="Load model"), make_span(id="cmpl-b-0")) == b""
    assert send(intake, make_span(name="Load model")) == b""

    capture = opened(rig)
    assert capture.table("requests")["request"].to_pylist() == ["mine", "b"]
    assert set(capture.table("requests")["source"].to_pylist()) == {"otlp"}
    assert kept == [2, 2]
    counts = intake.counts.to_json()
    assert (counts["messages"], counts["spans"], counts["requests_kept"]) == (2, 4, 2)
    assert counts["other_spans"] == {"Load model": 2}


def test_nothing_of_a_span_but_its_columns_is_on_disk(rig, tmp_path):
    intake, recorder, _ = rig

    send(intake, make_span())
    with pytest.raises(MessageRefused):
        intake.take(SECRET.encode())

    opened(rig)
    files = [path for path in recorder.directory.rglob("*") if path.is_file()]
    assert files
    assert not any(SECRET.encode() in path.read_bytes() for path in files)
    assert SECRET not in str(intake.counts)


def test_a_refused_request_is_told_and_leaves_a_gap(rig):
    intake = rig[0]

    reply = send(intake, make_span(), make_span(id=None), make_span(id=7), make_span(start_ns=1))

    assert reply, "the sender is told"
    refused = intake.counts.to_json()["refused_requests"]
    assert sorted(refused.values()) == [1, 2]
    gaps = {row["reason"]: row["lost_count"] for row in gaps_of(opened(rig))}
    assert refused.items() <= gaps.items()


def test_a_refused_message_leaves_a_gap_of_unknown_size(rig):
    intake = rig[0]

    for _ in range(3):
        intake.refuse("a body that was cut off")

    assert intake.counts.to_json()["refused_messages"] == {"a body that was cut off": 3}
    gaps = {row["reason"]: row["lost_count"] for row in gaps_of(opened(rig))}
    assert gaps["a body that was cut off"] is None


def test_requests_that_ended_before_the_recording_are_counted_only(rig):
    intake = rig[0]
    now_ns = time.time_ns()

    send(intake, make_span(start_ns=now_ns - 10**10, end_ns=now_ns - 9 * 10**9))

    assert intake.counts.earlier_count == 1
    assert opened(rig).table("requests").num_rows == 0


def test_requests_of_another_server_are_counted_only(rig):
    intake = rig[0]

    send(intake, make_span(), pid=OTHER_PID)
    send(intake, make_span(), pid=OUR_PID)
    send(intake, make_span())

    assert intake.counts.foreign_count == 1
    assert opened(rig).table("requests").num_rows == 2


def test_span_names_are_bounded(rig):
    intake = rig[0]

    send(intake, *(make_span(name=f"{n}{'x' * 1000}") for n in range(1000)))

    names = intake.counts.other_spans
    assert len(names) == intake_module.MAX_NAMES + 1
    assert max(map(len, names)) == intake_module.MAX_NAME_CHARS
    assert names.total() == 1000


def test_what_the_batches_may_not_have_brought_is_a_gap(rig):
    intake = rig[0]
    send(intake, make_span())
    after_ns = time.monotonic_ns()

    (gap,) = gaps_of(opened(rig))

    assert gap["start_ns"] <= after_ns <= gap["end_ns"]
    assert "in batches" in gap["reason"]
    assert gap["lost_count"] is None


def test_each_of_several_api_servers_has_batches_of_its_own(rig):
    intake = rig[0]
    send(intake, make_span(), pid=OUR_PID)
    between_ns = time.monotonic_ns()
    send(intake, make_span())

    (gap,) = gaps_of(opened(rig))

    assert gap["start_ns"] <= between_ns


def test_a_server_that_sends_nothing_is_a_gap_over_the_whole_time(rig):
    before_ns = time.monotonic_ns()

    send(rig[0], make_span(), pid=OTHER_PID)  # says nothing of the target
    (gap,) = gaps_of(opened(rig))

    assert gap["start_ns"] <= before_ns <= gap["end_ns"]
    assert "--otlp-traces-endpoint" in gap["reason"]


def test_after_the_end_nothing_is_taken_or_counted(rig):
    intake = rig[0]
    capture = opened(rig)

    with pytest.raises(IntakeClosed):
        send(intake, make_span())
    intake.refuse("late")

    assert intake.counts.message_count == 0
    assert not intake.counts.refused_messages
    assert capture.table("requests").num_rows == 0
