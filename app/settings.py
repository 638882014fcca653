"""Settings of the service, read from environment variables with the prefix `API_`."""

import difflib
import ipaddress
import json
import os
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, JsonValue, ValidationError

from app.bundle.manifest import Activation, CropMode, HeadActivation, Interpolation
from app.errors import SettingsError

PREFIX = "API_"
# In a container the published address decides who reaches the service.
EVERY_ADDRESS = str(ipaddress.IPv4Address(0))
_ORIGIN = re.compile(r"\*|[a-z][a-z0-9+.-]*://[^\s/?#,@A-Z]+")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network


def _origins(value: str | None) -> frozenset[str] | None:
    if value is None:
        return None
    origins = frozenset(part.strip() for part in value.split(","))
    if wrong := sorted(origin for origin in origins if not _ORIGIN.fullmatch(origin)):
        raise ValueError(f"{wrong[0]!r} is no origin; write scheme://host[:port] in small letters, or * for every page")
    return origins


def _networks(value: str | None) -> tuple[Network, ...] | None:
    return None if value is None else tuple(ipaddress.ip_network(part.strip()) for part in value.split(","))


def _json(value: object) -> object:
    return json.loads(value) if isinstance(value, str) else value


def _numbers(value: object) -> object:
    return value.strip("[]() ").split(",") if isinstance(value, str) else value


def _whole(value: object) -> object:
    return int(value) if isinstance(value, str) and value.isdecimal() else value


class Settings(BaseModel):
    """Every setting with its default; an empty variable counts as unset."""

    # pydantic-settings would read the environment alike, and be a quarter of what a start takes until here.
    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    host: str = Field(default=EVERY_ADDRESS, description="Address to listen on.")
    port: int = Field(default=8000, ge=1, le=65535, description="Port to listen on.")

    bundle_path: Path | None = Field(default=None, description="Directory of the bundle to serve.")
    derived_path: Path | None = Field(
        default=None, description="Directory where `python -m app.derive` keeps what it makes of the bundle for a CPU."
    )
    checkpoint_path: Path | None = Field(default=None, description="A bare checkpoint to serve instead of a bundle.")
    model_name: str | None = Field(default=None, description="timm architecture of the bare checkpoint.")
    num_classes: int | None = Field(default=None, ge=1, description="Classes the bare checkpoint must have.")
    image_size: int | None = Field(
        default=None, ge=16, le=2048, description="Input side of the bare checkpoint in pixels."
    )
    weights: str | None = Field(
        default=None, description="Which of several sets of weights the bare checkpoint's is: ema, model or its name."
    )
    model_args: Annotated[dict[str, JsonValue] | None, BeforeValidator(_json)] = Field(
        default=None, description="What timm builds the bare checkpoint's architecture with, as JSON."
    )
    head_activation: HeadActivation | None = Field(
        default=None, description="What is computed between the layers of the bare checkpoint's head."
    )
    labels_path: Path | None = Field(default=None, description="Labels of the bare checkpoint: a file or a folder.")
    mean: Annotated[tuple[float, float, float] | tuple[float] | None, BeforeValidator(_numbers)] = Field(
        default=None, description="Mean of the bare checkpoint's normalization, R,G,B."
    )
    std: Annotated[tuple[float, float, float] | tuple[float] | None, BeforeValidator(_numbers)] = Field(
        default=None, description="Standard deviation of the bare checkpoint's normalization, R,G,B."
    )
    interpolation: Interpolation | None = Field(default=None, description="How images are resized for it.")
    crop_pct: float | None = Field(default=None, gt=0, le=2, description="Part of the resized image that is kept.")
    crop_mode: CropMode | None = Field(default=None, description="How an image becomes a square.")
    activation: Activation | None = Field(default=None, description="How its outputs become probabilities.")
    threshold: str | None = Field(default=None, description="What a class must reach with sigmoid.")

    device: Literal["auto", "cpu", "cuda"] = Field(default="auto", description="Where the model computes.")
    require_gpu: bool = Field(default=False, description="Never become ready on a CPU.")
    engine: Literal["auto", "torch", "openvino"] = Field(
        default="auto", description="What computes the model; checked against torch at start."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        default="auto", description="Number format of the model; checked against fp32 at start."
    )
    cuda_graphs: bool = Field(
        default=True,
        description="Whether a GPU replays recorded batches; where it cannot, the service begins again.",
    )
    decode: Literal["fast", "exact"] = Field(
        default="fast",
        description="Whether large JPEGs may be decoded at a fraction of their size, and torch may resize.",
    )
    orientation: Literal["apply", "ignore"] = Field(
        default="apply", description="Whether pictures whose tag says that they are stored turned are made upright."
    )
    workers: Annotated[Literal["auto"] | Annotated[int, Field(ge=1, le=256)] | None, BeforeValidator(_whole)] = Field(
        default=None, description="Processes that serve: auto takes as many as are worth it, unset means auto on a CPU."
    )
    torch_threads: int = Field(
        default=0, ge=0, description="CPU threads that compute the model; 0 means every CPU available."
    )
    decode_threads: int = Field(
        default=0, ge=0, description="Threads that decode images for a GPU; 0 means one per CPU available but one."
    )

    max_upload_bytes: int = Field(default=10_485_760, ge=1, description="Largest image file.")
    max_batch_bytes: int = Field(default=33_554_432, ge=1, description="Largest body of a batch request.")
    max_files: int = Field(default=16, ge=1, description="Most files in a batch request.")
    max_pixels: int = Field(default=50_000_000, ge=1, description="Most pixels of an image, checked before decoding.")

    queue_size: int = Field(default=256, ge=1, description="Most images in the service at once; beyond it 503.")
    queue_seconds: float = Field(default=5.0, gt=0, description="Longest expected wait; beyond it 503.")
    max_batch: int = Field(
        default=8, ge=1, description="Most images in one forward; at most 4 on a CPU, and 1 of a large model there."
    )
    max_bytes_in_flight: int = Field(
        default=268_435_456, ge=1, description="Most bytes of bodies held at once, read or being read; beyond it 503."
    )
    upload_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Longest time for a body to arrive; past it 408."
    )
    request_timeout_seconds: float = Field(
        default=30.0, gt=0, description="Deadline of a request once its body is whole; past it 504."
    )
    drain_seconds: float = Field(default=30.0, ge=0, description="Longest time to finish requests after SIGTERM.")

    cors_origins: Annotated[frozenset[str] | None, BeforeValidator(_origins)] = Field(
        default=None, description="Origins whose pages may read the answers, separated by commas; * for every page."
    )
    trusted_proxies: Annotated[tuple[Network, ...] | None, BeforeValidator(_networks)] = Field(
        default=None, description="Addresses and networks whose X-Forwarded-For is believed, separated by commas."
    )

    log_level: Annotated[Literal["debug", "info", "warning", "error"], BeforeValidator(str.lower)] = Field(
        default="info", description="Least level logged."
    )
    log_dir: Path | None = Field(default=None, description="Directory of a rotating copy of the log.")
    release_id: str | None = Field(
        default=None, description="Release this instance belongs to; echoed in X-Release-ID."
    )


