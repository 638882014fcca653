"""The command line that model_bundle_create becomes."""

from __future__ import annotations

from pathlib import Path

import pytest
from ansible.errors import AnsibleFilterError

from ansible_collections.gpu_hosts.timm.plugins.filter.bundle_recipe import class_folders, create_arguments


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
    assert create_arguments(recipe, "/shop") == [
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
    assert create_arguments({"labels": str(tmp_path)}, "/shop") == ["--labels=/shop/labels/labels.json"]
    assert class_folders(str(tmp_path)) == '["cat", "dog"]'
    with pytest.raises(AnsibleFilterError, match="holds no class folders"):
        class_folders(str(tmp_path / "cat"))


def test_timms_own_weights_come_from_the_hub_or_from_a_file() -> None:
    assert create_arguments({"pretrained": "hub", "model_args": {"in_chans": 1}}, "/shop") == [
        "--pretrained=hub",
        '--model-args={"in_chans": 1}',
    ]
    assert create_arguments({"pretrained": "/srv/model.safetensors"}, "/shop") == [
        "--pretrained=/shop/pretrained/model.safetensors"
    ]
