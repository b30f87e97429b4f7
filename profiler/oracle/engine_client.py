"""The API server's side of the engine: sends requests, hands each request its new text."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Any

from tokenizers import Tokenizer

from profiler.oracle import metrics
from profiler.oracle.frames import (
    Channel,
    ChannelClosed,
    receive_frames,
    send_frame,
    tokens_to_bytes,
)
from profiler.oracle.request_truth import RequestTruth
from profiler.oracle.stages import Stage
from profiler.oracle.tokenizer import TextStream, detokenize
from profiler.oracle.truth.ledger import staged


class EngineClient:
    """Talks to one EngineCore; ``on_lost`` is called once when it is gone.

    ``on_finished`` is called for each request whose last token has come.
    """

    def __init__(
        self,
        requests: Channel,
        outputs: Channel,
        tokenizer: Tokenizer,
        on_lost: Callable[[], None],
        on_finished: Callable[[RequestTruth], None] | None = None,
    ) -> None:
        self._requests = requests
        self._outputs = outputs
        self._tokenizer = tokenizer
        self._on_lost = on_lost
        self._on_finished = on_finished
        self._texts: dict[int, asyncio.Queue[tuple[str, bool]]] = {}
        self._streams: dict[int, TextStream] = {}
        self._truths: dict[int, RequestTruth] = {}
        self._scheduler = metrics.SchedulerView()
        self._is_open = True
        self.ready: asyncio.Future[dict[str, int]] = asyncio.get_running_loop().create_future()

    def start(self) -> None:
        """Begin to listen; `ready` becomes the PIDs by role."""
        asyncio.get_running_loop().add_reader(self._outputs.socket, self._on_outputs)

    def close(self) -> None:
        """Stop listening and close the channels, which ends the EngineCore."""
        self._is_open = False
        asyncio.get_running_loop().remove_reader(self._outputs.socket)
        self._requests.socket.close()
        self._outputs.socket.close()

    def submit(self, truth: RequestTruth, token_ids: list[int], max_tokens: int) -> None:
        """Send a request; its text arrives through `next_text`. Raises `ChannelClosed`."""
        request_id = truth.request_id
        self._texts[request_id] = asyncio.Queue()
        self._streams[request_id] = TextStream()
        self._truths[request_id] = truth
        payload = tokens_to_bytes(token_ids)
        truth.engine_sent_ns = time.monotonic_ns()
        send_frame(self._requests, {"id": request_id, "max_tokens": max_tokens}, payload)

    async def next_text(self, request_id: int) -> tuple[str, bool]:
        """The next piece of text, and whether it is the last."""
        text, is_last = await self._texts[request_id].get()
        if is_last:
            self._forget(request_id)
        return text, is_last

    def abort(self, request_id: int) -> None:
        """Tell the engine that nobody waits for this request any more."""
        self._forget(request_id)
        if self._is_open:
            send_frame(self._requests, {"abort": request_id})

    def _forget(self, request_id: int) -> None:
        for book in (self._texts, self._streams, self._truths):
            book.pop(request_id, None)

    def _on_outputs(self) -> None:
        try:
            frames = receive_frames(self._outputs)
        except ChannelClosed:
            self._is_open = False
            asyncio.get_running_loop().remove_reader(self._outputs.socket)
            self._on_lost()
            return
        for frame in frames:
            # As in vLLM, whose output loop stamps each message when it takes it up.
            received_ns = time.monotonic_ns()
            if "ready" in frame.header:
                self.ready.set_result(frame.header["ready"])
                continue
            outputs = frame.header["outputs"]
            self._scheduler.observe_scheduler(frame.header["stats"], len(outputs))
            texts = detokenize(self._tokenizer, outputs, self._streams)
            self.update_requests(outputs, texts, received_ns)

    @staged(Stage.OUTPUT_UPDATE)
    def update_requests(
        self, outputs: list[dict[str, Any]], texts: list[str], received_ns: int
    ) -> None:
        """Stamp each request and wake whoever writes its answer.

        As in vLLM, a request's latencies end when its output was received, not when it has a text.
        """
        for output, text in zip(outputs, texts, strict=True):
            truth = self._truths.get(output["id"])
            if truth is None:
                continue  # aborted
            if truth.generated_token_count == 0:
                truth.take_stamps(output)
                truth.first_token_seen_ns = received_ns
                metrics.observe_first_token(
                    truth.validated_ns, received_ns, truth.prompt_token_count
                )
            truth.generated_token_count += 1
            if output["finished"]:
                truth.take_stamps(output)
                truth.last_token_seen_ns = received_ns
                metrics.observe_finished(truth.validated_ns, received_ns, output)
            self._texts[output["id"]].put_nowait((text, output["finished"]))
            if output["finished"]:
                truth.finished_ns = time.monotonic_ns()
                if self._on_finished is not None:
                    self._on_finished(truth)
