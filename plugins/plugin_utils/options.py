"""What can be set for roles and playbooks, read from their argument specs."""

from __future__ import annotations

from functools import cache
from pathlib import Path
from typing import Any

import yaml

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import ROOT

# Who owns the options that belong to no role.
PLAYBOOKS = "playbooks"

# The specification of each option, by its name.
Options = dict[str, dict[str, Any]]


@cache
def read_spec(owner: Path) -> Options:
    """Return the options of the main entry point of a role, or of the playbooks."""
    content = yaml.safe_load((owner / "meta" / "argument_specs.yml").read_text(encoding="utf-8")) or {}
    return content.get("argument_specs", {}).get("main", {}).get("options") or {}


def read_options(root: Path = ROOT) -> dict[str, Options]:
    """Return the options of each role, and those of the playbooks."""
    owners = [*sorted(root.glob("roles/*")), root / PLAYBOOKS]
    return {owner.name: read_spec(owner) for owner in owners if (owner / "meta" / "argument_specs.yml").exists()}


def default_of(name: str) -> Any:
    """Return the default of a role's option; its name begins with the role's."""
    for owner in ROOT.glob("roles/*"):
        if name.startswith(f"{owner.name}_"):
            return read_spec(owner)[name]["default"]
    raise KeyError(name)
