"""Golden samples: the pictures of a bundle with the answers that the model gave when the bundle was made."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.http_client import UnreachableError, request

CONTENT_TYPES = {".jpg": "image/jpeg", ".jpeg": "image/jpeg", ".png": "image/png", ".webp": "image/webp"}


class GoldenError(Exception):
    """The golden samples of a bundle cannot be read."""


@dataclass(frozen=True)
class Sample:
    """One picture and the classes that the model must name, best first."""

    path: Path
    top: list[dict[str, Any]]


@dataclass(frozen=True)
class GoldenSet:
    """All samples of a bundle and how far a probability may be off (absolute)."""

    samples: list[Sample]
    tolerance: float


def load(bundle: Path) -> GoldenSet:
    """Read ``golden/golden.json`` of the bundle directory; raise GoldenError naming the file that is wrong."""
    source = bundle / "golden" / "golden.json"
    try:
        content = json.loads(source.read_text(encoding="utf-8"))
        samples = [Sample(path=bundle / item["file"], top=list(item["top"])) for item in content["samples"]]
        tolerance = float(content["tolerance"])
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise GoldenError(f"{source} cannot be read ({error}); make the bundle again with `bundle create`") from error
    if not samples:
        raise GoldenError(f"{source} lists no samples; make the bundle again with `bundle create`")
    return GoldenSet(samples=samples, tolerance=tolerance)


def compare(sample: Sample, predictions: list[dict[str, Any]], tolerance: float) -> list[str]:
    """Return what differs between the expected classes and the answer's ``top_5_predictions``; empty when it agrees."""
    name = sample.path.name
    if not predictions:
        return [f"{name}: the answer has no predictions"]
    expected, got = sample.top[0], predictions[0]
    problems = []
    if int(got["class_id"]) != int(expected["class_id"]):
        problems.append(
            f"{name}: expected {expected['class_name']} ({float(expected['probability']):.4f}), "
            f"got {got['class_name']} ({float(got['confidence']):.4f})"
        )
    answered = {int(item["class_id"]): float(item["confidence"]) for item in predictions}
    for item in sample.top:
        class_id, probability = int(item["class_id"]), float(item["probability"])
        # A class that fell out of the answer's five is below the least of them.
        confidence = answered.get(class_id, min(answered.values()))
        if class_id not in answered and confidence >= probability - tolerance:
            continue
        if abs(confidence - probability) > tolerance:
            problems.append(
                f"{name}: {item['class_name']} expected {probability:.4f}, got {confidence:.4f} "
                f"(tolerance {tolerance:g})"
            )
    return problems


def ask(base_url: str, sample: Sample, timeout: float) -> tuple[list[dict[str, Any]], dict[str, str], float, str]:
    """Post one sample; return its predictions, the answer's headers, the seconds it took, and a problem or ''."""
    content_type = CONTENT_TYPES.get(sample.path.suffix.lower(), "application/octet-stream")
    try:
        content = sample.path.read_bytes()
    except OSError as error:
        return [], {}, 0.0, f"{sample.path}: {error.strerror}"
    try:
        answer = request(f"{base_url}/api/v1/predict", content, content_type, timeout)
    except UnreachableError as error:
        return [], {}, 0.0, f"{sample.path.name}: no answer from {error}"
    if answer.status != 200:
        return [], answer.headers, answer.seconds, f"{sample.path.name}: status {answer.status}: {answer.excerpt()}"
    return list(answer.json().get("top_5_predictions", [])), answer.headers, answer.seconds, ""
