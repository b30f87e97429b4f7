"""The OpenAI-compatible surface: what a request may say, and the chunks it gets back."""

from __future__ import annotations

import json
import time
from dataclasses import dataclass
from typing import Any, Final

from profiler.oracle.model_card import CONTEXT_TOKENS, MODEL_NAME
from profiler.oracle.stages import Stage
from profiler.oracle.truth.ledger import staged

_MAX_TOKENS_DEFAULT: Final = 16


class InvalidRequest(Exception):
    """The client's mistake; the message goes back to it with status 400."""


@dataclass(frozen=True, slots=True)
class GenerationRequest:
    """A valid request; ``messages`` are (role, text) pairs, a plain prompt has one."""

    is_chat: bool
    messages: list[tuple[str, str]]
    max_tokens: int
    is_streaming: bool


@staged(Stage.VALIDATION)
def validate(body: bytes, *, is_chat: bool) -> GenerationRequest:
    """Parse and check a request body. Raises `InvalidRequest`."""
    try:
        fields = json.loads(body)
    except ValueError as error:
        raise InvalidRequest("the body is not valid JSON") from error
    if not isinstance(fields, dict):
        raise InvalidRequest("the body must be a JSON object")
    if fields.get("model", MODEL_NAME) != MODEL_NAME:
        raise InvalidRequest(f"the only model here is {MODEL_NAME}")
    max_tokens = fields.get("max_completion_tokens", fields.get("max_tokens", _MAX_TOKENS_DEFAULT))
    if type(max_tokens) is not int or not 1 <= max_tokens < CONTEXT_TOKENS:
        raise InvalidRequest(f"max_tokens must be a whole number from 1 to {CONTEXT_TOKENS - 1}")
    is_streaming = fields.get("stream", False)
    if type(is_streaming) is not bool:
        raise InvalidRequest("stream must be true or false")
    messages = _chat_messages(fields) if is_chat else [("user", _prompt(fields))]
    return GenerationRequest(is_chat, messages, max_tokens, is_streaming)


def _prompt(fields: dict[str, Any]) -> str:
    prompt = fields.get("prompt")
    if not isinstance(prompt, str) or not prompt:
        raise InvalidRequest("prompt must be a non-empty string")
    return prompt


def _chat_messages(fields: dict[str, Any]) -> list[tuple[str, str]]:
    messages = fields.get("messages")
    if not isinstance(messages, list) or not messages:
        raise InvalidRequest("messages must be a non-empty list")
    pairs = []
    for message in messages:
        role = message.get("role") if isinstance(message, dict) else None
        content = message.get("content") if isinstance(message, dict) else None
        if not isinstance(role, str) or not isinstance(content, str):
            raise InvalidRequest("every message needs a role and a content, both strings")
        pairs.append((role, content))
    return pairs


@staged(Stage.CHAT_TEMPLATE)
def apply_chat_template(request: GenerationRequest) -> str:
    """The text that the model sees."""
    if not request.is_chat:
        return request.messages[0][1]
    turns = [f"<|{role}|>\n{content}\n" for role, content in request.messages]
    return "".join([*turns, "<|assistant|>\n"])


def request_name(client_id: str, *, is_chat: bool) -> str:
    """What vLLM calls a request in its traces, by the X-Request-Id that the client sent."""
    return f"chatcmpl-{client_id}" if is_chat else f"cmpl-{client_id}-0"


def chunk_of(
    request: GenerationRequest, request_id: int, text: str, *, last: bool
) -> dict[str, Any]:
    """One streamed chunk."""
    finish_reason = "length" if last else None
    choice: dict[str, Any] = {"index": 0, "finish_reason": finish_reason}
    choice |= {"delta": {"content": text}} if request.is_chat else {"text": text}
    return _envelope(request, request_id, choice, ".chunk" if request.is_chat else "")


def completion_of(
    request: GenerationRequest, request_id: int, text: str, prompt_count: int
) -> dict[str, Any]:
    """A whole answer."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "length"}
    message = {"role": "assistant", "content": text}
    choice |= {"message": message} if request.is_chat else {"text": text}
    usage = {
        "prompt_tokens": prompt_count,
        "completion_tokens": request.max_tokens,
        "total_tokens": prompt_count + request.max_tokens,
    }
    return _envelope(request, request_id, choice, "") | {"usage": usage}


def _envelope(
    request: GenerationRequest, request_id: int, choice: dict[str, Any], suffix: str
) -> dict[str, Any]:
    kind = "chat.completion" if request.is_chat else "text_completion"
    prefix = "chatcmpl" if request.is_chat else "cmpl"
    return {
        "id": f"{prefix}-{request_id}",
        "object": kind + suffix,
        "created": int(time.time()),
        "model": MODEL_NAME,
        "choices": [choice],
    }
