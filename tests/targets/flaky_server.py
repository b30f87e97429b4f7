"""An OpenAI-compatible server that fails in a way of the client's choice.

The first part of the path says how: ``POST /hang/v1/chat/completions`` is never answered. Says its
port on the pipe HELLO_FD; ends when stdin closes. ``--port`` takes a given one.
"""

import asyncio
import json
import os
import socket
import struct
import sys

TOKENS = 4
TEMPLATE_TOKENS = 3
CONTEXT_TOKENS = 500
HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nTransfer-Encoding: chunked\r\n\r\n"


def chunk(data):
    return b"%x\r\n%b\r\n" % (len(data), data)


def event(fields):
    return b"data: %b\n\n" % json.dumps(fields).encode()


def token(finish_reason=None):
    return event({"choices": [{"delta": {"content": "so "}, "finish_reason": finish_reason}]})


def prompt_tokens(body):
    text = body["prompt"] if "prompt" in body else body["messages"][0]["content"]
    return len(text.split()) + TEMPLATE_TOKENS


def usage(count):
    counts = {"prompt_tokens": count, "completion_tokens": TOKENS}
    return event({"choices": [], "usage": counts})


def whole(status, body):
    reason = b"HTTP/1.1 %d Whatever\r\nContent-Type: application/json\r\n" % status
    return b"%bContent-Length: %d\r\n\r\n%b" % (reason, len(body), body)


class Connection:
    """One connection; each of its ``how`` methods answers a request in its way."""

    request_ids = []  # noqa: RUF012

    def __init__(self, reader, writer):
        self.reader = reader
        self.writer = writer
        self.headers = {}

    async def serve(self):
        try:
            while first := await self.reader.readexactly(1):
                if first == b"\x16":  # a TLS handshake
                    self.write(whole(400, b"{}"))
                    return
                head = first + await self.reader.readuntil(b"\r\n\r\n")
                lines = head.decode().split("\r\n")
                how, _, path = lines[0].split(" ")[1].lstrip("/").partition("/")
                named = (line.split(": ", 1) for line in lines[1:] if line)
                self.headers = {name.lower(): value for name, value in named}
                size = int(self.headers.get("content-length", 0))
                body = json.loads(await self.reader.readexactly(size) or b"null")
                await getattr(self, how.replace("-", "_"))("/" + path, body)
        except (asyncio.IncompleteReadError, ConnectionError):
            pass
        finally:
            self.writer.close()

    def write(self, data):
        self.writer.write(data)

    async def ok(self, path, body):
        if path == "/v1/models":
            self.write(whole(200, b'{"data": [{"id": "flaky"}]}'))
        elif path == "/seen":
            self.write(whole(200, json.dumps(self.request_ids).encode()))
        elif path == "/tokenize":
            self.write(whole(200, json.dumps({"count": prompt_tokens(body)}).encode()))
        else:
            self.request_ids.append(self.headers["x-request-id"])
            self.write(HEAD)
            for _ in range(TOKENS):
                self.write(chunk(token()))
                await self.writer.drain()
            end = token("length") + usage(prompt_tokens(body)) + b"data: [DONE]\n\n"
            self.write(chunk(end) + b"0\r\n\r\n")

    async def no_tokenize(self, path, body):
        if path == "/tokenize":
            self.write(whole(404, b"{}"))
        elif body.get("stream"):
            await self.ok(path, body)
        elif prompt_tokens(body) > CONTEXT_TOKENS:
            self.write(whole(400, b'{"error": {"message": "longer than the context"}}'))
        else:
            counts = {"usage": {"prompt_tokens": prompt_tokens(body)}}
            self.write(whole(200, json.dumps(counts).encode()))

    async def no_count(self, path, body):
        if path == "/tokenize" or not body.get("stream"):
            self.write(whole(200, b"{}"))
        else:
            await self.ok(path, body)

    async def with_key(self, path, body):
        if self.headers.get("authorization") == "Bearer sk-Secret":
            await self.ok(path, body)
        else:
            self.write(whole(401, b"{}"))

    async def error(self, _path, _body):
        self.write(whole(500, b'{"error": {"message": "out of order"}}'))

    async def overload(self, _path, _body):
        self.write(whole(429, b'{"error": {"message": "too many"}}'))

    async def hang(self, _path, _body):
        await self.reader.read(1)  # until the client has had enough

    async def hang_mid_stream(self, path, body):
        self.write(HEAD + chunk(token()))
        await self.hang(path, body)

    async def json(self, _path, _body):
        self.write(whole(200, b'{"choices": []}'))

    async def malformed(self, _path, _body):
        self.write(HEAD + chunk(token()) + chunk(b"data: {not json\n\n"))

    async def error_event(self, _path, _body):
        self.write(HEAD + chunk(token()) + chunk(event({"error": {"message": "lost"}})))

    async def unfinished(self, _path, _body):
        self.write(HEAD + chunk(token()) + b"0\r\n\r\n")

    async def close_mid_stream(self, _path, _body):
        self.write(HEAD + chunk(token()))
        await self.writer.drain()
        raise ConnectionError

    async def close_early(self, _path, _body):
        raise ConnectionError

    async def not_http(self, _path, _body):
        self.write(b"SSH-2.0-something\r\n\r\n")

    async def reset(self, _path, _body):
        # Closing without lingering makes the kernel send RST instead of FIN; socket(7).
        connection = self.writer.get_extra_info("socket")
        connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        raise ConnectionError


async def main():
    port = int(sys.argv[2]) if sys.argv[1:2] == ["--port"] else 0
    listener = socket.create_server(("127.0.0.1", port), backlog=1024)
    # asyncio sets it only for sockets that were made with an explicit protocol number.
    listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    server = await asyncio.start_server(
        lambda reader, writer: Connection(reader, writer).serve(), sock=listener
    )
    with os.fdopen(int(os.environ["HELLO_FD"]), "w") as hello:
        hello.write(json.dumps({"pid": os.getpid(), "port": listener.getsockname()[1]}) + "\n")
    loop = asyncio.get_running_loop()
    ended = asyncio.Event()
    loop.add_reader(sys.stdin.fileno(), lambda: os.read(0, 1) or ended.set())
    await ended.wait()
    server.close()


asyncio.run(main())
