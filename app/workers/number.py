"""How many processes serve: as many as are worth it, where they may."""

import logging

from app.engines.engine import is_large
from app.images import appraisal
from app.process import cpus, memory
from app.settings import Settings
from app.start import derived
from app.start.served_model import cpu_threads

log = logging.getLogger(__name__)

# A front end keeps so many cores busy before its interpreter is the limit; one core is for the engine's process.
_CORES = 2

# What a worker takes beside its model and the largest picture.
_WORKER_BYTES = 192 << 20


def workers(settings: Settings) -> int:
    """How many workers serve; 1 is this process alone."""
    asked = settings.workers if isinstance(settings.workers, int) else None
    if on_gpu(settings):
        # Front ends must be asked for: what they gain has not been measured on a real GPU.
        return asked or (max(1, (cpus.available() - 1) // _CORES) if settings.workers == "auto" else 1)
    if asked == 1:
        return 1
    choice = derived.choice(settings)
    number = (asked or _worth_it(settings, choice)) if choice else 1
    # Each would convert by itself what is damaged.
    if choice and (number == 1 or derived.choice(settings, proved=True)):
        return number
    if asked:
        detail = (
            f"API_WORKERS is {asked}, and there is no derived model that they could share; one process serves. Set "
            "API_DEVICE to cpu and API_DERIVED_PATH to where `python -m app.derive` keeps it."
        )
        log.warning("The service is one process", extra={"code": "one_process", "detail": detail})
    return 1


def _worth_it(settings: Settings, choice: derived.Choice) -> int:
    """How many workers answer more than one process does."""
    # What takes a core that long is computed on all of them when it comes alone, which one process can do.
    threads = cpu_threads(settings)
    if is_large(choice.seconds, threads) or choice.engine != "openvino":
        return 1
    # What was kept is mapped, and what is compiled of it is each worker's own.
    each = (
        _WORKER_BYTES + 2 * sum(entry.bytes for entry in choice.files) + appraisal.largest(settings.max_pixels).memory
    )
    return max(1, min(threads, (memory.limit() - settings.max_bytes_in_flight) // each))


def on_gpu(settings: Settings) -> bool:
    """Whether it is certain that a GPU computes: then one process has it, and the workers are its front ends."""
    return settings.device == "cuda" or (settings.device == "auto" and settings.require_gpu)
