"""What the events of a streamed chat or completion say: text, the end, token counts, an error.

The fields are those of OpenAI's streaming API
(https://platform.openai.com/docs/api-reference/chat-streaming), with vLLM's ``reasoning`` beside.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any, Final

from profiler.load.failures import Failure, RequestFailed

DONE: Final = b"[DONE]"
# Where a chunk of a chat keeps what the model wrote; any of them makes it a token.
_CHAT_TEXTS: Final = ("content", "reasoning_content", "reasoning", "tool_calls")
_DETAIL_CHARS: Final = 200


@dataclass(frozen=True, slots=True)
class Chunk:
    """One event; the token counts are None where the server did not say."""

    has_text: bool
    is_last: bool
    prompt_tokens: int | None = None
    output_tokens: int | None = None


def read_chunk(data: bytes) -> Chunk:
    """Read one event's data.

    Raises:
        RequestFailed: it is no chunk, or it reports an error of the server.
    """
    try:
        fields = json.loads(data)
    except (ValueError, RecursionError) as error:
        raise _malformed("no JSON", data) from error
    if not isinstance(fields, dict):
        raise _malformed("no JSON object", data)
    if fields.get("error"):
        raise RequestFailed(Failure.ERROR_EVENT, str(fields["error"])[:_DETAIL_CHARS])
    choices = fields.get("choices")
    if not isinstance(choices, list) or not all(isinstance(one, dict) for one in choices):
        raise _malformed("no choices", data)
    usage = fields.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    return Chunk(
        has_text=any(_has_text(choice) for choice in choices),
        is_last=any(choice.get("finish_reason") is not None for choice in choices),
        prompt_tokens=_count(usage.get("prompt_tokens")),
        output_tokens=_count(usage.get("completion_tokens")),
    )


def _has_text(choice: dict[str, Any]) -> bool:
    if choice.get("text"):
        return True
    delta = choice.get("delta")
    return isinstance(delta, dict) and any(delta.get(name) for name in _CHAT_TEXTS)


def _count(value: object) -> int | None:
    return value if type(value) is int and value >= 0 else None


def _malformed(what: str, data: bytes) -> RequestFailed:
    start = data[:_DETAIL_CHARS].decode("utf-8", "replace")
    return RequestFailed(Failure.MALFORMED, f"{what}: {start}")
