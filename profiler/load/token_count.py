"""Who counts the tokens of a prompt: a tokenizer file, the server's /tokenize, or its usage.

All count what the model is given, with the chat template; the file knows no template, so with it
the tokens of a chat's template come on top.
"""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any, Final

import aiohttp

from collectors.errors import CputaxError, ExitCode
from profiler.load.endpoint import Endpoint, ServerRefuses
from profiler.load.scenario import Kind
from profiler.load.words import CountTokens, PromptInexact

_TIMEOUT_S: Final = 120.0  # of one question; the longest is a prefill of the longest prompt
_DETAIL_CHARS: Final = 300


class TokenizerInvalid(CputaxError):
    """The file is no tokenizer."""

    slug = "tokenizer-invalid"
    exit_code = ExitCode.BAD_INPUT


def file_counter(path: Path) -> CountTokens:
    """Return a counter by ``path``: a tokenizer.json, or a directory that has one.

    Raises:
        TokenizerInvalid: the ``tokenizers`` library cannot read it.
    """
    from tokenizers import Tokenizer

    file = path / "tokenizer.json" if path.is_dir() else path
    try:
        tokenizer = Tokenizer.from_file(str(file))
    except Exception as error:  # the library raises nothing more special
        raise TokenizerInvalid(
            f"{file} is no tokenizer: {error}", "give a tokenizer.json, or a model's directory"
        ) from error

    async def count(text: str) -> int:
        return len(tokenizer.encode(text).ids)

    return count


class ServerQuestions:
    """Asks a server about its model and its tokens, before the load. Use ``async with``."""

    def __init__(self, endpoint: Endpoint) -> None:
        self._endpoint = endpoint
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> ServerQuestions:
        self._session = aiohttp.ClientSession(
            timeout=aiohttp.ClientTimeout(total=_TIMEOUT_S), headers=self._endpoint.headers()
        )
        return self

    async def __aexit__(self, *_error: object) -> None:
        if self._session is not None:
            await self._session.close()

    async def model(self) -> str | None:
        """Return the first model that the server lists; None when it lists none.

        Raises:
            ServerRefuses: it is not there.
        """
        status, answer = await self._ask("GET", "/v1/models", None)
        models = answer.get("data")
        if status != 200 or not isinstance(models, list) or not models:
            return None
        name = models[0].get("id") if isinstance(models[0], dict) else None
        return name if isinstance(name, str) else None

    async def counter(self, kind: Kind) -> CountTokens:
        """Return the best counter that the server has: /tokenize as vLLM has it, or usage.

        Raises:
            ServerRefuses: it is not there.
        """
        _, answer = await self._ask("POST", "/tokenize", self._fields(kind, "Say"))
        has_tokenize = type(answer.get("count")) is int
        count = self._count_by_tokenize if has_tokenize else self._count_by_usage
        return partial(count, kind)

    async def _count_by_tokenize(self, kind: Kind, text: str) -> int:
        fields = self._fields(kind, text)
        if kind is Kind.CHAT:
            fields["add_generation_prompt"] = True
        status, answer = await self._ask("POST", "/tokenize", fields)
        return _number(status, answer, answer.get("count"), "/tokenize")

    async def _count_by_usage(self, kind: Kind, text: str) -> int:
        fields = self._fields(kind, text) | {"max_tokens": 1, "stream": False}
        status, answer = await self._ask("POST", kind.path, fields)
        usage = answer.get("usage")
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return _number(status, answer, count, kind.path)

    def _fields(self, kind: Kind, text: str) -> dict[str, Any]:
        fields: dict[str, Any] = {} if self._endpoint.model is None else {
            "model": self._endpoint.model
        }  # fmt: skip
        if kind is Kind.CHAT:
            return fields | {"messages": [{"role": "user", "content": text}]}
        return fields | {"prompt": text}

    async def _ask(
        self, method: str, path: str, fields: dict[str, Any] | None
    ) -> tuple[int, dict[str, Any]]:
        """Return the status and the JSON object of an answer; an empty one if it is none."""
        assert self._session is not None, "use it inside `async with`"
        url = self._endpoint.at(path)
        try:
            async with self._session.request(method, url, json=fields) as response:
                try:
                    answer = await response.json(content_type=None)
                except ValueError:
                    answer = None
                return response.status, answer if isinstance(answer, dict) else {}
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            raise ServerRefuses(
                f"no answer from {url}: {error or type(error).__name__}",
                "check --url; is the server up? cputax ps lists those on this machine",
            ) from error


def _number(status: int, answer: dict[str, Any], value: object, path: str) -> int:
    if type(value) is int:
        return value
    if status == 200:
        raise PromptInexact(f"the server's {path} does not count tokens")
    detail = str(answer.get("error") or answer.get("message") or "")[:_DETAIL_CHARS]
    raise ServerRefuses(
        f"the server answered {path} with HTTP {status}: {detail}",
        "look at its log; is the prompt longer than its context?",
    )
