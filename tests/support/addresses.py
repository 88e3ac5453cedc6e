"""Addresses on loopback that take what is sent to them: a real HTTP server that remembers."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread
from typing import Any


@dataclass
class Request:
    """One that came."""

    path: str
    headers: dict[str, str]
    body: str


@dataclass
class Server:
    """Takes what is sent to it; `answers` has what it says instead of 200, by path."""

    port: int
    requests: list[Request] = field(default_factory=list)
    answers: dict[str, int] = field(default_factory=dict)

    def at(self, path: str) -> list[Request]:
        """What came to a path."""
        return [request for request in self.requests if request.path == path]

    def messages(self, path: str) -> list[dict[str, Any]]:
        """Its bodies, read."""
        return [json.loads(request.body) for request in self.at(path)]


@contextmanager
def listening() -> Iterator[Server]:
    """A server, for as long as the context lasts."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["content-length"])).decode()
            told.requests.append(Request(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
            status = told.answers.get(self.path, 200)
            self.send_response(status)
            if status in (302, 307):
                self.send_header("location", "/elsewhere")
            self.send_header("content-length", "0")
            self.end_headers()

        def log_message(self, format: str, *args: Any) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        told = Server(http.server_address[1])
        thread = Thread(target=http.serve_forever, kwargs={"poll_interval": 0.02})
        thread.start()
        yield told
        http.shutdown()
        thread.join(10)
