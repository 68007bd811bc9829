"""A target that scales like a serverless platform, to try `http` handlers on: cold, then small.

    python autoscaled.py --port 8002 --boot 1.5 --idle 2 --room 4

It has no instance until somebody calls. While the first one boots, calls are answered
503 with Retry-After, as a gateway does; when all have as many calls as fit, 429, and one
more instance boots. An instance that had no call for a while is gone.

GET / tells how many calls were answered with which status, and how many instances there
were at most. A real target also checks who calls: see receiver.py.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
import time
from collections import Counter
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

BODY_MAX = 1024 * 1024
WORK_S = 0.02


class Platform(ThreadingHTTPServer):
    def __init__(self, port: int, *, boot_s: float, idle_s: float, room: int, most: int) -> None:
        super().__init__(("127.0.0.1", port), Call)
        self.boot_s, self.idle_s, self.room, self.most = boot_s, idle_s, room, most
        self.lock = threading.Lock()
        self.answers: Counter[int] = Counter()
        self.ready_at: list[float] = []  # of each instance
        self.peak = self.calls = 0
        self.called_at = 0.0

    def enter(self) -> int:
        """Return 200 when there is room for one call more; it must leave() then."""
        with self.lock:
            now = time.monotonic()
            if (
                self.ready_at
                and not self.calls
                and now - max(self.called_at, *self.ready_at) > self.idle_s
            ):
                self.ready_at = []
            self.called_at = now
            ready = sum(at <= now for at in self.ready_at)
            if self.calls < ready * self.room:
                self.calls += 1
                status = 200
            else:
                status = 429 if ready else 503
                if ready == len(self.ready_at) < self.most:
                    self.ready_at.append(now + self.boot_s)
                    self.peak = max(self.peak, len(self.ready_at))
            self.answers[status] += 1
            return status

    def leave(self) -> None:
        with self.lock:
            self.calls -= 1


class Call(BaseHTTPRequestHandler):
    server: Platform
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True
    timeout = 60

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_MAX:
            self.close_connection = True
            self.answer(413, f"say how long the body is, at most {BODY_MAX} bytes")
            return
        data = self.rfile.read(int(length))
        status = self.server.enter()
        if status != 200:
            self.answer(status, "not now", {"Retry-After": "1"})
            return
        time.sleep(WORK_S)
        self.server.leave()  # first: who reads the answer may call again
        self.answer(200, hashlib.sha256(data).hexdigest())

    def do_GET(self) -> None:
        with self.server.lock:
            counts = {"answers": dict(self.server.answers), "instances": self.server.peak}
        self.answer(200, json.dumps(counts))

    def answer(self, status: int, text: str, headers: dict[str, str] | None = None) -> None:
        body = text.encode()
        self.send_response(status)
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of each call."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Behave like a target that is autoscaled.")
    parser.add_argument("--port", type=int, default=8002, help="0: the system chooses one")
    parser.add_argument("--boot", type=float, default=1.5, help="seconds until one is ready")
    parser.add_argument("--idle", type=float, default=2.0, help="seconds until all are gone")
    parser.add_argument("--room", type=int, default=4, help="calls at a time of one instance")
    parser.add_argument("--most", type=int, default=3, help="instances at a time")
    given = parser.parse_args()
    platform = Platform(
        given.port, boot_s=given.boot, idle_s=given.idle, room=given.room, most=given.most
    )
    print(f"listening on http://127.0.0.1:{platform.server_port}/", flush=True)
    with platform, suppress(KeyboardInterrupt):
        platform.serve_forever()


if __name__ == "__main__":
    main()
