"""Ask a release its golden samples and judge the answers."""

from __future__ import annotations

from typing import Any

from ansible_collections.gpu_hosts.timm.plugins.module_utils.golden import GoldenSet, ask, compare
from ansible_collections.gpu_hosts.timm.plugins.module_utils.http_client import UnreachableError, request

# A sample over the budget is asked again: a slow model is slow each time, a busy host is not.
ATTEMPTS = 3


def check_device(base_url: str, wanted: str, timeout: float) -> tuple[str, str]:
    """Return the device that the instance reports, and a problem or ''."""
    try:
        device = str(request(f"{base_url}/api/v1/model/info", timeout=timeout).json().get("device", ""))
    except UnreachableError as error:
        return "", f"no answer from {error}"
    if wanted and not device.startswith(wanted):
        return device, f"it runs on {device or 'an unknown device'}, expected {wanted}"
    return device, ""


def check_samples(
    base_url: str, golden: GoldenSet, release_id: str, count: int = 0, budget: float = 5.0
) -> list[dict[str, Any]]:
    """Ask the samples of one address, all when count is 0, each within budget seconds; return an entry each.

    An entry says what was asked, expected and answered, and lists its problems.
    """
    entries = []
    # When only some are asked: those that the model is surest of.
    samples = sorted(golden.samples, key=lambda sample: -float(sample.top[0]["probability"]))
    for sample in samples[: count or None]:
        for _ in range(ATTEMPTS):
            predictions, headers, seconds, problem = ask(base_url, sample, timeout=max(budget * 2, 10))
            if problem or seconds <= budget:
                break
        problems = [problem] if problem else compare(sample, predictions, golden.tolerance)
        answered_by = headers.get("x-release-id", "")
        if not problem and answered_by != release_id:
            problems.append(f"release {answered_by or 'unknown'} answered, expected {release_id}")
        if not problem and seconds > budget:
            problems.append(f"{sample.path.name}: {seconds * 1000:.0f} ms, the budget is {budget * 1000:.0f} ms")
        entries.append(
            {
                "url": base_url,
                "sample": sample.path.name,
                "milliseconds": round(seconds * 1000, 1),
                "prediction": predictions[0] if predictions else {},
                "expected": sample.top[0],
                "problems": problems,
            }
        )
    return entries
