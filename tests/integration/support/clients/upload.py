"""Uploads a picture as Python's users do: python3 upload.py WAY URL FILE; prints the answer."""

from __future__ import annotations

import asyncio
import importlib
import sys
import urllib.request
from collections.abc import Callable
from pathlib import Path

import httpx
import requests

way, url, file = sys.argv[1:]
content = Path(file).read_bytes()
seconds = 60
# Debian's package, which only the trials' machine has.
aiohttp = importlib.import_module("aiohttp")


async def by_aiohttp(body: object) -> str:
    """The answer to what aiohttp makes of a body."""
    async with aiohttp.ClientSession() as session, session.post(url, data=body) as answer:
        return str(await answer.text())


def aiohttp_form() -> object:
    """A form of aiohttp's own."""
    made = aiohttp.FormData()
    made.add_field("file", content, filename="cat.jpg")
    return made


def by_urllib() -> str:
    """The answer to what urllib calls a form that it is not."""
    with urllib.request.urlopen(urllib.request.Request(url, content), timeout=seconds) as answer:
        return str(answer.read().decode())


WAYS: dict[str, Callable[[], str]] = {
    "requests a form": lambda: requests.post(url, files={"file": content}, timeout=seconds).text,
    "requests a body": lambda: requests.post(url, data=content, timeout=seconds).text,
    "requests a stream": lambda: requests.post(url, data=iter([content]), timeout=seconds).text,
    "httpx a form": lambda: httpx.post(url, files={"file": content}, timeout=seconds).text,
    "httpx a body": lambda: httpx.post(url, content=content, timeout=seconds).text,
    "httpx a stream": lambda: httpx.post(url, content=iter([content]), timeout=seconds).text,
    "aiohttp a form": lambda: asyncio.run(by_aiohttp(aiohttp_form())),
    "aiohttp a body": lambda: asyncio.run(by_aiohttp(content)),
    "urllib a body": by_urllib,
}
print(WAYS[way]())
