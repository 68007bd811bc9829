"""A receiver for an `http` handler: takes jobs one by one, and only from your own slimq.

    python receiver.py .slimq/webhook.secret --port 8001

Who knows the address of a receiver can send anything to it. So slimq signs every request by
Standard Webhooks (https://www.standardwebhooks.com/), for which there are libraries in many
languages; this one is of PyPI: `pip install standardwebhooks`. It checks the signature, and
that the request is not older than five minutes.

The status of the answer is what becomes of the job, and its body is kept as the result:

    2xx    OK: done
    4xx    FAILED: done; to send it again would not help
    503    RETRY: slimq sends it again later, and counts no failure
    500    ERROR: slimq sends it again later

GET / tells how many requests were verified, of how many jobs, and how many were refused.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import threading
from contextlib import suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

from standardwebhooks.webhooks import Webhook, WebhookVerificationError

BODY_MAX = 1024 * 1024  # no job has more data


def work(data: bytes) -> str:
    """Do the job, and return its result. This is the part to replace by your own."""
    return hashlib.sha256(data).hexdigest()


class Receiver(ThreadingHTTPServer):
    """Listens on 127.0.0.1. `secret` is the one that slimq signs with."""

    daemon_threads = True
    request_queue_size = 128  # slimq opens up to 32 connections at once

    def __init__(self, port: int, secret: str) -> None:
        super().__init__(("127.0.0.1", port), Request)
        self.webhook = Webhook(secret)
        self.lock = threading.Lock()
        self.verified = self.refused = 0
        self.jobs: set[str] = set()  # a real receiver keeps what it has done in a database


class Request(BaseHTTPRequestHandler):
    """One connection; slimq keeps it open and sends many requests over it."""

    server: Receiver
    protocol_version = "HTTP/1.1"
    disable_nagle_algorithm = True  # an answer is two small packets: do not hold the second
    timeout = 60

    def do_POST(self) -> None:
        length = self.headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > BODY_MAX:
            self.close_connection = True
            self.answer(413, f"say how long the body is, at most {BODY_MAX} bytes")
            return
        data = self.rfile.read(int(length))
        try:
            # Over the bytes as they came: whoever parses first and verifies then is late.
            self.server.webhook.verify(data, dict(self.headers), json_parse=False)
        except (WebhookVerificationError, ValueError) as error:  # ValueError: it is malformed
            with self.server.lock:
                self.server.refused += 1
            self.answer(401, f"not from my slimq: {error}")
            return
        with self.server.lock:
            self.server.verified += 1
            # The same id means the same job again: its first answer may have got lost. This
            # work can be done twice; other work would look here whether it was done before.
            self.server.jobs.add(self.headers["webhook-id"])
        self.answer(200, work(data))

    def do_GET(self) -> None:
        with self.server.lock:
            counts = {
                "verified": self.server.verified,
                "jobs": len(self.server.jobs),
                "refused": self.server.refused,
            }
        self.answer(200, json.dumps(counts))

    def answer(self, status: int, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "text/plain")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *arguments: object) -> None:
        """Say nothing of each request."""


def main() -> None:
    parser = argparse.ArgumentParser(description="Receive jobs of slimq, signature verified.")
    parser.add_argument("secret_file", type=Path, help="webhook.secret in slimq's data folder")
    parser.add_argument("--port", type=int, default=8001, help="0: the system chooses one")
    given = parser.parse_args()
    receiver = Receiver(given.port, given.secret_file.read_text().strip())
    print(f"listening on http://127.0.0.1:{receiver.server_port}/", flush=True)
    with receiver, suppress(KeyboardInterrupt):
        receiver.serve_forever()


if __name__ == "__main__":
    main()
