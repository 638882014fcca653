"""What model_bundle_create becomes: a command line, files that are brought, one host that makes the bundle."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.filter.bundle_recipe import (
    bundle_maker,
    bundle_versions,
    class_folders,
    create_arguments,
    recipe_files,
)
from ansible_collections.gpu_hosts.timm.plugins.modules.bundle_tool import command_line, notes_of, reason_of

# What every command line begins with.
BEGINNING = ["create", "--name=cats", "--version=2", "--output=/shop/models"]


def test_every_option_becomes_one_word_and_files_lie_in_the_workplace(tmp_path: Path) -> None:
    labels = tmp_path / "labels.csv"
    labels.touch()
    recipe = {
        "checkpoint": "/srv/best model.pth",
        "architecture": "resnet50",
        "labels": str(labels),
        "golden": "/srv/photos/",
        "image_size": 224,
        "mean": [0.5, 0.5, 0.5],
        "std": "[0.2, 0.2, 0.2]",
        "threshold": {"cat": 0.3},
        "interpolation": "",
    }
    assert create_arguments(recipe, "/shop", "cats", "2") == [
        *BEGINNING,
        "--checkpoint=/shop/checkpoint/best model.pth",
        "--architecture=resnet50",
        "--labels=/shop/labels/labels.csv",
        "--golden=/shop/golden/photos",
        "--image-size=224",
        "--mean=0.5,0.5,0.5",
        "--std=0.2, 0.2, 0.2",
        '--threshold={"cat": 0.3}',
    ]


def test_of_class_folders_only_the_names_are_brought(tmp_path: Path) -> None:
    for name in ("dog", "cat"):
        (tmp_path / name).mkdir()
    assert create_arguments({"labels": str(tmp_path)}, "/shop", "cats", "2") == [
        *BEGINNING,
        "--labels=/shop/labels/labels.json",
    ]
    assert class_folders(str(tmp_path)) == '["cat", "dog"]'
    with pytest.raises(AnsibleFilterError, match="holds no class folders"):
        class_folders(str(tmp_path / "cat"))


def test_timms_own_weights_come_from_the_hub_or_from_a_file() -> None:
    assert create_arguments({"pretrained": "hub", "model_args": {"in_chans": 1}}, "/shop", "cats", "2") == [
        *BEGINNING,
        "--pretrained=hub",
        '--model-args={"in_chans": 1}',
    ]
    assert create_arguments({"pretrained": "/srv/model.safetensors"}, "/shop", "cats", "2") == [
        *BEGINNING,
        "--pretrained=/shop/pretrained/model.safetensors",
    ]


def test_files_of_the_recipe_are_brought_but_for_what_the_host_gets_otherwise(tmp_path: Path) -> None:
    recipe = {"check": "/srv/validation", "checkpoint": "/srv/best.pth", "architecture": "resnet50", "golden": ""}
    assert recipe_files({**recipe, "labels": "/srv/labels.txt"}) == ["checkpoint", "labels", "check"]
    assert recipe_files({**recipe, "labels": str(tmp_path)}) == ["checkpoint", "check"]
    assert recipe_files({"pretrained": "hub"}) == []
    assert recipe_files({"pretrained": "/srv/model.safetensors"}) == ["pretrained"]


def test_the_first_host_that_needs_a_bundle_makes_it() -> None:
    needed = {"a": {}, "b": {"__model_bundle_needed": "/m/x/1"}, "c": {"__model_bundle_needed": "/m/y/1"}}
    assert bundle_maker(["a", "b", "c"], needed, "/m/y/1") == "c"
    assert bundle_maker(["a", "b", "c"], {**needed, "a": needed["b"]}, "/m/x/1") == "a"


def test_versions_are_the_folders_below_a_model(tmp_path: Path) -> None:
    for name in ("2", "1", ".1.abc"):
        (tmp_path / "cats" / name).mkdir(parents=True)
    assert bundle_versions(str(tmp_path / "cats")) == ["1", "2"]
    assert bundle_versions(str(tmp_path / "dogs")) == []


@pytest.mark.parametrize(("network", "reach"), [(False, "--network=none"), (True, "--network=bridge")])
def test_the_container_gets_its_folders_and_little_else(network: bool, reach: str) -> None:
    command = command_line("image:1", ["verify", "/bundle"], ["/srv/b:/bundle:ro"], network)
    end = command.index("image:1")
    assert command[end:] == ["image:1", "python", "-m", "app.bundle", "verify", "/bundle"]
    assert {reach, "--volume=/srv/b:/bundle:ro", "--read-only", "--cap-drop=ALL"} <= {*command[:end]}


@pytest.mark.parametrize(
    ("errors", "reason"),
    [
        ("note: x\nerror: no weights\nfurther\n", "error: no weights"),
        ("one\ntwo\nthree\ndocker: no such image\n", "two three docker: no such image"),
        ("", ""),
    ],
)
def test_why_no_bundle_came_of_it(errors: str, reason: str) -> None:
    assert reason_of(errors) == reason


def test_what_was_understood_is_the_end_of_the_output() -> None:
    assert notes_of('progress\n{"name": "cats", "notes": ["WARNING: x"]}\n') == ["WARNING: x"]
    assert notes_of("") == notes_of("no json") == notes_of("[]") == []
