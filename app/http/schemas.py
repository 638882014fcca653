"""The answers of the service, as the OpenAPI document shows them."""

from collections.abc import Sequence
from typing import Literal, Self, TypedDict

from pydantic import BaseModel, ConfigDict


class _Answer(BaseModel):
    # The contract has fields named model_*, which pydantic otherwise keeps for itself.
    model_config = ConfigDict(protected_namespaces=())


class ErrorAnswer(_Answer):
    """Every answer that is not a success."""

    detail: str
    code: str


class FileError(ErrorAnswer):
    """What was wrong with one file of a batch."""

    filename: str | None


# These two are parts of every prediction, which is checked as a whole.
class RankedClass(TypedDict):
    """One of the best classes."""

    rank: int
    class_name: str
    class_id: int
    confidence: float


class ImageMetadata(TypedDict):
    """The image as it was sent, the number of its orientation tag (1 without one), and whether it was made upright."""

    original_width: int
    original_height: int
    format: str
    mode: str
    orientation: int
    orientation_applied: bool
    file_size_bytes: int
    filename: str | None


class ModelInfo(_Answer):
    """The model that answered."""

    model_name: str
    device: str
    num_classes: int
    version: str


class _Classes[Name: str | None, Share: float | None](_Answer):
    predicted_class: Name
    confidence: Share
    top_5_predictions: list[RankedClass]
    inference_time_ms: float
    image_metadata: ImageMetadata
    model_info: ModelInfo


class Prediction(_Classes[str, float]):
    """The classes of one image; `inference_time_ms` is the time of the forward it was part of."""


class MultiLabelPrediction(_Classes[str | None, float | None]):
    """The classes of one image that may have several or none: the predicted ones reach their threshold, the best first.

    Without any there is no predicted class. `top_5_predictions` are the best five, above their thresholds or not.
    """

    predicted_classes: list[RankedClass]

    @classmethod
    def of(cls, answer: Prediction, ranked: Sequence[RankedClass], thresholds: Sequence[float]) -> Self:
        """The answer with the classes that reach their threshold instead of the best one."""
        predicted = [item for item in ranked if item["confidence"] >= thresholds[item["class_id"]]]
        first = predicted[0] if predicted else None
        best = {
            "predicted_class": first["class_name"] if first else None,
            "confidence": first["confidence"] if first else None,
        }
        return cls(**{**dict(answer), **best, "predicted_classes": predicted})


AnyPrediction = MultiLabelPrediction | Prediction


class BundleInfo(_Answer):
    """The bundle that is served; `sha256` identifies it, or the bare checkpoint."""

    name: str
    version: str
    sha256: str


class SpeedMetrics(_Answer):
    """Times of the latest forwards."""

    predictions: int
    mean_inference_time_ms: float | None
    p50_inference_time_ms: float | None
    p95_inference_time_ms: float | None


class EngineTrial(_Answer):
    """One way to compute the model: the time of an image with every thread at work, and how much it changes answers."""

    engine: str
    precision: str
    image_ms: float | None
    largest_change: float | None
    refused: str | None


class ModelDetails(_Answer):
    """Everything known about the model."""

    model_name: str
    architecture: str
    num_classes: int
    image_size: int
    checkpoint_path: str
    device: str
    is_loaded: bool
    class_names: list[str]
    performance_metrics: dict[str, float]
    speed_metrics: SpeedMetrics
    version: str
    multi_label: bool
    bundle: BundleInfo
    release: str | None
    engine: str
    precision: str
    engine_reason: str
    engines_tried: list[EngineTrial]
    derived_model: str | None
    load_phases: dict[str, float]


class ClassName(_Answer):
    """One class of the model."""

    id: int
    name: str


class Classes(_Answer):
    """The classes of the model, in class order."""

    num_classes: int
    classes: list[ClassName]


class Live(_Answer):
    """The process answers."""

    status: Literal["alive"]


class Ready(_Answer):
    """The service takes requests."""

    status: Literal["ready"]
    model_loaded: Literal[True]
    model_name: str
    device: str
    num_classes: int


class Unready(ErrorAnswer):
    """Why the service takes no requests now."""

    status: str
    model_loaded: bool
