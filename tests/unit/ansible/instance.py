"""An instance as the modules on a host meet it: a real HTTP server with the answers that a test gives it."""

from __future__ import annotations

import contextlib
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

RELEASE = "aaaaaaaaaaaa"
# Status and body, by path.
Answers = dict[str, tuple[int, dict[str, Any]]]


class Handler(BaseHTTPRequestHandler):
    """Answers with what is in `answers`."""

    answers: Answers

    def respond(self) -> None:
        """Read a request and answer it."""
        self.rfile.read(int(self.headers.get("Content-Length") or 0))
        status, body = self.answers[self.path]
        content = json.dumps(body).encode()
        self.send_response(status)
        self.send_header("Content-Length", str(len(content)))
        self.send_header("X-Release-ID", RELEASE)
        self.send_header("X-Model-Version", "2")
        self.end_headers()
        self.wfile.write(content)

    def log_message(self, *_: Any) -> None:
        """Keep the test's output quiet."""


@contextlib.contextmanager
def serving(answers: Answers) -> Iterator[int]:
    """Serve these answers, which may change meanwhile, on the port that this returns."""
    methods = {"answers": answers, "do_GET": Handler.respond, "do_POST": Handler.respond}
    with ThreadingHTTPServer(("127.0.0.1", 0), type("Instance", (Handler,), methods)) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield server.server_port
        server.shutdown()
