"""`python -m app`: serve until told to stop, and end with an exit code that says why."""

import logging
import os
import sys
from types import FrameType

import uvicorn

from app import __version__, logs, settings
from app.errors import SettingsError
from app.lifecycle import EXIT_SETTINGS, Lifecycle
from app.main import create_app

log = logging.getLogger("app")


class Server(uvicorn.Server):
    """A server that drains on a signal instead of closing at once, and ends when the lifecycle says so."""

    def __init__(self, config: uvicorn.Config, lifecycle: Lifecycle) -> None:
        super().__init__(config)
        self._lifecycle = lifecycle

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends the process without waiting."""
        if self._lifecycle.draining:
            self.should_exit = self.force_exit = True
        self._lifecycle.drain()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening and close the connections."""
        if await super().on_tick(counter):
            return True
        if self._lifecycle.finished():
            # What is still in flight may use the rest of the time.
            self.config.timeout_graceful_shutdown = max(1, round(self._lifecycle.remaining()))
            return True
        return False


def main() -> int:
    """Serve, and return the exit code."""
    try:
        configured = settings.load()
        logs.configure(configured.log_level, configured.log_dir)
    except SettingsError as error:
        logs.configure("info")
        log.error("The settings are refused", extra={"code": error.code, "detail": error.detail})
        return EXIT_SETTINGS
    except OSError as error:
        logs.configure("info")
        detail = f"API_LOG_DIR cannot be written: {error}; give a directory the service's user may write."
        log.error("The settings are refused", extra={"code": "log_dir_unwritable", "detail": detail})
        return EXIT_SETTINGS
    app = create_app(configured)
    lifecycle: Lifecycle = app.state.service.lifecycle
    config = uvicorn.Config(
        app,
        host=configured.host,
        port=configured.port,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        workers=1,
    )
    log.info("The service starts", extra={"version": __version__, "host": configured.host, "port": configured.port})
    Server(config, lifecycle).run()
    log.info("The service ends", extra={"exit_code": lifecycle.exit_code})
    return lifecycle.exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A model thread may be inside the device's library: an orderly end of the interpreter would wait for it or crash.
    os._exit(code)
