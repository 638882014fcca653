"""The model behind mosec: processes that decode and processes that run the model, or, in one stage, that do both."""

from typing import Any

import numpy as np
from mosec import Server, Worker

from bench.peers.common import CPUS, classified, load, option

WORKERS = option("WORKERS", CPUS)
BATCH = option("BATCH", 4)


class _Bytes(Worker):
    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is."""
        return data


class Decode(_Bytes):
    """Turns a picture into the model's input."""

    def __init__(self) -> None:
        self.model = load(1)

    def forward(self, data: bytes) -> np.ndarray:
        """Decode one picture."""
        return self.model.prepare(data)


class Classify(Worker):
    """Runs the model on a batch."""

    def __init__(self) -> None:
        self.model = load(CPUS // WORKERS or 1)

    def forward(self, data: Any) -> Any:
        """Classify a batch, or a picture."""
        return classified(self.model, data, batched=BATCH > 1)


class Both(_Bytes):
    """Decodes and classifies in one process."""

    def __init__(self) -> None:
        self.model = load(CPUS // WORKERS or 1)

    def forward(self, data: Any) -> Any:
        """Classify a batch of files, or a file."""
        inputs = [self.model.prepare(content) for content in data] if BATCH > 1 else self.model.prepare(data)
        return classified(self.model, inputs, batched=BATCH > 1)


if __name__ == "__main__":
    server = Server()
    batching = {"max_batch_size": BATCH, "max_wait_time": option("WAIT", 1)}
    if option("STAGES", 2) == 1:
        server.append_worker(Both, num=WORKERS, **batching)
    else:
        server.append_worker(Decode, num=option("DECODERS", CPUS))
        server.append_worker(Classify, num=WORKERS, **batching)
    server.run()
