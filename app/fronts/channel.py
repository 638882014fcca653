"""Channels: what front ends and the engine's process tell each other, beside the images in their slots.

The engine's process inherits one end of a door, every front end the other one. A front end comes in by passing one
end of a channel of its own through it; the end of either process closes the channel, which tells the other one.
"""

import array
import socket
import struct
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

from app.errors import DeviceLostError

# Room for messages that are not read yet; the kernel gives what it allows.
_BUFFER = 1 << 20
# No message is longer.
_LONGEST = 4096
_COMES = b"front end"
_ENDED = "The engine's process has ended."

_READY, _FAILED, _LOST, _ANSWERS = b"R", b"F", b"L", b"A"
_BATCH = struct.Struct("<cxHHxxdd")


def pair() -> tuple[socket.socket, socket.socket]:
    """The two ends of a door or of a channel: messages stay whole, and both learn of the other's end."""
    ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in ends:
        end.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
    return ends


def inherited(descriptor: int) -> socket.socket:
    """The end that a process was started with; its own children do not get it."""
    end = socket.socket(fileno=descriptor)
    end.set_inheritable(False)
    return end


def come_in(door: socket.socket) -> socket.socket:
    """A front end's channel to the engine's process, which need not be so far yet."""
    mine, theirs = pair()
    with theirs:
        try:
            socket.send_fds(door, [_COMES], [theirs.fileno()])
        except OSError as error:
            raise DeviceLostError(_ENDED) from error
    return mine


def let_in(door: socket.socket, *, wait: bool = True) -> socket.socket | None:
    """The channel of a front end that has come, or nothing once none can come any more, or has so far."""
    flags = socket.MSG_CMSG_CLOEXEC | (0 if wait else socket.MSG_DONTWAIT)
    try:
        said, descriptors, _, _ = socket.recv_fds(door, len(_COMES), 1, flags)
    except BlockingIOError:
        return None
    return socket.socket(fileno=descriptors[0]) if said else None


class Offer(NamedTuple):
    """What a front end gets once the engine is ready: its memory, and what is to be known of the model."""

    memory: int
    about: int


GPU_REQUIRED, BUNDLE, LOAD_FAILED = "gpu", "bundle", "failed"


@dataclass(frozen=True)
class Refusal:
    """Why there is no engine: which kind of error, its code, and what it says."""

    kind: str
    code: str
    detail: str


def offer(channel: socket.socket, memory: int, about: int) -> None:
    """Hand a front end its memory and another one that has what is to be known of the model."""
    socket.send_fds(channel, [_READY], [memory, about])


def refuse(channel: socket.socket, refusal: Refusal) -> None:
    """Tell a front end why there is no engine."""
    said = "\n".join((refusal.kind, refusal.code, refusal.detail))
    channel.send(_FAILED + said.encode()[: _LONGEST - 1])


def wait_for_engine(channel: socket.socket) -> Offer | Refusal:
    """What becomes of the engine; a DeviceLostError when its process ends instead."""
    try:
        said, descriptors, _, _ = socket.recv_fds(channel, _LONGEST, 2, socket.MSG_CMSG_CLOEXEC)
    except OSError as error:
        raise DeviceLostError(_ENDED) from error
    if said[:1] == _READY:
        return Offer(*descriptors)
    if said[:1] == _FAILED:
        return Refusal(*said[1:].decode(errors="replace").split("\n", 2))
    raise DeviceLostError(said[1:].decode() or _ENDED)


def post(channel: socket.socket, slots: Sequence[int]) -> None:
    """Tell the engine's process of slots that have an image."""
    channel.send(array.array("H", slots).tobytes())


def posted(channel: socket.socket) -> Sequence[int] | None:
    """The slots that a front end tells of, or nothing once it has ended; what is there must not be waited for."""
    try:
        said = channel.recv(2 * 512, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return ()
    except OSError:
        return None
    return array.array("H", said) if said else None


@dataclass(frozen=True)
class Batch:
    """Slots that have been dealt with: when their batch began and the seconds that it took.

    `images` is the size of the whole batch, told to one of the front ends that it was for, and 0 to the others; what
    was left out because nobody waits for it is told with nothing else. `error` is what the model failed with.
    """

    slots: Sequence[int]
    images: int = 0
    began: float = 0.0
    seconds: float = 0.0
    error: str = ""


@dataclass(frozen=True)
class Lost:
    """The device, or the process that has it, is no more."""

    detail: str = _ENDED


def answer(channel: socket.socket, batch: Batch) -> None:
    """Tell a front end of slots; a BlockingIOError when it has not read for too long."""
    head = _BATCH.pack(_ANSWERS, len(batch.slots), batch.images, batch.began, batch.seconds)
    message = head + array.array("H", batch.slots).tobytes() + batch.error.encode()
    channel.send(message[:_LONGEST], socket.MSG_DONTWAIT)


def lose(channel: socket.socket, detail: str) -> None:
    """Tell a front end that the device is lost."""
    channel.send((_LOST + detail.encode())[:_LONGEST], socket.MSG_DONTWAIT)


def told(channel: socket.socket) -> Batch | Lost | None:
    """What the engine's process tells, or nothing yet; its end is a loss, too."""
    try:
        try:
            said = channel.recv(_LONGEST, socket.MSG_DONTWAIT)
        except ConnectionResetError:  # comes first where the other side had something to read; what it said is there
            said = channel.recv(_LONGEST, socket.MSG_DONTWAIT)
    except BlockingIOError:
        return None
    except OSError:
        return Lost()
    if said[:1] != _ANSWERS:
        return Lost(said[1:].decode(errors="replace") or _ENDED)
    _, count, images, began, seconds = _BATCH.unpack_from(said)
    end = _BATCH.size + 2 * count
    return Batch(array.array("H", said[_BATCH.size : end]), images, began, seconds, said[end:].decode(errors="replace"))
