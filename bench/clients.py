"""Inside the image: clients that obey `Retry-After`, and clients that upload a byte a second; JSON at the end."""

import argparse
import asyncio
import json
import time
from pathlib import Path
from typing import NamedTuple

import uvloop


class Answer(NamedTuple):
    """What one request got; a connection that broke is status 0."""

    status: int
    seconds: float
    retry_after: float
    after_refusal: bool


async def insistent(port: int, request: bytes, end: float, patience: float, answers: list[Answer]) -> None:
    """Ask again and again; after a 503 only once `Retry-After` is over, or after `patience` when that is shorter."""
    refused = False
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    while time.monotonic() < end:
        began = time.monotonic()
        try:
            writer.write(request)
            status, headers = await _answer(reader)
        except (OSError, asyncio.IncompleteReadError):
            answers.append(Answer(0, time.monotonic() - began, 0, refused))
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
            continue
        if time.monotonic() > end:
            # Not within the time that the answers are counted for.
            break
        retry = float(headers.get("retry-after", 0))
        answers.append(Answer(status, time.monotonic() - began, retry, refused))
        refused = status == 503
        if refused:
            await asyncio.sleep(min(retry, patience))
        if headers.get("connection") == "close":
            writer.close()
            reader, writer = await asyncio.open_connection("127.0.0.1", port)
    writer.close()


async def _answer(reader: asyncio.StreamReader) -> tuple[int, dict[str, str]]:
    head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    headers = {key.lower(): value.strip() for key, _, value in (line.partition(":") for line in head[1:] if line)}
    await reader.readexactly(int(headers.get("content-length", 0)))
    return int(head[0].split()[1]), headers


async def slow(port: int, request: bytes, end: float) -> None:
    """Send a request a byte a second; a server that hangs up is called again."""
    while time.monotonic() < end:
        try:
            _, writer = await asyncio.open_connection("127.0.0.1", port)
            head = request.index(b"\r\n\r\n") + 4
            writer.write(request[:head])
            for position in range(head, len(request)):
                if time.monotonic() > end or writer.is_closing():
                    break
                writer.write(request[position : position + 1])
                await writer.drain()
                await asyncio.sleep(1)
            writer.close()
        except OSError:
            await asyncio.sleep(1)


async def work(options: argparse.Namespace) -> list[Answer]:
    """Run the clients until their time is over."""
    body = Path(options.photograph).read_bytes()
    head = [
        "POST " + options.path + " HTTP/1.1",
        "Host: bench",
        "Content-Type: image/jpeg",
        f"Content-Length: {len(body)}",
    ]
    request = "\r\n".join([*head, "", ""]).encode() + body
    end = time.monotonic() + options.seconds
    answers: list[Answer] = []
    if options.kind == "slow":
        await asyncio.gather(*(slow(options.port, request, end) for _ in range(options.clients)))
    else:
        clients = (insistent(options.port, request, end, options.patience, answers) for _ in range(options.clients))
        await asyncio.gather(*clients)
    return answers


def main() -> None:
    """Read the command line and print every answer."""
    parser = argparse.ArgumentParser()
    parser.add_argument("kind", choices=("insistent", "slow"))
    parser.add_argument("--port", type=int, required=True)
    parser.add_argument("--path", required=True)
    parser.add_argument("--photograph", required=True)
    parser.add_argument("--clients", type=int, required=True)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--patience", type=float, default=3600.0)
    print(json.dumps(uvloop.run(work(parser.parse_args()))))


if __name__ == "__main__":
    main()
