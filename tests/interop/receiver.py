"""An endpoint for deliveries: keeps what comes, and answers as it is told."""

from __future__ import annotations

import asyncio
import json
import threading
from dataclasses import dataclass
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Callable


@dataclass(frozen=True)
class Delivery:
    path: str
    headers: dict[str, str]
    body: bytes

    @property
    def envelope(self) -> Any:
        return json.loads(self.body)

    @property
    def event_id(self) -> str:
        return self.envelope["data"]["id"]


class Receiver:
    """Listens on a free port of the loopback address; every path is an endpoint of its own."""

    def __init__(self) -> None:
        self._came: list[Delivery] = []
        self._changed = threading.Condition()
        self._answers: dict[str, int] = {}
        self._gates: dict[str, threading.Event] = {}
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:  # noqa: N802: the name that http.server wants
                body = self.rfile.read(int(self.headers.get("content-length", 0)))
                status = receiver._took(Delivery(self.path, {k.lower(): v for k, v in self.headers.items()}, body))
                self.send_response(status)
                self.send_header("content-length", "0")
                self.end_headers()

            def log_message(self, *_: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        threading.Thread(target=self._server.serve_forever, daemon=True).start()

    def url(self, path: str) -> str:
        return f"http://127.0.0.1:{self._server.server_port}{path}"

    def answer(self, path: str, status: int) -> None:
        """From now on `path` answers `status`; 200 if never told."""
        self._answers[path] = status

    def hold(self, path: str) -> threading.Event:
        """From now on `path` answers only once the returned event is set."""
        self._gates[path] = threading.Event()
        return self._gates[path]

    def came(self, path: str) -> list[Delivery]:
        with self._changed:
            return [delivery for delivery in self._came if delivery.path == path]

    async def wait(self, path: str, enough: Callable[[list[Delivery]], bool], seconds: float = 15.0) -> list[Delivery]:
        """Waits until what came to `path` is enough, or the time is up; returns what came."""

        def block() -> None:
            with self._changed:
                self._changed.wait_for(lambda: enough([d for d in self._came if d.path == path]), seconds)

        await asyncio.to_thread(block)
        return self.came(path)

    def close(self) -> None:
        for gate in self._gates.values():
            gate.set()
        self._server.shutdown()

    def _took(self, delivery: Delivery) -> int:
        with self._changed:
            self._came.append(delivery)
            self._changed.notify_all()
        gate = self._gates.get(delivery.path)
        if gate is not None:
            gate.wait(30)
        return self._answers.get(delivery.path, 200)
