"""Decoding one image on a thread: only while somebody waits for it, watched, and timed."""

import time
from dataclasses import dataclass
from typing import TYPE_CHECKING

from app.errors import ServiceError
from app.inference.room import Stay
from app.inference.watch import Watch
from app.process.metrics import Metrics

if TYPE_CHECKING:
    from app.images.decoder import DecodedImage, Decoder, Picture


@dataclass(frozen=True, slots=True)
class Decoding:
    """An image that was let in, with what a thread needs to decode it: called, it does."""

    decoder: "Decoder"
    picture: "Picture"
    stay: Stay
    watch: Watch
    metrics: Metrics

    def __call__(self) -> "DecodedImage":
        """Decode it; a ServiceError says why it is refused."""
        if not self.stay.begin():
            raise ServiceError("client_closed_request", "Nobody waits for the image any more.")
        started = time.perf_counter()
        try:
            with self.watch.working():
                image = self.decoder.decode(self.picture)
        finally:
            self.stay.end()
        self.metrics.decode_duration.observe(time.perf_counter() - started)
        return image
