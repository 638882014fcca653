"""What the service counts, in base units, for /metrics."""

from collections.abc import Callable
from typing import Literal

from prometheus_client import (
    CollectorRegistry,
    Counter,
    Gauge,
    Histogram,
    Info,
    PlatformCollector,
    ProcessCollector,
    disable_created_metrics,
)
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4, generate_latest
from prometheus_client.openmetrics import exposition as openmetrics

from app.process.negotiation import preference

_OPENMETRICS = "application/openmetrics-text"
_Encoder = Callable[[CollectorRegistry], bytes]
_hide_created: Callable[[], None] = disable_created_metrics
# The time at which a counter began is a metric of its own in the text format.
_hide_created()
_SECONDS = (0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10, 30)


# How a gauge that every process of several counts is shown.
SUMMED: Literal["livesum"] = "livesum"


class Metrics:
    """The metrics of one service, in a registry of their own, or in one that sums up those of several processes."""

    def __init__(self, queue_size: int, shared: CollectorRegistry | None = None) -> None:
        self.registry = shared or CollectorRegistry()
        # What is summed up is there already, and not to be shown twice.
        counted = None if shared else self.registry
        if not shared:
            ProcessCollector(registry=self.registry)
        PlatformCollector(registry=self.registry)
        self.build = Info("inference_build", "Versions of the service and its model.", registry=self.registry)
        self.ready = Gauge("inference_ready", "1 while the service is ready for requests.", registry=self.registry)
        self.load_duration = Gauge(
            "inference_model_load_duration_seconds", "Time to load and warm up the model.", registry=self.registry
        )
        self.requests = Counter(
            "inference_http_requests", "Answers sent.", ["method", "route", "status"], registry=counted
        )
        self.request_duration = Histogram(
            "inference_http_request_duration_seconds",
            "Time from a request's head to its last byte answered.",
            ["route"],
            buckets=_SECONDS,
            registry=counted,
        )
        self.in_flight = Gauge("inference_http_requests_in_flight", "Requests being answered.", registry=self.registry)
        self.errors = Counter("inference_errors", "Error answers by code.", ["code"], registry=counted)
        self.queue_depth = Gauge(
            "inference_queue_depth", "Images waiting for the model.", registry=counted, multiprocess_mode=SUMMED
        )
        self.images_in_service = Gauge(
            "inference_images_admitted", "Images admitted and not yet answered.", registry=self.registry
        )
        queue_limit = Gauge("inference_images_admitted_limit", "Most images admitted at once.", registry=self.registry)
        queue_limit.set(queue_size)
        self.bytes_in_flight = Gauge(
            "inference_body_bytes", "Bytes of bodies held or promised.", registry=self.registry
        )
        self.threads_overdue = Gauge(
            "inference_threads_overdue", "Threads at one image or batch past the deadline now.", registry=self.registry
        )
        self.overdue = Counter(
            "inference_overdue", "Images and batches that kept a thread past the deadline.", registry=counted
        )
        self.decode_duration = Histogram(
            "inference_decode_duration_seconds",
            "Time to decode and resize one image.",
            buckets=_SECONDS,
            registry=counted,
        )
        self.queue_wait = Histogram(
            "inference_queue_wait_seconds",
            "Time an image waited for the model.",
            buckets=_SECONDS,
            registry=counted,
        )
        self.batch_size = Histogram(
            "inference_batch_size_images",
            "Images in one forward.",
            buckets=(1, 2, 4, 8, 16, 32, 64),
            registry=counted,
        )
        self.batch_duration = Histogram(
            "inference_batch_duration_seconds", "Time of one forward.", buckets=_SECONDS, registry=counted
        )
        self.predictions = Counter("inference_predictions", "Images classified.", registry=counted)

    def exposition(self, accept: str) -> tuple[bytes, str]:
        """The metrics and their content type: the format OpenMetrics for who prefers it, else Prometheus' own text."""
        encode: _Encoder = generate_latest
        content_type: str = CONTENT_TYPE_PLAIN_0_0_4
        if preference(accept, _OPENMETRICS) > preference(accept, "text/plain"):
            encode, content_type = openmetrics.generate_latest, openmetrics.CONTENT_TYPE_LATEST
        return encode(self.registry), content_type
