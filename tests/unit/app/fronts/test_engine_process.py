import gc
import socket
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import NoReturn

import pytest

from app.errors import BundleError, DeviceLostError, GpuRequiredError
from app.fronts import channel, engine_process
from app.fronts.remote_loader import RemoteLoader
from app.settings import Settings
from app.start.loader import Loader
from tests.unit.app.support import fresh

SETTINGS = Settings(bundle_path=Path("bundle"))


class Failing(Loader):
    """A model that is on its way until the gate is opened, and then fails."""

    def __init__(self, error: Exception) -> None:
        super().__init__(SETTINGS)
        self.error = error
        self.gate = threading.Event()

    def _load(self) -> NoReturn:
        self.gate.wait()
        raise self.error


def test_a_front_end_collects_garbage_again_once_it_has_its_model() -> None:
    inside, door = channel.pair()
    inside.close()
    loader = RemoteLoader(SETTINGS, door)
    loader.begin()
    assert isinstance(loader.model.exception(20), DeviceLostError)
    end = time.monotonic() + 20
    while not gc.isenabled() and time.monotonic() < end:
        time.sleep(0.01)
    assert gc.isenabled()


@pytest.mark.parametrize(
    ("error", "seen", "code"),
    [
        (BundleError("weights_missing", "There are none."), BundleError("weights_missing", "There are none."), 65),
        (GpuRequiredError("There is none."), GpuRequiredError("There is none."), 0),
        (ValueError("what?"), DeviceLostError("Loading the model failed: ValueError: what?"), 70),
    ],
)
def test_front_ends_learn_why_there_is_no_engine(error: Exception, seen: Exception, code: int) -> None:
    inside, door = channel.pair()
    loader = Failing(error)
    exit_code: Future[int] = Future()
    serving = threading.Thread(target=lambda: exit_code.set_result(engine_process.run(SETTINGS, inside, loader)))
    serving.start()
    early = RemoteLoader(SETTINGS, door.dup())
    early.begin()
    # Until it has come in.
    assert inside.recv(1, socket.MSG_PEEK)
    loader.gate.set()
    found = early.model.exception(20)
    assert type(found) is type(seen)
    assert str(found) == str(seen)
    if isinstance(error, GpuRequiredError):
        # A restart would find none either, so it stays for those that come later.
        late = RemoteLoader(SETTINGS, door.dup())
        late.begin()
        assert isinstance(late.model.exception(20), GpuRequiredError)
        assert not exit_code.done()
    door.close()
    assert exit_code.result(20) == code
    serving.join()


def test_a_front_end_needs_neither_torch_nor_another_runtime() -> None:
    fresh(
        "import sys\n"
        "import app.fronts.remote_model, app.fronts.remote_loader, app.http.server\n"
        "assert not {'torch', 'timm', 'openvino'} & set(sys.modules)"
    )
