"""The clients that people have, as they come: all get the same answer, from the instance and through the gateway."""

from __future__ import annotations

import json
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import MODEL, NAME
from tests.integration.support.edge import Edge
from tests.integration.support.load import post
from tests.integration.support.playbooks import free_port

pytestmark = pytest.mark.trial

EDGE = f"{NAME}-clients"
CLIENTS = Path(__file__).parent / "support" / "clients"
NODE = ("node", CLIENTS / "upload.mjs")
PYTHON = ("/usr/bin/python3", CLIENTS / "upload.py")
CURL = ("curl", "--silent", "--show-error")
# The URL and the file come at the end, or where they are named.
WAYS: dict[str, tuple[object, ...]] = {
    "curl -F": (*CURL, "--form", "file=@{file}", "{url}"),
    "curl -F with a type": (*CURL, "--form", "file=@{file};type=image/jpeg", "{url}"),
    "curl --data-binary": (*CURL, "--data-binary", "@{file}", "{url}"),
    "curl -T": (*CURL, "--request", "POST", "--upload-file", "{file}", "{url}"),
    "curl chunked": (*CURL, "--header", "Transfer-Encoding: chunked", "--data-binary", "@{file}", "{url}"),
    "curl that waits to be told": (*CURL, "--header", "Expect: 100-continue", "--data-binary", "@{file}", "{url}"),
    "curl --http2": (*CURL, "--http2", "--form", "file=@{file}", "{url}"),
    "curl --http2, a body": (*CURL, "--http2", "--data-binary", "@{file}", "{url}"),
    "curl --http1.0": (*CURL, "--http1.0", "--data-binary", "@{file}", "{url}"),
    "curl --compressed": (*CURL, "--compressed", "--form", "file=@{file}", "{url}"),
    "wget": ("wget", "--quiet", "--output-document=-", "--post-file={file}", "{url}"),
    "wget as Debian's own": ("wget", "--quiet", "--output-document=-", "--method=POST", "--body-file={file}", "{url}"),
    **{f"Node {way}": (*NODE, way, "{url}", "{file}") for way in (
        "fetch a form", "fetch a body", "fetch a stream", "axios a form", "axios a body")},
    **{f"Python {way}": (*PYTHON, way, "{url}", "{file}") for way in (
        "requests a form", "requests a body", "requests a stream", "httpx a form", "httpx a body", "httpx a stream",
        "aiohttp a form", "aiohttp a body", "urllib a body")},
    **{f"Java {version}": ("java", CLIENTS / "Upload.java", version, "{url}", "{file}") for version in (
        "HTTP_2", "HTTP_1_1")},
}  # fmt: skip
SAME = ("predicted_class", "confidence", "top_5_predictions")


@pytest.fixture(scope="module")
def ports(tmp_path_factory: pytest.TempPathFactory, images: dict[str, str], models: Path) -> Iterator[dict[str, int]]:
    """Where the instance and the gateway listen."""
    port = free_port()
    edge = Edge(tmp_path_factory.mktemp("clients"), EDGE, images["gateway"], "/health/ready")
    edge.start(
        f"--user={os.getuid()}:{os.getgid()}", "--read-only", f"--publish=127.0.0.1:{port}:8000",
        f"--volume={models}:/models:ro", f"--env=API_BUNDLE_PATH=/models/{MODEL}/A", images["runtime"], seconds=90,
    )  # fmt: skip
    yield {"instance": port, "gateway": edge.port}
    edge.remove()


@pytest.fixture(scope="module")
def expected(ports: dict[str, int], photograph: Path) -> dict[str, Any]:
    """What the plainest of clients is told."""
    status, answer = post(ports["instance"], photograph.read_bytes())
    assert status == 200
    return {key: answer[key] for key in SAME}


@pytest.mark.parametrize("behind", ["instance", "gateway"])
@pytest.mark.parametrize("way", WAYS)
def test_every_client_gets_the_same_answer(
    way: str, behind: str, ports: dict[str, int], photograph: Path, expected: dict[str, Any]
) -> None:
    known = {"url": f"http://127.0.0.1:{ports[behind]}/api/v1/predict", "file": photograph}
    words = [str(word).format(**known) for word in WAYS[way]]
    # Where Debian's packages lie, for a Node that is somebody else's.
    environment = {**os.environ, "NODE_PATH": "/usr/share/nodejs"}
    done = subprocess.run(words, capture_output=True, text=True, timeout=120, check=False, env=environment)
    assert done.returncode == 0, done.stderr
    answer = json.loads(done.stdout)
    assert {key: answer.get(key, answer) for key in SAME} == expected
