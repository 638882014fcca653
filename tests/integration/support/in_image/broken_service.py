"""Serve as `python -m app` does, but for one fault: FAULT.

never-ready      the model never finishes loading
ready-crash      ready, but the first request that is none about its health ends the process
slow             an answer takes a second longer
other-device     what is reported is not the device that was asked for
gateway-refused  only the host itself is told that it is ready, not the gateway
gpu-full         loading ends as torch ends it where the GPU has no memory left
"""

import asyncio
import os
import sys
from unittest import mock

import torch
import uvicorn
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from app import settings
from app.http.application import create_app

FAULT = sys.argv[1]
NOT_READY = JSONResponse({"detail": "the model is still loading", "code": "loading"}, 503)
OTHER_DEVICE = JSONResponse({"device": "cuda:0"})


def out_of_memory(*_: object) -> None:
    """Fail as torch does."""
    raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB. GPU 0 has 1.10 GiB free.")


class Faulty:
    """The service with the fault in front of it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer wrongly where the fault says so, else as the service does."""
        path = scope.get("path", "")
        client = (scope.get("client") or ("", 0))[0]
        if path == "/health/ready" and (
            FAULT == "never-ready"
            or (FAULT == "gateway-refused" and client != "127.0.0.1" and not client.endswith(".1"))
        ):
            await NOT_READY(scope, receive, send)
        elif path == "/api/v1/model/info" and FAULT == "other-device":
            await OTHER_DEVICE(scope, receive, send)
        else:
            if path == "/api/v1/predict" and FAULT == "slow":
                await asyncio.sleep(1)
            if path == "/api/v1/model/info" and FAULT == "ready-crash":
                sys.stderr.write("the process ends here\n")
                os._exit(3)
            await self._app(scope, receive, send)


if __name__ == "__main__":
    if FAULT == "gpu-full":
        # As on a GPU, for which nothing is derived, torch loads the model.
        os.environ.pop("API_DERIVED_PATH", None)
        mock.patch.object(torch.nn.Module, "to", out_of_memory).start()
    configured = settings.load()
    uvicorn.run(Faulty(create_app(configured)), host=configured.host, port=configured.port, log_level="warning")
