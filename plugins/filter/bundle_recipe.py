"""Filters: how a bundle is made from model_bundle_create, which files that takes, who makes it, and what there is."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.checkpoint import SourceError, read_labels
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.model_source import HUB

# Options whose value is a file or folder of the controller, brought to a folder of the option's name.
FILES = ("checkpoint", "pretrained", "labels", "golden", "check")
# Of a folder of class folders only their names are brought.
FOLDER_NAMES = "labels.json"


def create_arguments(recipe: Mapping[str, Any], workplace: str, name: str, version: str) -> list[str]:
    """Return the command line of `bundle create`; its files lie below workplace, and so does what it makes."""
    arguments = ["create", f"--name={name}", f"--version={version}", f"--output={workplace}/models"]
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


def recipe_files(recipe: Mapping[str, Any]) -> list[str]:
    """Return the options of the recipe whose file or folder is brought to who makes the bundle."""
    given = [name for name in FILES if recipe.get(name) and (name, recipe[name]) != ("pretrained", HUB)]
    # Of a folder of class folders only the names are needed.
    return [name for name in given if name != "labels" or not Path(str(recipe[name])).expanduser().is_dir()]


def bundle_maker(hosts: Sequence[str], variables: Mapping[str, Mapping[str, Any]], bundle: str) -> str:
    """Return which of the hosts that need the same bundle makes it: the first."""
    return next(host for host in hosts if variables[host].get("__model_bundle_needed") == bundle)


def bundle_versions(folder: str) -> list[str]:
    """Return the versions of a model that lie in its folder, none when there is no such folder."""
    path = Path(folder).expanduser()
    return sorted(entry.name for entry in path.iterdir() if entry.name[0] != ".") if path.is_dir() else []


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
        return {
            "bundle_maker": bundle_maker,
            "bundle_versions": bundle_versions,
            "class_folders": class_folders,
            "create_arguments": create_arguments,
            "recipe_files": recipe_files,
        }
