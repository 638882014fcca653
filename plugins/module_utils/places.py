"""What the instances of a release have on a host, by name and place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any


def instances_of(
    service: str, state_dir: Path, color: str, instances: Iterable[Mapping[str, Any]]
) -> list[dict[str, str]]:
    """Return the instances of a release on a color: what tells them apart, and what each has on the host."""
    found = []
    for instance in instances:
        name = f"{color}-{instance['index']}"
        project = f"{service}-{name}"
        found.append(
            {
                **{key: str(instance[key]) for key in ("index", "gpu", "driver")},
                "name": name,
                "color": color,
                "project": project,
                # As Compose calls the first container of the service api.
                "container": f"{project}-api-1",
                "env_file": str(state_dir / "instances" / f"{name}.env"),
            }
        )
    return found
