"""The API server role: HTTP in, tokens out, and the door to the truth of all three processes."""

from __future__ import annotations

import asyncio
import itertools
import json
import time
from collections import deque
from typing import Any, Final

from profiler.oracle import metrics
from profiler.oracle.engine_client import EngineClient
from profiler.oracle.http import (
    HttpRequest,
    write_event,
    write_head,
    write_whole,
)
from profiler.oracle.model_card import MODEL_NAME
from profiler.oracle.protocol import (
    GenerationRequest,
    InvalidRequest,
    apply_chat_template,
    chunk_of,
    completion_of,
    request_name,
    validate,
)
from profiler.oracle.request_truth import RequestTruth, summarize
from profiler.oracle.tokenizer import TokenizerThread
from profiler.oracle.truth.control import Asker
from profiler.oracle.truth.history import History, ProcessTruth

_REQUESTS_KEPT: Final = 20_000
TRUTH_SCHEMA_VERSION: Final = 1


class ApiServer:
    """Routes requests; ``askers`` reach the other processes' truth."""

    def __init__(
        self,
        engine: EngineClient,
        tokenizer: TokenizerThread,
        history: History,
        askers: list[Asker],
        facts: dict[str, Any],
    ) -> None:
        self._engine = engine
        self._tokenizer = tokenizer
        self._history = history
        self._askers = askers
        self._facts = facts
        self._request_ids = itertools.count(1)
        self._requests: deque[RequestTruth] = deque(maxlen=_REQUESTS_KEPT)
        self._window_start_ns = time.monotonic_ns()

    async def handle(self, request: HttpRequest, transport: asyncio.WriteTransport) -> None:
        """Answer one request."""
        match request.method, request.path:
            case "POST", "/v1/chat/completions":
                await self._generate(request, transport, is_chat=True)
            case "POST", "/v1/completions":
                await self._generate(request, transport, is_chat=False)
            case "GET", "/v1/models":
                models = [{"id": MODEL_NAME, "object": "model", "owned_by": "cputax"}]
                _write_json(transport, 200, {"object": "list", "data": models})
            case "GET", "/health":
                write_whole(transport, 200, b"")
            case "GET", "/metrics":
                content_type = "text/plain; version=0.0.4; charset=utf-8"
                write_whole(transport, 200, metrics.render(), content_type)
            case "POST", "/truth/start":
                self._window_start_ns = await self._cut()
                _write_json(transport, 200, {"start_ns": self._window_start_ns})
            case "POST", "/truth/stop":
                _write_json(transport, 200, await self.truth())
            case "GET", "/truth":
                await self._answer_window(request, transport)
            case _:
                _write_json(transport, 404, _error(f"no such endpoint: {request.path}"))

    async def truth(self, start_ns: int | None = None, end_ns: int | None = None) -> dict[str, Any]:
        """The truth of ``[start_ns, end_ns)``; by default from the last start until now.

        Raises ValueError when a process remembers nothing of it.
        """
        cut_ns = await self._cut()
        start_ns = self._window_start_ns if start_ns is None else start_ns
        end_ns = cut_ns if end_ns is None else end_ns
        processes: list[ProcessTruth] = [self._history.window(start_ns, end_ns)]
        for reply in await self._ask({"window": [start_ns, end_ns]}):
            if "error" in reply:
                raise ValueError(reply["error"])
            processes.append(reply["truth"])
        requests = [item for item in self._requests if start_ns <= item.arrived_ns < end_ns]
        return {
            "schema_version": TRUTH_SCHEMA_VERSION,
            "start_ns": start_ns,
            "end_ns": end_ns,
            "facts": self._facts,
            "processes": processes,
            "request_summary": summarize(requests),
            "requests": [item.to_dict() for item in requests],
        }

    async def _cut(self) -> int:
        """Cut the books of all processes as near to one instant as a message travels."""
        await self._ask({"cut": True})
        return self._history.take()

    async def _ask(self, question: dict[str, Any]) -> list[dict[str, Any]]:
        """Put one question to the other processes at once."""
        return await asyncio.gather(*(asker.ask(question) for asker in self._askers))

    async def _answer_window(self, request: HttpRequest, transport: asyncio.WriteTransport) -> None:
        try:
            edges = int(request.query["start_ns"]), int(request.query["end_ns"])
            found = await self.truth(*edges)
        except (KeyError, ValueError) as error:
            _write_json(transport, 400, _error(f"start_ns and end_ns: {error}"))
            return
        _write_json(transport, 200, found)

    async def _generate(
        self, request: HttpRequest, transport: asyncio.WriteTransport, *, is_chat: bool
    ) -> None:
        try:
            generation = validate(request.body, is_chat=is_chat)
        except InvalidRequest as error:
            _write_json(transport, 400, _error(str(error)))
            return
        number = next(self._request_ids)
        name = request_name(request.client_id or str(number), is_chat=is_chat)
        truth = RequestTruth(number, request.arrived_ns, request.parsed_ns, request.client_id, name)
        self._requests.append(truth)
        truth.validated_ns = time.monotonic_ns()
        token_ids = await self._tokenizer.encode(
            lambda: apply_chat_template(generation), truth.tokenizing
        )
        truth.prompt_token_count = len(token_ids)
        if generation.is_streaming:
            write_head(transport)
            truth.headers_ns = time.monotonic_ns()
        self._engine.submit(truth, token_ids, generation.max_tokens)
        try:
            await self._send_answer(generation, truth, transport)
        except asyncio.CancelledError:
            self._engine.abort(truth.request_id)
            raise
        truth.done_ns = time.monotonic_ns()

    async def _send_answer(
        self,
        generation: GenerationRequest,
        truth: RequestTruth,
        transport: asyncio.WriteTransport,
    ) -> None:
        request_id = truth.request_id
        whole: list[str] = []
        is_last = False
        while not is_last:
            text, is_last = await self._engine.next_text(request_id)
            if generation.is_streaming:
                event = chunk_of(generation, request_id, text, last=is_last)
                write_event(transport, event, last=is_last)
            else:
                whole.append(text)
        if not generation.is_streaming:
            answered = completion_of(
                generation, request_id, "".join(whole), truth.prompt_token_count
            )
            _write_json(transport, 200, answered)


def _write_json(transport: asyncio.WriteTransport, status: int, content: dict[str, Any]) -> None:
    write_whole(transport, status, json.dumps(content).encode())


def _error(message: str) -> dict[str, Any]:
    return {"error": {"message": message, "type": "invalid_request_error", "code": 400}}
