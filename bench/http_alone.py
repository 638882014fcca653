"""Inside the image: an endpoint that reads the upload as the service does and answers; no picture is looked at."""

import sys

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse

from app.http import uploads
from app.http.bodies import Bodies
from app.http.routes.predict import PlainRoute
from app.settings import Settings

# As long as the answer of a model with five best classes.
_ANSWER = {"answer": "x" * 900}
app = FastAPI()
app.router.route_class = PlainRoute
_settings = Settings()
_bodies = Bodies(_settings.max_bytes_in_flight)


@app.post("/api/v1/predict")
async def predict(request: Request) -> JSONResponse:
    """Read the upload."""
    with _bodies.loan() as loan:
        await uploads.read_file(request, loan, _settings.max_upload_bytes)
    return JSONResponse(_ANSWER)


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=int(sys.argv[1]), http="httptools", access_log=False, log_level="warning")
