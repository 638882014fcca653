"""The model behind LitServe: processes that decode and run the model."""

from typing import Any

import litserve
import numpy as np
from fastapi import Request

from bench.peers.common import CPUS, PORT, classified, load, option

WORKERS = option("WORKERS", CPUS)
BATCH = option("BATCH", 4)


class Classify(litserve.LitAPI):
    """Decodes and classifies in the same worker."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.model = load(CPUS // WORKERS or 1)

    def decode_request(self, request: Request) -> np.ndarray:
        """Decode the picture in the form's field `file`."""
        return self.model.prepare(request["file"].file.read())

    def batch(self, inputs: list[np.ndarray]) -> list[np.ndarray]:
        """A batch is stacked by the model."""
        return inputs

    def predict(self, batch: Any) -> Any:
        """Classify a batch, or a picture."""
        return classified(self.model, batch, batched=BATCH > 1)

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        """One answer for each request."""
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """The answer is JSON already."""
        return output


if __name__ == "__main__":
    api = Classify(max_batch_size=BATCH, batch_timeout=option("WAIT", 1) / 1000, api_path="/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=WORKERS).run(
        host="127.0.0.1",
        port=PORT,
        num_api_servers=option("SERVERS", 1),
        generate_client_file=False,
        log_level="warning",
    )
