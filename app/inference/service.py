"""The service: what the routes share between them and what outlives a request."""

import asyncio
import logging
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING

from app import __version__
from app.bundle.manifest import TOP_K
from app.errors import BundleError, DeviceLostError, GpuRequiredError, NotRecordedError, ServiceError
from app.fronts.remote_engine import RemoteEngine
from app.http.bodies import Bodies
from app.http.schemas import (
    AnyPrediction,
    ImageMetadata,
    ModelInfo,
    MultiLabelPrediction,
    Prediction,
    RankedClass,
    SpeedMetrics,
)
from app.http.uploads import Upload
from app.images import appraisal
from app.inference.admission import LARGE, Admission
from app.inference.batching import Batcher, Result
from app.inference.decoding import Decoding
from app.inference.feeding import Feeder
from app.inference.part import Part
from app.inference.room import Room, Stay
from app.inference.watch import Watch
from app.process import cpus, memory
from app.process.lifecycle import Lifecycle, State
from app.settings import Settings
from app.start.loader import Loader

if TYPE_CHECKING:
    from app.fronts.remote import Remote
    from app.images.decoder import Picture
    from app.start.served_model import ServedModel

log = logging.getLogger(__name__)


# Above it a file is looked through in a thread: it keeps the event loop for a millisecond a megabyte.
_LONG = 2 << 20
# How often a GPU is looked after.
_GUARD_SECONDS = 1.0
# What /metrics says of the build.
_BUILD = ("service_version", "torch_version", "model_name", "model_version", "device")
# What the process needs beside the model, bodies and pictures: batches, threads, answers.
_RESERVE = 64 << 20
# Enough for a photograph of a phone, whatever the container may use.
_LEAST_ROOM = 64 << 20


