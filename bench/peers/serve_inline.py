"""The model inside a FastAPI handler, as most projects begin: everything on the event loop."""

import uvicorn
from fastapi import FastAPI, UploadFile

from bench.peers.common import CPUS, PORT, load, option

WORKERS = option("WORKERS", 1)
app = FastAPI()
model = load(CPUS // WORKERS or 1)


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, object]:
    """Classify the picture in the form."""
    return model.classify([model.prepare(await file.read())])[0]


if __name__ == "__main__":
    uvicorn.run("bench.peers.serve_inline:app", host="127.0.0.1", port=PORT, log_level="warning", workers=WORKERS)
