"""What is printed of GPUs: within 100 columns, nothing of a GPU that is not there."""

from __future__ import annotations

import pytest
from captures import SCHEDULE, CaptureBuilder

from analyzers.analysis import analyze
from collectors.slices import OP
from profiler.render.console import console
from profiler.render.gpu import print_gpu


def printed(
    made: CaptureBuilder, capsys: pytest.CaptureFixture[str], *, show_all: bool = False
) -> str:
    print_gpu(console(), analyze(made.build()).to_json(), show_all=show_all)
    text = capsys.readouterr().out
    assert all(len(line) <= 100 for line in text.splitlines())
    return text


@pytest.fixture
def made() -> CaptureBuilder:
    made = CaptureBuilder(seconds=0.1)
    process = made.process("worker")
    thread = made.thread(process, tid=1)
    stream = made.stream(made.device(2, name="AMD Instinct MI300X", rank=5), process=process)
    for number in range(8):
        call = 5.0 + 10 * number
        made.call(thread, call, call + 0.01, correlation=number + 1)
        name = f"void library::{'very_' * 30}long_kernel<float, {number}>(int)"
        made.slice(stream, call + 0.02, call + 4, name, correlation=number + 1)
    made.probe("stacks", "works", achieved_hz=100.0)
    for tick in range(0, 100, 10):
        made.run(thread, tick, tick + 10, SCHEDULE)
    return made


def test_a_gpu_is_told_with_its_time_gaps_causes_and_kernels(
    made: CaptureBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    text = printed(made, capsys)

    assert "GPU 2 rank 5" in text
    assert "AMD Instinct MI300X" in text
    assert "from a trace of the kernels" in text
    assert "over 1 ms" in text
    assert "Python" in text
    assert "Scheduler.schedule sched/scheduler.py" in text
    assert "launch to start p50 20 us" in text


def test_all_shows_every_kernel_and_why_other_rungs_were_not_used(
    made: CaptureBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    brief, full = printed(made, capsys), printed(made, capsys, show_all=True)

    assert sum("very_long_" in line or "very_very" in line for line in brief.splitlines()) == 6
    assert sum("very_long_" in line or "very_very" in line for line in full.splitlines()) == 8
    assert "not from the server's counters" in full


def test_a_capture_without_a_gpu_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    made = CaptureBuilder(seconds=0.1)
    thread = made.thread(made.process("worker"), tid=1)
    made.slice(thread, 0, 10, "aten::mm", kind=OP)

    assert printed(made, capsys) == ""


def test_idle_time_that_is_not_trusted_says_why(
    made: CaptureBuilder, capsys: pytest.CaptureFixture[str]
) -> None:
    for call in range(4):
        made.call(1, 0.1 * call, 0.1 * call + 0.05, "hipGraphLaunch", correlation=90 + call)
        made.call(1, 60 + call, 60.5 + call, "hipGraphLaunch", correlation=80 + call)

    text = printed(made, capsys)

    assert "its idle time is not believed" in text
    assert "at least" in text


def test_a_model_on_the_cpu_is_said_to_be_one(capsys: pytest.CaptureFixture[str]) -> None:
    made = CaptureBuilder(seconds=0.1, kind="oracle")
    thread = made.thread(made.process("worker"), tid=1)
    made.run(thread, 0, 50, [("Model.forward", "profiler/oracle/worker.py")])
    assert printed(made, capsys) == ""  # no stage of the oracle is in that stack

    vllm = CaptureBuilder(seconds=0.1)
    thread = vllm.thread(vllm.process("worker"), tid=1)
    runner = "/venv/vllm/v1/worker/cpu_model_runner.py"
    model = "/venv/vllm/model_executor/models/llama.py"
    vllm.run(thread, 0, 50, [("CPUModelRunner.run", runner), ("Llama.forward", model)])

    text = printed(vllm, capsys)

    assert "no GPU: the model runs on this host's CPUs" in text
    assert "50.0%" in text


def test_hostile_names_print_as_text(capsys: pytest.CaptureFixture[str]) -> None:
    made = CaptureBuilder(seconds=0.1)
    stream = made.stream(made.device(0, name="[red]\x1b[2J" + "x" * 200))
    made.slice(stream, 0, 10, "[bold]\x1b]0;owned\x07" + "y" * 5_000)
    made.slice(stream, 20, 30, "[/]")

    text = printed(made, capsys)

    assert "\x1b" not in text
    assert "[bold]" in text
