"""Choose the image flavor for a host from the table of flavors."""

from __future__ import annotations

from typing import Any

from .versions import older, version_key


def runs_on(capability: str, supported: list[Any]) -> bool:
    """Whether code for the supported capabilities runs on a GPU of this one; what is not known does."""
    own = version_key(capability)
    listed = [version_key(str(item)) for item in supported]
    # Machine code runs on every GPU of the same major capability and an equal or higher minor one.
    return not own or not listed or any(item[:1] == own[:1] and item <= own for item in listed)


def objection(row: dict[str, Any], driver: str, gpus: list[dict[str, Any]], machine: str = "") -> str:
    """Say why a host cannot run a flavor, or nothing when it can."""
    built = [str(item) for item in row.get("machines") or []]
    if machine and built and machine not in built:
        return f"it is built for {', '.join(built)}, and this machine is {machine}"
    minimum = str(row.get("min_driver") or "")
    if older(driver, minimum):
        return f"driver {driver} is older than {minimum}"
    for gpu in gpus:
        if not runs_on(gpu["compute_capability"], row.get("compute_capabilities") or []):
            return f"it holds no code for {gpu['name']} (compute capability {gpu['compute_capability']})"
        total, needed = gpu["memory_total_mib"], int(row.get("vram_mib") or 0)
        if total is not None and total < needed:
            return f"{gpu['name']} has {total} MiB of memory, and it needs {needed}"
    return ""


def choose_flavor(flavors: dict[str, dict[str, Any]], facts: dict[str, Any], present: bool) -> dict[str, Any]:
    """Choose the flavor of the newest CUDA that the host can run: `{name, reason, fits}`.

    A host with a GPU is never given a flavor without CUDA: where none fits, the least demanding one comes back with
    the reason, and the checks then refuse it in their own words.
    """
    plain = [name for name, row in flavors.items() if not row.get("cuda")]
    able = sorted(
        (name for name, row in flavors.items() if row.get("cuda")),
        key=lambda name: version_key(str(flavors[name]["cuda"])),
        reverse=True,
    )
    if not present or not able:
        names = plain or able
        return {"name": names[0] if names else "", "reason": "the host has no GPU", "fits": bool(plain)}
    objections: list[str] = []
    for name in able:
        against = objection(flavors[name], facts["driver_version"], facts["gpus"], str(facts.get("machine") or ""))
        if not against:
            passed = "".join(f"; not {item}" for item in objections)
            return {"name": name, "reason": f"the newest CUDA that the host can run{passed}", "fits": True}
        objections.append(f"{name}, because {against}")
    return {"name": able[-1], "reason": f"no flavor fits this host: not {'; not '.join(objections)}", "fits": False}
