"""The oracle's stages, and which function of which file does each of them in each role.

A stack belongs to the stage of the frame nearest to its leaf that stands in `STAGES`; the frames of
`Stage.DISPATCH` are outermost, so they only decide where no other does.
"""

from __future__ import annotations

from enum import StrEnum
from typing import Final, NamedTuple


class Stage(StrEnum):
    """Names of the stages; `IDLE` and `DEVICE_WAIT` are waits, the rest is work."""

    HTTP_PARSE = "http_parse"
    VALIDATION = "validation"
    CHAT_TEMPLATE = "chat_template"
    TOKENIZE = "tokenize"
    IPC_SEND = "ipc_send"
    IPC_RECV = "ipc_recv"
    SCHEDULE = "schedule"
    PREFIX_CACHE = "prefix_cache"
    PREPARE_INPUTS = "prepare_inputs"
    MODEL_FORWARD = "model_forward"
    DEVICE_WAIT = "device_wait"
    SAMPLING = "sampling"
    OUTPUT_UPDATE = "output_update"
    DETOKENIZE = "detokenize"
    SSE_WRITE = "sse_write"
    METRICS = "metrics"
    TRUTH = "truth"
    IDLE = "idle"
    DISPATCH = "dispatch"


WAITS: Final = frozenset({Stage.IDLE, Stage.DEVICE_WAIT})


class Place(NamedTuple):
    """A function (``co_qualname``; before Python 3.11 only its last part is seen) in a file."""

    function: str
    file: str


_WAITS: Final = {
    Place("TimedSelector.select", "profiler/oracle/truth/timed.py"): Stage.IDLE,
    Place("wait_readable", "profiler/oracle/truth/timed.py"): Stage.IDLE,
    Place("wait_item", "profiler/oracle/truth/timed.py"): Stage.IDLE,
}
_FRAMES: Final = {
    Place("send_frame", "profiler/oracle/frames.py"): Stage.IPC_SEND,
    Place("receive_frames", "profiler/oracle/frames.py"): Stage.IPC_RECV,
}
_TRUTH: Final = {
    Place("serve_truth", "profiler/oracle/truth/control.py"): Stage.TRUTH,
    Place("History.take", "profiler/oracle/truth/history.py"): Stage.TRUTH,
    Place("History.window", "profiler/oracle/truth/history.py"): Stage.TRUTH,
}

STAGES: Final[dict[str, dict[Place, Stage]]] = {
    "api_server": {
        **_WAITS,
        **_FRAMES,
        **_TRUTH,
        Place("parse_request", "profiler/oracle/http.py"): Stage.HTTP_PARSE,
        Place("write_head", "profiler/oracle/http.py"): Stage.SSE_WRITE,
        Place("write_event", "profiler/oracle/http.py"): Stage.SSE_WRITE,
        Place("write_whole", "profiler/oracle/http.py"): Stage.SSE_WRITE,
        Place("validate", "profiler/oracle/protocol.py"): Stage.VALIDATION,
        Place("apply_chat_template", "profiler/oracle/protocol.py"): Stage.CHAT_TEMPLATE,
        Place("tokenize", "profiler/oracle/tokenizer.py"): Stage.TOKENIZE,
        Place("detokenize", "profiler/oracle/tokenizer.py"): Stage.DETOKENIZE,
        Place("observe_first_token", "profiler/oracle/metrics.py"): Stage.METRICS,
        Place("observe_finished", "profiler/oracle/metrics.py"): Stage.METRICS,
        Place("SchedulerView.observe_scheduler", "profiler/oracle/metrics.py"): Stage.METRICS,
        Place("render", "profiler/oracle/metrics.py"): Stage.METRICS,
        Place(
            "EngineClient.update_requests", "profiler/oracle/engine_client.py"
        ): Stage.OUTPUT_UPDATE,
        Place("TokenizerThread.run", "profiler/oracle/tokenizer.py"): Stage.DISPATCH,
        Place("BaseEventLoop._run_once", "asyncio/base_events.py"): Stage.DISPATCH,
    },
    "engine_core": {
        **_WAITS,
        **_FRAMES,
        **_TRUTH,
        Place("hash_blocks", "profiler/oracle/block_pool.py"): Stage.PREFIX_CACHE,
        Place("BlockPool.allocate", "profiler/oracle/block_pool.py"): Stage.PREFIX_CACHE,
        Place("BlockPool.free", "profiler/oracle/block_pool.py"): Stage.PREFIX_CACHE,
        Place("Scheduler.schedule", "profiler/oracle/scheduler.py"): Stage.SCHEDULE,
        Place("Scheduler.update", "profiler/oracle/scheduler.py"): Stage.OUTPUT_UPDATE,
        Place("run_steps", "profiler/oracle/engine_core.py"): Stage.DISPATCH,
        Place("receive_requests", "profiler/oracle/engine_core.py"): Stage.DISPATCH,
        Place("send_outputs", "profiler/oracle/engine_core.py"): Stage.DISPATCH,
    },
    "worker": {
        **_WAITS,
        **_FRAMES,
        **_TRUTH,
        Place("prepare_inputs", "profiler/oracle/model.py"): Stage.PREPARE_INPUTS,
        Place("Model.forward", "profiler/oracle/model.py"): Stage.MODEL_FORWARD,
        Place("Model.sample", "profiler/oracle/model.py"): Stage.SAMPLING,
        Place("wait_for_device", "profiler/oracle/model.py"): Stage.DEVICE_WAIT,
        Place("run_worker", "profiler/oracle/worker.py"): Stage.DISPATCH,
    },
}
