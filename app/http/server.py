"""The HTTP server, with a life that ends as the lifecycle says."""

from types import FrameType

import uvicorn
from fastapi import FastAPI

from app.http.application import create_app
from app.http.protocol import Protocol
from app.inference.service import Service
from app.settings import Settings
from app.start.loader import Loader


class Server(uvicorn.Server):
    """A server that drains on a signal instead of closing at once, and ends when the lifecycle says so."""

    def __init__(self, config: uvicorn.Config, service: Service) -> None:
        super().__init__(config)
        self._service = service
        self._lifecycle = service.lifecycle

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Begin to drain; a second signal ends the process without waiting."""
        if self._lifecycle.draining:
            self.should_exit = self.force_exit = True
        self._lifecycle.drain()

    async def on_tick(self, counter: int) -> bool:
        """Ten times a second: whether to stop listening and close the connections."""
        if await super().on_tick(counter):
            return True
        self._service.tell()
        if self._lifecycle.finished() and self.may_leave():
            # What is still in flight may use the rest of the time.
            self.config.timeout_graceful_shutdown = max(1, round(self._lifecycle.remaining()))
            return True
        return False

    def may_leave(self) -> bool:
        """Whether nobody has to be waited for."""
        return True


def run(settings: Settings, loading: Loader) -> int:
    """Serve until told to stop; returns the exit code."""
    app = create_app(settings, loading)
    service: Service = app.state.service
    Server(configuration(settings, app), service).run()
    return service.lifecycle.exit_code


def configuration(settings: Settings, app: FastAPI) -> uvicorn.Config:
    """How uvicorn serves the application."""
    return uvicorn.Config(
        app,
        host=settings.host,
        port=settings.port,
        http=Protocol,
        ws="none",
        # Who is a proxy is a setting of the service, not an address that uvicorn trusts.
        proxy_headers=False,
        log_config=None,
        access_log=False,
        server_header=False,
        timeout_keep_alive=75,
        workers=1,
    )
