"""Run the gateway's HAProxy where its instance and Docker's resolver are played: the one is slow, the other fails.

Needs a network namespace of its own. Prints a JSON object: the status of a request in each phase.
"""

import contextlib
import http.client
import json
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

RUN = Path("/run/haproxy")
INSTANCE = "127.0.0.2"
ADDRESS, NO_SUCH_NAME = 0, 3
# With three tries a lookup each, more than any short patience survives.
QUERIES = 16
# Longer than a server that has others beside it may take for a health check.
SLOW = 2.2
# Two such checks take a server out, and each color has one.
CHECKS = 4


class Instance(BaseHTTPRequestHandler):
    """An instance that is always ready, and says so after a while."""

    seconds = 0.0
    slow_answers = 0

    def do_GET(self) -> None:  # The name is the base class's.
        if self.seconds:
            time.sleep(self.seconds)
            Instance.slow_answers += 1
        self.send_response(200)
        self.send_header("Content-Length", "0")
        self.end_headers()

    def log_message(self, *_: object) -> None:
        """Say nothing."""


class Resolver:
    """Docker's resolver, where HAProxy looks for it."""

    def __init__(self) -> None:
        self.code: int | None = ADDRESS
        self.asked = 0
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.bind(("127.0.0.11", 53))
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        while True:
            query, client = self._socket.recvfrom(4096)
            self.asked += 1
            if self.code is not None:
                self._socket.sendto(self._answer(query, self.code), client)

    @staticmethod
    def _answer(query: bytes, code: int) -> bytes:
        question = query[12 : query.index(b"\0", 12) + 5]
        # HAProxy asks for an IPv6 address too, and there is none.
        found = code == ADDRESS and question.endswith(b"\0\1\0\1")
        record = b"\xc0\x0c\0\1\0\1\0\0\0\x0a\0\4" + socket.inet_aton(INSTANCE) if found else b""
        return query[:2] + bytes((0x81, 0x80 | code)) + b"\0\1" + bytes((0, found)) + b"\0\0\0\0" + question + record


def status() -> int:
    """Return what the gateway answers, 0 while it does not."""
    connection = http.client.HTTPConnection("127.0.0.1", 8080, timeout=10)
    try:
        connection.request("GET", "/health/ready")
        return connection.getresponse().status
    except OSError:
        return 0
    finally:
        connection.close()


def tell(text: str) -> str:
    """Give the gateway a command at its admin socket; return what it says, '' while nobody is there."""
    with contextlib.suppress(OSError), socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(RUN / "admin.sock"))
        connection.sendall(f"{text}\n".encode())
        return connection.makefile().read()
    return ""


def worker() -> str:
    """Return the line that names the process that answers."""
    return next((line for line in tell("show info").splitlines() if line.startswith("Pid: ")), "")


def wait(until: Callable[[], bool]) -> None:
    """Wait, but not for ever."""
    deadline = time.monotonic() + 60
    while not until() and time.monotonic() < deadline:
        time.sleep(0.05)


def main() -> None:
    """Play the phases."""
    threading.Thread(target=ThreadingHTTPServer((INSTANCE, 8000), Instance).serve_forever, daemon=True).start()
    resolver = Resolver()
    haproxy = subprocess.Popen(["haproxy", "-W", "-f", "/etc/haproxy/conf/haproxy.cfg"], stdout=subprocess.DEVNULL)
    found = {}
    wait(lambda: status() == 200)
    found["answering"] = status()
    Instance.seconds = SLOW
    wait(lambda: Instance.slow_answers >= CHECKS)
    found["slow"] = status()
    Instance.seconds = 0
    resolver.code, asked = None, resolver.asked
    wait(lambda: resolver.asked - asked > QUERIES)
    found["silent"] = status()
    # As the role does it when the configuration is another one.
    (RUN / "servers.state").write_text(tell("show servers state"))
    former = worker()
    haproxy.send_signal(signal.SIGUSR2)
    wait(lambda: worker() not in ("", former))
    found["reloaded"] = status()
    resolver.code = NO_SUCH_NAME
    wait(lambda: status() != 200)
    found["no such name"] = status()
    haproxy.kill()
    print(json.dumps(found))


if __name__ == "__main__":
    main()
