"""`python -m app`: serve until told to stop, and end with an exit code that says why."""

import logging
import os
import signal
import sys

from app import __version__, settings
from app.errors import SettingsError
from app.process import logs
from app.process.again import begin_again
from app.process.lifecycle import EXIT_AGAIN, EXIT_OK, EXIT_SETTINGS
from app.start.loader import Loader

log = logging.getLogger("app")


def main() -> int:
    """Serve, and return the exit code."""
    # A container's first process ignores a signal that it does not handle; the server has its own way later.
    signal.signal(signal.SIGTERM, lambda *_: os._exit(EXIT_OK))
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
    log.info("The service starts", extra={"version": __version__, "host": configured.host, "port": configured.port})
    if configured.workers != 1:
        from app.workers import number

        if (workers := number.workers(configured)) > 1:
            from app.workers import supervisor

            exit_code = supervisor.run(configured, workers)
            log.info("The service ends", extra={"exit_code": exit_code})
            return exit_code
    loading = Loader(configured)
    loading.begin()
    from app.http import server

    exit_code = server.run(configured, loading)
    if exit_code == EXIT_AGAIN:
        begin_again()
    log.info("The service ends", extra={"exit_code": exit_code})
    return exit_code


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # A model thread may be inside the device's library: an orderly end of the interpreter would wait for it or crash.
    os._exit(code)
