"""The server that is asked: its base URL, its model, and the key that it wants."""

from __future__ import annotations

import os
from dataclasses import dataclass
from urllib.parse import urlsplit

from collectors.errors import CputaxError, ExitCode


class UrlInvalid(CputaxError):
    """The address is none of an HTTP server."""

    slug = "url-invalid"
    exit_code = ExitCode.USAGE


class ApiKeyMissing(CputaxError):
    """The variable that should hold the API key does not."""

    slug = "api-key-missing"
    exit_code = ExitCode.USAGE


class ServerRefuses(CputaxError):
    """The server is not there, or answers otherwise than an OpenAI-compatible server does."""

    slug = "server-refuses"
    exit_code = ExitCode.TARGET


@dataclass(frozen=True, slots=True)
class Endpoint:
    """An OpenAI-compatible server.

    ``url`` with or without the final ``/v1``. ``api_key_env`` names the environment variable that
    holds the key; the key itself is never kept.

    Raises:
        UrlInvalid: ``url`` is no http or https address.
    """

    url: str
    model: str | None = None  # None: the server has a default
    api_key_env: str | None = None

    def __post_init__(self) -> None:
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise UrlInvalid(
                f"{self.url!r} is no address of a server",
                "give its base URL: --url http://127.0.0.1:8000",
            )

    def at(self, path: str) -> str:
        """Return the full address of ``path``, which begins with a slash."""
        return self.url.rstrip("/").removesuffix("/v1") + path

    def headers(self) -> dict[str, str]:
        """Return what every request to it carries.

        Raises:
            ApiKeyMissing: the variable that should hold the key is not set.
        """
        # A compressed stream would arrive in the compressor's chunks, not as the server wrote it.
        headers = {"Content-Type": "application/json", "Accept-Encoding": "identity"}
        if self.api_key_env is not None:
            key = os.environ.get(self.api_key_env)
            if not key:
                raise ApiKeyMissing(
                    f"the environment variable {self.api_key_env} holds no API key",
                    f"export {self.api_key_env}=... or leave --api-key-env out",
                )
            headers["Authorization"] = f"Bearer {key}"
        return headers
