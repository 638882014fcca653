"""The container's health check: exit 0 when the service is ready, else 1. Only the standard library, so it is quick."""

import http.client
import os
import sys


def main() -> int:
    """Ask /health/ready once and report what it said."""
    # Connecting to the wildcard address reaches this machine too.
    host = os.environ.get("API_HOST") or "127.0.0.1"
    connection = http.client.HTTPConnection(host, int(os.environ.get("API_PORT") or 8000), timeout=4)
    try:
        connection.request("GET", "/health/ready")
        answer = connection.getresponse()
        body = answer.read(2048).decode(errors="replace")
    except OSError as error:
        body, healthy = f"no answer: {error}", False
    else:
        healthy = answer.status == http.HTTPStatus.OK
    sys.stdout.write(body + "\n")
    return 0 if healthy else 1


if __name__ == "__main__":
    sys.exit(main())