def variables() -> list[str]:
    """The names of every environment variable the service reads."""
    return [PREFIX + name.upper() for name in Settings.model_fields]


def load(environment: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings, refusing names nobody reads and values that contradict each other."""
    known = variables()
    for name in sorted(environment):
        if name.startswith(PREFIX) and name not in known:
            nearest = difflib.get_close_matches(name, known, n=1, cutoff=0.0)[0]
            raise SettingsError("unknown_setting", f"{name} is not a setting of this service; did you mean {nearest}?")
    names = {name: PREFIX + name.upper() for name in Settings.model_fields}
    try:
        settings = Settings.model_validate(
            {name: environment[variable] for name, variable in names.items() if environment.get(variable)}
        )
    except ValidationError as error:
        first = error.errors()[0]
        name = PREFIX + "_".join(str(part) for part in first["loc"]).upper()
        raise SettingsError(
            "invalid_setting", f"{name} is {first['input']!r}, which is refused: {first['msg']}."
        ) from None
    _check_together(settings)
    return settings


def _check_together(settings: Settings) -> None:
    if settings.bundle_path and settings.checkpoint_path:
        raise SettingsError(
            "conflicting_settings", "API_BUNDLE_PATH and API_CHECKPOINT_PATH are both set; keep the one to serve."
        )
    if not settings.bundle_path and not settings.checkpoint_path:
        raise SettingsError(
            "no_model", "No model is named; set API_BUNDLE_PATH to a bundle made by `python -m app.bundle create`."
        )
    if settings.checkpoint_path and not settings.model_name:
        raise SettingsError(
            "no_model", "API_CHECKPOINT_PATH needs API_MODEL_NAME, the checkpoint's timm architecture (resnet50, …)."
        )
    largest = max(settings.max_upload_bytes, settings.max_batch_bytes)
    if largest > settings.max_bytes_in_flight:
        raise SettingsError(
            "conflicting_settings",
            f"API_MAX_BYTES_IN_FLIGHT ({settings.max_bytes_in_flight}) is below the largest body ({largest}), which "
            "could never be admitted; raise it, or lower API_MAX_UPLOAD_BYTES or API_MAX_BATCH_BYTES.",
        )
    if settings.engine == "openvino" and settings.device == "cuda":
        raise SettingsError(
            "conflicting_settings",
            "API_ENGINE is openvino, which computes on the CPU, and API_DEVICE is cuda; drop one of the two.",
        )
    if settings.max_files > settings.queue_size:
        raise SettingsError(
            "conflicting_settings",
            f"API_MAX_FILES ({settings.max_files}) is above API_QUEUE_SIZE ({settings.queue_size}), so a full batch "
            "request could never be admitted; lower the first or raise the second.",
        )
