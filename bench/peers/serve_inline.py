"""The model inside a FastAPI handler, as most projects begin: everything on the event loop, torch on all cores."""

import torch
import uvicorn
from fastapi import FastAPI, UploadFile

from bench.peers.common import CPUS, PORT, decode, load, rank

app = FastAPI()
model, transform = load(CPUS)


@app.post("/predict")
async def predict(file: UploadFile) -> dict[str, object]:
    """Classify the picture in the form."""
    image = transform(decode(await file.read())).unsqueeze(0)
    with torch.inference_mode():
        return rank(model(image))[0]


if __name__ == "__main__":
    uvicorn.run(app, host="127.0.0.1", port=PORT, log_level="warning")
