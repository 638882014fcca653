"""Filters: the command line of `bundle create` from model_bundle_create, and the classes that a folder names."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.checkpoint import SourceError, read_labels
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.model_source import HUB

# Options whose value is a file or folder of the controller, brought to a folder of the option's name.
FILES = ("checkpoint", "pretrained", "labels", "golden", "check")
# Of a folder of class folders only their names are brought.
FOLDER_NAMES = "labels.json"


def create_arguments(recipe: Mapping[str, Any], workplace: str) -> list[str]:
    """Return the options of `bundle create`; its files lie below workplace."""
    arguments = []
    for key, value in recipe.items():
        if value is None or value == "":
            continue
        if key in FILES and (key, value) != ("pretrained", HUB):
            path = Path(str(value)).expanduser()
            value = f"{workplace}/{key}/{FOLDER_NAMES if key == 'labels' and path.is_dir() else path.name}"
        elif isinstance(value, Mapping):
            value = json.dumps(value)
        elif isinstance(value, (list, tuple)):
            value = ",".join(str(part) for part in value)
        elif key in ("mean", "std"):
            value = str(value).strip("[] ")
        # In one word, since a value may begin with a dash.
        arguments.append(f"--{key.replace('_', '-')}={value}")
    return arguments


def class_folders(path: str) -> str:
    """Return the names of the classes that a folder of class folders stands for, as JSON."""
    try:
        return json.dumps(read_labels(Path(path).expanduser()))
    except SourceError as error:
        raise AnsibleFilterError(str(error)) from error


class FilterModule:
    """The filters of this file, by the names used in roles."""

    def filters(self) -> dict[str, Callable[..., Any]]:
        """Name the filters."""
        return {"create_arguments": create_arguments, "class_folders": class_folders}
