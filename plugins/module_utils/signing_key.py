"""Read the fingerprints of an OpenPGP public key, with the standard library alone: hosts need not have gpg."""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
from collections.abc import Iterator

_PUBLIC_KEY = 6


class KeyUnreadableError(ValueError):
    """The text is no public key, or one that is damaged."""


def primary_fingerprints(content: bytes) -> list[str]:
    """Fingerprints of the primary keys in an armored or binary key file; their subkeys are bound to them."""
    found = []
    for tag, body in _packets(_binary(content)):
        if tag == _PUBLIC_KEY and body[:1] == b"\x04":
            # RFC 4880, section 12.2; hosts in FIPS mode refuse the digest for anything that they call security.
            digest = hashlib.sha1(b"\x99" + len(body).to_bytes(2, "big") + body, usedforsecurity=False)
            found.append(digest.hexdigest().upper())
        elif tag == _PUBLIC_KEY:
            raise KeyUnreadableError(f"a key of version {body[:1].hex() or '?'} is none that this can check")
    if not found:
        raise KeyUnreadableError("there is no public key in it")
    return found


def _binary(content: bytes) -> bytes:
    if b"-----BEGIN" not in content:
        return content
    blocks = re.findall(
        rb"-----BEGIN PGP PUBLIC KEY BLOCK-----\r?\n(?:[^\n]+:[^\n]*\n)*\r?\n(.*?)\n(?:=[^\n]*\r?\n)?-----END",
        content,
        re.DOTALL,
    )
    try:
        return b"".join(base64.b64decode(block, validate=False) for block in blocks)
    except binascii.Error as error:
        raise KeyUnreadableError(f"its armor is damaged ({error})") from error


def _packets(data: bytes) -> Iterator[tuple[int, bytes]]:
    """Tag and body of each packet (RFC 4880, section 4.2)."""
    place = 0
    while place < len(data):
        head = data[place]
        if not head & 0x80:
            raise KeyUnreadableError("it is no OpenPGP key")
        place += 1
        if head & 0x40:
            tag = head & 0x3F
            first = data[place] if place < len(data) else 255
            width = 1 if first < 192 else 2 if first < 224 else 5 if first == 255 else 0
            length = _new_length(data[place : place + width])
        else:
            tag = (head >> 2) & 0x0F
            width = {0: 1, 1: 2, 2: 4}.get(head & 3, 0)
            length = int.from_bytes(data[place : place + width], "big")
        place += width
        if not width or place + length > len(data):
            raise KeyUnreadableError("it ends early, or in a way that no key does")
        yield tag, data[place : place + length]
        place += length


def _new_length(octets: bytes) -> int:
    if len(octets) == 2:
        return ((octets[0] - 192) << 8) + octets[1] + 192
    return int.from_bytes(octets[1:] if len(octets) == 5 else octets, "big")
