"""Loading the model in a front end: waiting until the engine's process has it."""

import os
import socket
from typing import TYPE_CHECKING

from app.errors import BundleError, DeviceLostError, GpuRequiredError
from app.fronts import channel as channels
from app.settings import Settings
from app.start.loader import Loader

if TYPE_CHECKING:
    from app.start.served_model import ServedModel


class RemoteLoader(Loader):
    """One model on its way in another process; `model` is its future."""

    def __init__(self, settings: Settings, door: socket.socket) -> None:
        super().__init__(settings)
        self._door = door

    def _load(self) -> "ServedModel":
        with self._door:
            channel = channels.come_in(self._door)
        from app.fronts import remote_model

        said = channels.wait_for_engine(channel)
        if isinstance(said, channels.Refusal):
            self.told = True
            raise _error(said)
        try:
            return remote_model.read(said.about).served(self._settings, channel, said.memory)
        finally:
            for memory in said:
                os.close(memory)


def _error(refusal: channels.Refusal) -> Exception:
    """The error that the engine's process had, as this one would have had it."""
    if refusal.kind == channels.GPU_REQUIRED:
        return GpuRequiredError(refusal.detail)
    if refusal.kind == channels.BUNDLE:
        return BundleError(refusal.code, refusal.detail)
    return DeviceLostError(refusal.detail)
