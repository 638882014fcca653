"""Read the state of the services that belong to the driver and the container toolkit."""

from __future__ import annotations

from .commands import Runner

UNITS = (
    "nvidia-persistenced.service",
    "nvidia-fabricmanager.service",
    "nvidia-cdi-refresh.service",
    "nvidia-cdi-refresh.path",
)
_PROPERTIES = {"LoadState": "load", "ActiveState": "active", "Result": "result"}


def parse_units(text: str) -> dict[str, dict[str, str]]:
    """Turn the output of `systemctl show` into `{unit: {load, active, result}}` of the units that exist."""
    units: dict[str, dict[str, str]] = {}
    for block in text.replace("\r\n", "\n").split("\n\n"):
        fields = dict(line.split("=", 1) for line in block.splitlines() if "=" in line)
        if fields.get("Id") in UNITS and fields.get("LoadState") == "loaded":
            units[fields["Id"]] = {short: fields.get(name, "") for name, short in _PROPERTIES.items()}
    return units


def read_units(run: Runner, timeout: float) -> dict[str, dict[str, str]]:
    """State of the known units; nothing on a host without systemd."""
    answer = run(["systemctl", "show", "--property=Id,LoadState,ActiveState,Result", *UNITS], timeout)
    return parse_units(answer.out) if answer.ok else {}
