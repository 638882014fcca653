"""The model behind LitServe: processes that decode and run the model."""

import litserve
import torch
from fastapi import Request

from bench.peers.common import CPUS, PORT, decode, load, option, rank


class Classify(litserve.LitAPI):
    """Decodes and classifies in the same worker."""

    def setup(self, device: str) -> None:
        """Load the model."""
        self.model, self.transform = load(CPUS // option("WORKERS", CPUS) or 1)

    def decode_request(self, request: Request) -> torch.Tensor:
        """Decode the picture in the form's field `file`."""
        return self.transform(decode(request["file"].file.read()))

    def batch(self, inputs: list[torch.Tensor]) -> torch.Tensor:
        """Stack a batch."""
        return torch.stack(inputs)

    def predict(self, batch: torch.Tensor) -> list[dict[str, object]]:
        """Classify a batch."""
        with torch.inference_mode():
            return rank(self.model(batch))

    def unbatch(self, output: list[dict[str, object]]) -> list[dict[str, object]]:
        """One answer for each request."""
        return output

    def encode_response(self, output: dict[str, object]) -> dict[str, object]:
        """The answer is JSON already."""
        return output


if __name__ == "__main__":
    api = Classify(max_batch_size=option("BATCH", 4), batch_timeout=option("WAIT", 1) / 1000, api_path="/predict")
    litserve.LitServer(api, accelerator="cpu", workers_per_device=option("WORKERS", CPUS)).run(
        port=PORT, generate_client_file=False, log_level="warning"
    )