class Service:
    """The model with its queue, decode threads, metrics and lifecycle."""

    def __init__(self, settings: Settings, loading: Loader, part: Part | None = None) -> None:
        self.settings = settings
        self._loading = loading
        self.part = part or Part()
        self.metrics = self.part.metrics(settings.queue_size)
        self.lifecycle = Lifecycle(settings.drain_seconds)
        self.bodies = Bodies(settings.max_bytes_in_flight, self.part)
        self.watch = Watch(settings.request_timeout_seconds, self.metrics.overdue.inc)
        self.model: ServedModel | None = None
        self._about: ModelInfo | None = None
        self._batcher: Batcher | Remote | None = None
        self._room: Room | None = None
        self._guard: asyncio.Task[None] | None = None
        # One CPU is for the event loop and the threads that feed the GPU.
        self._decode_threads = settings.decode_threads or max(1, self.part.cores - self.part.feeds)
        self.admission = Admission(settings.queue_size, settings.queue_seconds, self.part.cores, self.part)
        self._decoders = ThreadPoolExecutor(
            self._decode_threads, thread_name_prefix="decode", initializer=cpus.keep_to_one
        )
        self._forward_ms: deque[float] = deque(maxlen=1000)
        self.metrics.ready.set_function(lambda: self.lifecycle.state is State.READY and not self.overdue)
        self.metrics.threads_overdue.set_function(lambda: self.overdue)
        self.metrics.bytes_in_flight.set_function(lambda: self.part.body_bytes)
        self.metrics.in_flight.set_function(self._in_flight)
        self.metrics.images_in_service.set_function(lambda: self.part.images)

    def start(self) -> None:
        """Serve the model as soon as it is loaded; called by the event loop once HTTP is to come up."""
        loop = asyncio.get_running_loop()
        self._loading.begin()
        self._loading.model.add_done_callback(lambda _: self._tell(loop, self._loaded))

    def stop(self) -> None:
        """End the threads."""
        if self._guard:
            self._guard.cancel()
        if self._batcher:
            self._batcher.stop()
        self._decoders.shutdown(wait=False, cancel_futures=True)

    def loaded(self) -> "ServedModel":
        """The model, or the reason why there is none."""
        state = self.lifecycle.state
        if state is State.DEVICE_LOST:
            raise ServiceError("device_lost", "The device stopped working; the service restarts.")
        if state is State.GPU_REQUIRED:
            raise ServiceError("gpu_required", self.lifecycle.detail)
        if self.model is None:
            raise ServiceError("loading", "The model is being loaded; send the request again shortly.")
        return self.model

    async def appraise(self, upload: Upload) -> "Picture":
        """What an image is and will cost, or why it is refused."""
        decoder = self.loaded().decoder
        if len(upload.content) < _LONG:
            return decoder.appraise(upload.content)
        # Markers are looked for in all of it.
        return await asyncio.to_thread(decoder.appraise, upload.content)

    def check_together(self, work: int) -> None:
        """Refuse an image with which those of one request would take more work than any single one may."""
        if work > self.loaded().decoder.limits.work:
            raise ServiceError(
                "batch_too_complex",
                "The images before this one are as much work as one request may ask for; send it in another.",
            )

    async def classify(self, upload: Upload, picture: "Picture") -> AnyPrediction:
        """Decode one image off the event loop and wait for its turn on the model."""
        model = self.loaded()
        if self._batcher is None or self._room is None or self._about is None:
            raise ServiceError("loading", "The model is being loaded; send the request again shortly.")
        stay = await self._room.enter(picture.cost.memory)
        try:
            result = await self._compute(model, self._batcher, picture, stay)
        finally:
            stay.abandon()
        self.admission.answered(picture.cost.seconds)
        self.metrics.predictions.inc()
        self.part.predicted()
        image, forward_ms = result.image, result.seconds * 1000
        self._forward_ms.append(forward_ms)
        ranked = [
            RankedClass(rank=rank, class_name=model.labels[class_id], class_id=class_id, confidence=probability)
            for rank, (class_id, probability) in enumerate(
                zip(result.ranking.class_ids, result.ranking.probabilities, strict=True), start=1
            )
        ]
        answer = Prediction(
            predicted_class=ranked[0]["class_name"],
            confidence=ranked[0]["confidence"],
            top_5_predictions=ranked[:TOP_K],
            inference_time_ms=round(forward_ms, 3),
            image_metadata=ImageMetadata(
                original_width=image.width,
                original_height=image.height,
                format=image.format,
                mode=image.mode,
                orientation=image.orientation,
                orientation_applied=image.orientation_applied,
                file_size_bytes=len(upload.content),
                filename=upload.filename,
            ),
            model_info=self._about,
        )
        return answer if model.thresholds is None else MultiLabelPrediction.of(answer, ranked, model.thresholds)

    async def _compute(
        self, model: "ServedModel", batcher: "Batcher | Remote", picture: "Picture", stay: Stay
    ) -> Result:
        decode = Decoding(model.decoder, picture, stay, self.watch, self.metrics)
        # The thread that feeds a GPU does nothing else, and small images do not wait until the only one of a CPU has
        # decoded a large one.
        lone = isinstance(batcher, Batcher) and model.workers == 1
        if isinstance(batcher, Feeder) or (lone and picture.cost.seconds > LARGE):
            return await batcher.submit(await asyncio.get_running_loop().run_in_executor(self._decoders, decode))
        return await batcher.submit(decode)

    @property
    def overdue(self) -> int:
        """How many threads of the service work on their piece for too long now."""
        self.tell()
        return self.part.overdue

    def tell(self) -> None:
        """Let the other parts of the service know what this one does."""
        self.part.tell(self.lifecycle.in_flight, self.watch.overdue)

    def _in_flight(self) -> int:
        self.tell()
        return self.part.in_flight

    def speed(self) -> SpeedMetrics:
        """Times of the latest forwards."""
        times = sorted(self._forward_ms)
        if not times:
            return SpeedMetrics(
                predictions=self.part.predictions,
                mean_inference_time_ms=None,
                p50_inference_time_ms=None,
                p95_inference_time_ms=None,
            )
        return SpeedMetrics(
            predictions=self.part.predictions,
            mean_inference_time_ms=round(sum(times) / len(times), 3),
            p50_inference_time_ms=round(times[len(times) // 2], 3),
            p95_inference_time_ms=round(times[len(times) * 95 // 100], 3),
        )

    def _loaded(self) -> None:
        """Serve the model that was loaded, or become what its error demands."""
        try:
            model = self._loading.model.result()
        except GpuRequiredError as error:
            self._say("The service cannot become ready", error.code, error.detail)
            self.lifecycle.gpu_missing(error.detail)
        except NotRecordedError as error:
            detail = f"The model cannot be recorded as CUDA graphs ({error}); the service begins again without them."
            log.warning("The model runs without CUDA graphs", extra={"code": "not_recorded", "detail": detail})
            self.lifecycle.begin_again("not_recorded", detail)
        except (BundleError, ServiceError) as error:
            self._say("The model cannot be loaded", error.code, error.detail)
            self.lifecycle.bundle_refused(error.code, error.detail)
        except DeviceLostError as error:
            self._say("The model cannot be loaded", "load_failed", str(error))
            self.lifecycle.device_lost(str(error))
        except Exception as error:  # whatever it is must end the process
            detail = f"Loading the model failed: {type(error).__name__}: {error}"
            log.exception("The model cannot be loaded", extra={"code": "load_failed", "detail": detail})
            self.lifecycle.device_lost(detail)
        else:
            self._serve(model)

    def _say(self, message: str, code: str, detail: str) -> None:
        """Log why there is no model, unless the process that has the device did."""
        if not self._loading.told:
            log.error(message, extra={"code": code, "detail": detail})

    def _serve(self, model: "ServedModel") -> None:
        def lost(detail: str) -> None:
            log.error("The device is lost", extra={"code": "device_lost", "detail": detail})
            self._tell(loop, partial(self.lifecycle.device_lost, detail))

        loop = asyncio.get_running_loop()
        self.model = model
        self._room = self._make_room(model)
        if isinstance(model.engine, RemoteEngine):
            from app.fronts.remote import Remote

            self._batcher = Remote(model.engine, self.metrics, lost, self._decode_threads)
        elif model.engine.device == "cpu":
            self._batcher = Batcher(model.engine, self.metrics, lost, self.watch, model.workers)
        else:
            feeder = Feeder(model.engine, self.metrics, lost, self.watch)
            self._batcher = feeder
            self._guard = loop.create_task(self._watch_device(feeder, lost))
        seconds = sum(model.load_phases.values())
        self.metrics.load_duration.set(seconds)
        said = model.describe()
        self._about = ModelInfo(**said)
        # Beside the service's own version.
        said |= {"service_version": __version__, "model_version": said.pop("version")}
        self.metrics.build.info({name: said[name] for name in _BUILD})
        details = {"load_seconds": round(seconds, 3), "decode_mib": model.decoder.limits.memory >> 20}

        def begin() -> None:
            self.lifecycle.model_loaded()
            if self.part.speaks:
                log.info("The service is ready", extra={**said, **details})

        self.part.when_complete(begin)

    async def _watch_device(self, feeder: Feeder, lost: Callable[[str], None]) -> None:
        """Notice a device that answers no more: a library that waits for it says nothing."""
        limit = self.settings.request_timeout_seconds
        before = None
        while True:
            await asyncio.sleep(_GUARD_SECONDS)
            since = feeder.since()
            # Seen late twice: time may have passed while the whole machine stood still.
            if since is not None and since == before and time.perf_counter() - since > limit:
                lost(f"The device has not answered to a batch for {limit:g} s.")
                feeder.abandon(ServiceError("device_lost", "The device stopped working; the service restarts."))
                return
            before = since

    def _make_room(self, model: "ServedModel") -> Room:
        """Room for as many pictures as the container's memory holds beside the model and the bodies."""
        limit, used, bodies = memory.limit(), self.part.used(), self.settings.max_bytes_in_flight
        if isinstance(model.engine, RemoteEngine):
            used += model.engine.memory()
        parts = self.part.processes
        largest = appraisal.largest(self.settings.max_pixels).memory
        # Each process has a share of its own.
        spare = (limit - used - bodies) // parts - _RESERVE
        if spare < largest and self.part.speaks:
            detail = (
                f"The container may use {limit >> 20} MiB: the model takes {used >> 20}, bodies take up to "
                f"{bodies >> 20}, and {max(spare, 0) >> 20} are left for pictures, of which the largest may need "
                f"{largest >> 20}; one that needs more is refused. Give it {(limit + parts * (largest - spare)) >> 20} "
                f"MiB, or lower API_MAX_PIXELS{', API_WORKERS' if parts > 1 else ''} or API_MAX_BYTES_IN_FLIGHT."
            )
            log.warning("The memory is little", extra={"code": "little_memory", "detail": detail})
        workers = model.workers if model.engine.device == "cpu" else self._decode_threads
        size = max(_LEAST_ROOM, min(spare, max(2, workers) * largest))
        model.decoder.limits = replace(model.decoder.limits, memory=min(size, 2 * largest))
        # One thread is left to small pictures, where there are several.
        return Room(size, max(1, workers - 1))

    @staticmethod
    def _tell(loop: asyncio.AbstractEventLoop, what: Callable[[], None]) -> None:
        """Have the event loop do something; the lifecycle belongs to it."""
        try:
            loop.call_soon_threadsafe(what)
        except RuntimeError:  # the loop is closed: the process is ending anyway
            log.debug("The event loop ended first")
