"""`python -m app.fronts.engine_process DOOR`: the process that has the device, for those that come through a door."""

import logging
import os
import signal
import socket
import subprocess
import sys

from app import settings
from app.errors import BundleError, GpuRequiredError, NotRecordedError, ServiceError
from app.fronts import channel as channels
from app.process import logs
from app.process.again import begin_again
from app.process.lifecycle import EXIT_BUNDLE, EXIT_DEVICE, EXIT_OK
from app.settings import Settings
from app.start.loader import Loader

log = logging.getLogger("app.engine")

COMMAND = (sys.executable, "-m", "app.fronts.engine_process")


def start() -> tuple[subprocess.Popen[bytes], socket.socket]:
    """Start the process where signals of a terminal do not reach it; returns it with the door for front ends."""
    inside, door = channels.pair()
    with inside:
        command = [*COMMAND, str(inside.fileno())]
        return subprocess.Popen(command, pass_fds=[inside.fileno()], process_group=0), door


def run(configured: Settings, door: socket.socket, loader: Loader) -> int:
    """Load the model and compute for the front ends until none is left; returns the exit code."""
    loader.begin()
    try:
        model = loader.model.result()
    except GpuRequiredError as error:
        log.error("The service cannot become ready", extra={"code": error.code, "detail": error.detail})
        return _refuse(door, channels.Refusal(channels.GPU_REQUIRED, error.code, error.detail), EXIT_OK)
    except NotRecordedError as error:
        detail = (
            f"The model cannot be recorded as CUDA graphs ({error}); the engine's process begins again without them."
        )
        log.warning("The model runs without CUDA graphs", extra={"code": "not_recorded", "detail": detail})
        # Front ends that have come wait at the door until it is back.
        begin_again(door.fileno())
    except (BundleError, ServiceError) as error:
        log.error("The model cannot be loaded", extra={"code": error.code, "detail": error.detail})
        return _refuse(door, channels.Refusal(channels.BUNDLE, error.code, error.detail), EXIT_BUNDLE)
    except Exception as error:  # whatever it is must end the process
        detail = f"Loading the model failed: {type(error).__name__}: {error}"
        log.exception("The model cannot be loaded", extra={"code": "load_failed", "detail": detail})
        return _refuse(door, channels.Refusal(channels.LOAD_FAILED, "load_failed", detail), EXIT_DEVICE)
    from app.fronts.device import Device
    from app.fronts.remote_engine import RemoteEngine
    from app.fronts.remote_model import About, write

    engine = model.engine
    if isinstance(engine, RemoteEngine):
        raise AssertionError(engine)
    about = About.of(model, engine, configured)
    device = Device(engine, about.layout, write(about), door, configured.request_timeout_seconds)
    return device.run()


def _refuse(door: socket.socket, refusal: channels.Refusal, exit_code: int) -> int:
    """Tell those that have come; who has no GPU stays for those that will, as a restart would find none either."""
    stays = exit_code == EXIT_OK
    while channel := channels.let_in(door, wait=stays):
        channels.refuse(channel, refusal)
    return exit_code


def main() -> int:
    """Serve the front ends that come through the door whose descriptor is the argument."""
    # Front ends drain; without any, the door is closed, which ends this process.
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)
    configured = settings.load()
    logs.configure(configured.log_level, configured.log_dir, "api-engine.log")
    return run(configured, channels.inherited(int(sys.argv[1])), Loader(configured))


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A thread may be inside the device's library: an orderly end of the interpreter would wait for it or crash.
    os._exit(code)
