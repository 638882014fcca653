"""A signing key is kept only where it is the vendor's, and hosts need no gpg to tell."""

from __future__ import annotations

import base64
import functools
import http.server
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.signing_key import KeyUnreadableError, primary_fingerprints
from ansible_collections.gpu_hosts.timm.plugins.modules import signing_key
from tests.unit.ansible.module_run import run_module

FILE = Path(__file__).parent / "fixtures/keys/vendor.asc"
# As gpg prints it.
FINGERPRINT = "7F62FA068AEDCE6713A2913013E8E34C35E5C529"


def binary() -> bytes:
    return base64.b64decode("".join(FILE.read_text(encoding="utf-8").splitlines()[2:-2]))


class TestFingerprint:
    def test_of_an_armored_and_of_a_binary_key(self) -> None:
        assert primary_fingerprints(FILE.read_bytes()) == primary_fingerprints(binary()) == [FINGERPRINT]

    def test_every_primary_key_of_a_file_is_named(self) -> None:
        assert primary_fingerprints(binary() + binary()) == [FINGERPRINT, FINGERPRINT]
        assert primary_fingerprints(FILE.read_bytes() * 2) == [FINGERPRINT, FINGERPRINT]

    @pytest.mark.parametrize(
        "content", [b"", b"<html>Please sign in</html>", b"-----BEGIN PGP MESSAGE-----\n\nAA==\n-----END"]
    )
    def test_what_is_no_key_is_refused(self, content: bytes) -> None:
        with pytest.raises(KeyUnreadableError):
            primary_fingerprints(content)

    @pytest.mark.parametrize("length", [1, 2, 20, 60, 200])
    def test_a_key_that_ends_early_is_refused(self, length: int) -> None:
        with pytest.raises(KeyUnreadableError):
            primary_fingerprints(binary()[:length])


@pytest.fixture
def address() -> Iterator[str]:
    """The key, on a server."""
    handler = functools.partial(http.server.SimpleHTTPRequestHandler, directory=str(FILE.parent))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield f"http://127.0.0.1:{server.server_port}/vendor.asc"
        server.shutdown()


def run(target: Path, address: str, *fingerprints: str, check: bool = False) -> dict[str, Any]:
    """What the module answers."""
    return run_module(signing_key, check=check, url=address, dest=str(target), fingerprints=list(fingerprints))


def test_the_right_key_is_kept_and_not_fetched_again(tmp_path: Path, address: str) -> None:
    target = tmp_path / "keyrings/vendor.asc"
    spaced = " ".join(FINGERPRINT[place : place + 4] for place in range(0, 40, 4)).lower()
    assert run(target, address, "0" * 40, spaced)["changed"] is True
    assert target.read_bytes() == FILE.read_bytes()
    assert target.stat().st_mode & 0o777 == 0o644
    assert run(target, address.replace("vendor", "gone"), FINGERPRINT)["changed"] is False


def test_another_key_is_refused_and_not_kept(tmp_path: Path, address: str) -> None:
    target = tmp_path / "vendor.asc"
    answer = run(target, address, "0" * 40)
    assert answer["failed"]
    assert f"its fingerprint is {FINGERPRINT}, expected {'0' * 40}" in str(answer["msg"])
    assert not target.exists()


def test_a_preview_looks_at_the_key_and_keeps_nothing(tmp_path: Path, address: str) -> None:
    answer = run(tmp_path / "vendor.asc", address, FINGERPRINT, check=True)
    assert (answer["changed"], answer["fingerprints"]) == (True, [FINGERPRINT])
    assert list(tmp_path.iterdir()) == []


def test_what_is_there_and_is_another_key_is_replaced(tmp_path: Path, address: str) -> None:
    target = tmp_path / "vendor.asc"
    target.write_text("<html>Please sign in</html>")
    assert run(target, address, FINGERPRINT)["changed"] is True
    assert target.read_bytes() == FILE.read_bytes()


@pytest.mark.parametrize(
    ("file", "said"), [("gone.asc", "cannot be fetched: "), ("", "is no signing key: .* Is a proxy")]
)
def test_what_is_no_key_says_why(tmp_path: Path, address: str, file: str, said: str) -> None:
    answer = run(tmp_path / "vendor.asc", address.replace("vendor.asc", file), FINGERPRINT)
    assert answer["failed"]
    assert re.search(said, answer["msg"])
    assert list(tmp_path.iterdir()) == []
