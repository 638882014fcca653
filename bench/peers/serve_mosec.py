"""The model behind mosec: for each core one process that decodes and one that runs the model."""

import numpy as np
import torch
from mosec import Server, Worker

from bench.peers.common import CPUS, decode, load, option, rank

WORKERS = option("WORKERS", CPUS)


class Decode(Worker):
    """Turns a picture into the model's input."""

    def __init__(self) -> None:
        _, self.transform = load(1)

    def deserialize(self, data: bytes) -> bytes:
        """Take the body as it is."""
        return data

    def forward(self, data: bytes) -> np.ndarray:
        """Decode one picture."""
        return self.transform(decode(data)).numpy()


class Classify(Worker):
    """Runs the model on a batch."""

    def __init__(self) -> None:
        self.model, _ = load(CPUS // WORKERS or 1)

    def forward(self, data: list[np.ndarray]) -> list[dict[str, object]]:
        """Classify a batch."""
        with torch.inference_mode():
            return rank(self.model(torch.from_numpy(np.stack(data))))


if __name__ == "__main__":
    server = Server()
    server.append_worker(Decode, num=CPUS)
    server.append_worker(Classify, num=WORKERS, max_batch_size=option("BATCH", 4), max_wait_time=option("WAIT", 1))
    server.run()
