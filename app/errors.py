"""What can go wrong, each under a stable code that clients and the troubleshooting guide rely on."""

STATUS_OF_CODE = {
    "invalid_file_type": 400,
    "corrupted_image": 400,
    "image_too_small": 400,
    "image_too_large": 400,
    "image_too_complex": 400,
    "batch_too_complex": 400,
    "empty_file": 400,
    "malformed_multipart": 400,
    "too_many_files": 400,
    "malformed_request": 400,
    "origin_not_allowed": 403,
    "not_found": 404,
    "method_not_allowed": 405,
    "upload_timeout": 408,
    "body_too_large": 413,
    "missing_file": 422,
    "invalid_request": 422,
    "too_many_requests": 429,
    "client_closed_request": 499,
    "internal_error": 500,
    "loading": 503,
    "queue_full": 503,
    "gpu_required": 503,
    "device_lost": 503,
    "stopping": 503,
    "deadline_exceeded": 504,
}


class ServiceError(Exception):
    """A request that gets no prediction; becomes the `{"detail", "code"}` answer with the code's status."""

    def __init__(self, code: str, detail: str, retry_after: int = 1) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
        self.retry_after = retry_after

    @property
    def status(self) -> int:
        """The HTTP status that belongs to the code."""
        return STATUS_OF_CODE[self.code]


class GpuRequiredError(ServiceError):
    """A GPU is demanded and there is none."""

    def __init__(self, detail: str) -> None:
        super().__init__("gpu_required", detail)


class DeviceLostError(Exception):
    """The device can no longer compute in this process; only a new process can help."""


class NotRecordedError(Exception):
    """A model cannot be recorded as CUDA graphs.

    What torch has of the device may be spoiled then, so only a new process can go on, without recording.
    """


class BundleError(Exception):
    """A checkpoint or bundle that cannot be used."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail


class SettingsError(Exception):
    """Settings the service refuses to start with."""

    def __init__(self, code: str, detail: str) -> None:
        super().__init__(detail)
        self.code = code
        self.detail = detail
