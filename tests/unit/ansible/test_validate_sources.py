"""What a release cannot be made of ends a deploy before any host is changed: found on the controller, without torch."""

from __future__ import annotations

import hashlib
import io
import json
import os
import pickle
import sys
import types
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.action.validate_sources import (
    balancer_faults,
    docker_fault,
    docker_step,
    image_faults,
)
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.checkpoint import (
    SourceError,
    check_together,
    read_labels,
    read_shapes,
)
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.model_source import model_faults
from tests.unit.ansible.playbook_run import REPOSITORY, run


class Storage:
    """A tensor's numbers, which a pickle of torch names by a persistent id."""


def rebuild(*_: object) -> None:
    """Stand for the function of torch that a pickle names; nothing calls it."""


rebuild.__module__, rebuild.__qualname__ = "torch._utils", "_rebuild_tensor_v2"


class Tensor:
    """Is written as torch writes a tensor."""

    def __init__(self, *shape: int) -> None:
        self.shape = shape

    def __reduce__(self) -> tuple[Any, ...]:
        return rebuild, (Storage(), 0, self.shape, (1,) * len(self.shape), False, OrderedDict())


class Writer(pickle.Pickler):
    """Writes pickles as torch does."""

    def persistent_id(self, value: object) -> object:
        return ("storage", "FloatStorage", "0", "cpu", 1) if isinstance(value, Storage) else None


def pickled(content: object) -> bytes:
    module = types.ModuleType("torch._utils")
    vars(module)["_rebuild_tensor_v2"] = rebuild
    file = io.BytesIO()
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(sys.modules, "torch", types.ModuleType("torch"))
        patch.setitem(sys.modules, "torch._utils", module)
        Writer(file, protocol=2).dump(content)
    return file.getvalue()


def trained(classes: int) -> dict[str, Any]:
    """A checkpoint as the reference project's trainer writes it."""
    state = {"backbone.conv.weight": Tensor(8, 3, 3, 3), "classifier.1.weight": Tensor(classes, 8)}
    return {"model_state_dict": {**state, "classifier.1.bias": Tensor(classes)}, "epoch": 3, "val_acc": 0.9}


@pytest.fixture
def checkpoint(tmp_path: Path) -> Path:
    path = tmp_path / "best.pth"
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("best/data.pkl", pickled(trained(67)))
        archive.writestr("best/data/0", b"\0" * 5000)
    return path


@pytest.fixture
def labels(tmp_path: Path) -> Path:
    return lines(tmp_path / "labels.txt", 67)


def lines(path: Path, count: int) -> Path:
    path.write_text("".join(f"class {number}\n" for number in range(count)))
    return path


def recipe(**settings: object) -> str:
    return json.dumps(settings, default=str)


def faults(tmp_path: Path, wanted: str) -> tuple[str, ...]:
    model_faults.cache_clear()
    return model_faults("cats", "1", str(tmp_path / "models"), "", wanted)


def test_the_shapes_of_a_checkpoint_are_read_without_torch(checkpoint: Path, tmp_path: Path) -> None:
    wanted = {"backbone.conv.weight": (8, 3, 3, 3), "classifier.1.weight": (67, 8), "classifier.1.bias": (67,)}
    assert read_shapes(checkpoint) == wanted
    old = tmp_path / "old.pth"
    old.write_bytes(
        b"".join(pickled(each) for each in (0x1950A86A20F9469CFC6C, 1001, {"little_endian": True}, trained(67)))
    )
    assert read_shapes(old) == wanted
    new = tmp_path / "new.safetensors"
    header = json.dumps({"__metadata__": {}, "fc.weight": {"dtype": "F32", "shape": [5, 2], "data_offsets": [0, 40]}})
    new.write_bytes(len(header).to_bytes(8, "little") + header.encode() + b"\0" * 40)
    assert read_shapes(new) == {"fc.weight": (5, 2)}


def save(path: Path, content: Any, *more: str) -> Path:
    with zipfile.ZipFile(path, "w") as archive:
        for name, data in (("best/data.pkl", pickled(content)), *((f"best/{name}", b"") for name in more)):
            archive.writestr(name, data)
    return path


def test_labels_are_compared_with_what_is_nested_and_wrapped(tmp_path: Path, labels: Path) -> None:
    state = {"module._orig_mod.conv.weight": Tensor(8, 3, 3, 3), "module._orig_mod.fc.weight": Tensor(67, 8)}
    path = save(tmp_path / "nested.pth", {"run": {"model": state}, "optimizer": {"momentum": Tensor(5)}})
    assert read_shapes(path)["fc.weight"] == (67, 8)
    assert faults(tmp_path, recipe(checkpoint=path, architecture="resnet50", labels=labels)) == ()
    few = lines(tmp_path / "few.txt", 66)
    (fault,) = faults(tmp_path, recipe(checkpoint=path, architecture="resnet50", labels=few))
    assert "its fc.weight has 67" in fault
    apart = save(
        tmp_path / "apart.pth", {"backbone": {"a": Tensor(8, 3), "b": Tensor(8)}, "head": {"w": Tensor(67, 8)}}
    )
    assert faults(tmp_path, recipe(checkpoint=apart, architecture="resnet50", labels=labels)) == ()


def test_a_torchscript_program_is_called_one(tmp_path: Path, labels: Path) -> None:
    path = save(tmp_path / "scripted.pt", {}, "constants.pkl")
    (fault,) = faults(tmp_path, recipe(checkpoint=path, architecture="resnet50", labels=labels))
    assert "is a TorchScript program" in fault


def test_timms_own_weights_need_no_checkpoint(checkpoint: Path, labels: Path, tmp_path: Path) -> None:
    assert faults(tmp_path, recipe(pretrained="hub", architecture="resnet50.a1_in1k")) == ()
    assert faults(tmp_path, recipe(pretrained=checkpoint, architecture="resnet50", labels=labels)) == ()
    (fault,) = faults(tmp_path, recipe(pretrained="/gone.safetensors", architecture="resnet50", labels=labels))
    assert "/gone.safetensors cannot be read here" in fault
    (both,) = faults(tmp_path, recipe(pretrained="hub", checkpoint=checkpoint, architecture="resnet50"))
    assert "has both checkpoint and pretrained" in both


def test_reading_a_checkpoint_runs_nothing_of_it(tmp_path: Path) -> None:
    class Evil:
        def __reduce__(self) -> tuple[Any, ...]:
            return os.system, (f"touch {tmp_path}/ran",)

    path = tmp_path / "evil.pth"
    path.write_bytes(b"".join(pickle.dumps(each, protocol=2) for each in (1, 2, 3, {"state_dict": Evil()})))
    assert read_shapes(path) == {}
    assert not (tmp_path / "ran").exists()


def test_a_recipe_that_goes_together_passes(checkpoint: Path, labels: Path, tmp_path: Path) -> None:
    assert faults(tmp_path, recipe(checkpoint=checkpoint, architecture="resnet50", labels=labels)) == ()


def test_labels_of_another_model_are_refused_with_both_numbers(checkpoint: Path, tmp_path: Path) -> None:
    few = lines(tmp_path / "few.txt", 66)
    (fault,) = faults(tmp_path, recipe(checkpoint=checkpoint, architecture="resnet50", labels=few))
    assert f"The labels {few} name 66 classes" in fault
    assert "its classifier.1.weight has 67" in fault


def test_labels_are_needed_where_nobody_names_the_classes(checkpoint: Path, tmp_path: Path) -> None:
    # The reference project's own trainer writes 67 cat breeds.
    assert faults(tmp_path, recipe(checkpoint=checkpoint, architecture="resnet50")) == ()
    plain = {"conv.weight": Tensor(8, 3, 3, 3), "fc.weight": Tensor(67, 8), "fc.bias": Tensor(67)}

    def saved(**beside: object) -> tuple[str, ...]:
        path = tmp_path / "plain.pth"
        with zipfile.ZipFile(path, "w") as archive:
            archive.writestr("plain/data.pkl", pickled({"state_dict": plain, **beside}))
        return faults(tmp_path, recipe(checkpoint=path, architecture="resnet50"))

    (fault,) = saved()
    assert "model_bundle_create lacks labels" in fault
    assert "has 67 classes and does not say their names" in fault
    assert saved(class_to_idx={f"class {number}": number for number in range(67)}) == ()


def test_class_folders_are_labels(checkpoint: Path, tmp_path: Path) -> None:
    for number in range(67):
        (tmp_path / "train" / f"class {number:02}").mkdir(parents=True)
    assert faults(tmp_path, recipe(checkpoint=checkpoint, architecture="a", labels=tmp_path / "train")) == ()


def test_a_head_that_is_not_known_is_not_judged_by_its_name(tmp_path: Path) -> None:
    check_together(tmp_path, {"odd.weight": (67, 8, 1, 1), "stem.weight": (8, 3)}, tmp_path, 67)
    check_together(tmp_path, {}, tmp_path, 67)
    with pytest.raises(SourceError, match="no layer of it has as many outputs"):
        check_together(tmp_path, {"odd.weight": (67, 8)}, tmp_path, 66)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (None, "cannot be read here (No such file or directory)"),
        (b"", "is empty"),
        (b"<html>", "is a web page"),
        (b"version https://git-lfs.github.com/spec/v1\n", "git lfs pull"),
        (b"PK\x03\x04 the rest is missing", "is cut off"),
    ],
)
def test_a_file_that_is_no_checkpoint_is_refused(
    content: bytes | None, words: str, labels: Path, tmp_path: Path
) -> None:
    path = tmp_path / "some.pth"
    if content is not None:
        path.write_bytes(content)
    (fault,) = faults(tmp_path, recipe(checkpoint=path, architecture="resnet50", labels=labels))
    assert words in fault


def test_a_safetensors_file_that_is_cut_off_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "some.safetensors"
    path.write_bytes((1000).to_bytes(8, "little") + b"{")
    with pytest.raises(SourceError, match="cut off"):
        read_shapes(path)


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a\n\nb\n", "line 2 is empty"),
        (b"", "the file is empty"),
        (b"caf\xe9\n", "not UTF-8"),
        (None, "cannot be read here"),
    ],
)
def test_labels_that_no_bundle_takes_are_refused(content: bytes | None, words: str, tmp_path: Path) -> None:
    path = tmp_path / "labels.txt"
    if content is not None:
        path.write_bytes(content)
    with pytest.raises(SourceError, match=words):
        read_labels(path)


def test_the_labels_that_we_ship_are_read() -> None:
    shipped = REPOSITORY / "app/data/labels"
    assert len(read_labels(shipped / "cat_breeds.txt")) == 67
    assert len(read_labels(shipped / "imagenet_1k.txt")) == 1000


def test_everything_that_is_wrong_with_a_recipe_is_said_at_once(labels: Path, tmp_path: Path) -> None:
    assert faults(tmp_path, recipe(checkpoint="x")) == (
        "model_bundle_create lacks architecture; it needs checkpoint, architecture.",
    )
    said = "\n".join(
        faults(
            tmp_path,
            recipe(
                checkpoint="/x.pth",
                architecture="a",
                labels="/y.txt",
                mean="0.5,0.5",
                std=[1, 2, 3],
                image_size=0,
                golden=tmp_path / "none",
            ),
        )
    )
    for words in (
        "/x.pth cannot be read",
        "/y.txt cannot be read",
        "mean must be three numbers",
        "There is no picture in",
    ):
        assert words in said
    assert "std 1,2,3 counts pixels from 0 to 255" in said
    assert "model_bundle_create.image_size 0 is no side" in said


def bundle(folder: Path, **manifest: object) -> Path:
    """Write a bundle that is in order, but for what is given."""
    folder.mkdir(parents=True)

    def entry(name: str) -> dict[str, object]:
        (folder / name).write_bytes(name.encode())
        return {"file": name, "bytes": len(name), "sha256": hashlib.sha256(name.encode()).hexdigest()}

    files = {key: entry(key) for key in ("weights", "labels", "golden")}
    content = {"name": "cats", "version": "1", **files, "golden_samples": [entry("cat.jpg")], **manifest}
    (folder / "bundle.json").write_text(json.dumps(content))
    return folder


def test_a_bundle_that_is_there_needs_no_checkpoint(tmp_path: Path) -> None:
    bundle(tmp_path / "models/cats/1")
    assert faults(tmp_path, recipe(checkpoint="/gone.pth", architecture="a", labels="/gone.txt")) == ()


def test_a_damaged_bundle_is_refused_with_its_files(tmp_path: Path) -> None:
    folder = bundle(tmp_path / "models/cats/1", version="2")
    (folder / "weights").write_bytes(b"weightz")
    (folder / "cat.jpg").unlink()
    (fault,) = faults(tmp_path, recipe())
    for words in (
        "is damaged",
        "says that it is cats 2",
        "weights is not what its manifest says",
        "cat.jpg is missing",
    ):
        assert words in fault


def test_a_bundle_that_is_nowhere_is_refused_with_the_versions_that_are(tmp_path: Path) -> None:
    bundle(tmp_path / "models/cats/0")
    (fault,) = faults(tmp_path, recipe())
    assert f"There is no bundle at {tmp_path}/models/cats/1" in fault
    assert "Versions of cats in" in fault
    assert fault.endswith(": 0.")


def test_a_url_needs_a_checksum() -> None:
    url = "https://models.example/cats.tar"
    assert model_faults("cats", "1", url, "sha256:" + "0" * 64, "{}") == ()
    assert "set model_bundle_checksum" in model_faults("cats", "1", url, "", "{}")[0]


def image(**settings: str) -> list[str]:
    defaults = {
        "strategy": "host",
        "source_dir": str(REPOSITORY),
        "builder_base": "auto",
        "runtime_base": "auto",
        "reference": "",
        "gateway_reference": "",
    }
    return list(image_faults({f"inference_image_{key}": value for key, value in {**defaults, **settings}.items()}))


def test_what_an_image_is_made_of_is_looked_at(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert image() == []
    assert "There is no Dockerfile" in image(source_dir=str(tmp_path))[0]
    assert "name both or neither" in image(runtime_base="debian:13")[0]
    assert "set inference_image_gateway_reference to" in image(strategy="pull", reference="a@sha256:1")[0]
    monkeypatch.setenv("PATH", str(tmp_path))
    docker_fault.cache_clear()
    assert "there is no docker command. Install Docker here." in image(strategy="controller")[0]
    refusing = tmp_path / "docker"
    refusing.write_text("#!/bin/sh\necho 'permission denied while trying to connect' >&2\nexit 1\n")
    refusing.chmod(0o755)
    docker_fault.cache_clear()
    assert "permission denied while trying to connect" in image(strategy="controller")[0]
    docker_fault.cache_clear()


@pytest.mark.parametrize(
    ("reason", "step"),
    [
        ("permission denied while trying to connect to the Docker daemon socket", "sudo usermod -aG docker ann"),
        ("Cannot connect to the Docker daemon. Is the docker daemon running?", "Start Docker here"),
        ("docker: 'buildx' is not a docker command.", "docker-buildx"),
    ],
)
def test_a_controller_that_cannot_build_reads_what_to_do(reason: str, step: str) -> None:
    assert step in docker_step(reason, "ann")


def machine(name: str, port: str, bind: str, address: str = "", reach: str = "") -> dict[str, str]:
    return {
        "name": name,
        "port": port,
        "bind": bind,
        "address": address,
        "ssh_port": "",
        "reach": reach or address or name,
    }


def test_load_balancers_and_hosts_must_go_together() -> None:
    host = machine("gpu-1", "8000", "192.0.2.11", "192.0.2.11")
    assert list(balancer_faults([machine("lb-1", "80", "::", "192.0.2.10")], [host])) == []
    clash = list(balancer_faults([machine("lb-1", "8000", "::", "192.0.2.11")], [host]))
    assert len(clash) == 1
    assert "lb-1 and the service of gpu-1 are on one machine, and both want port 8000" in clash[0]
    assert list(balancer_faults([machine("lb-1", "8000", "192.0.2.12", "192.0.2.11")], [host])) == []
    alone = machine("gpu-2", "8000", "127.0.0.1", "192.0.2.12")
    (fault,) = balancer_faults([machine("lb-1", "80", "::", "192.0.2.10")], [host, alone])
    assert "No load balancer can reach gpu-2" in fault
    assert list(balancer_faults([], [alone])) == []


def deploy(inventory: dict[str, Any], folder: Path, *arguments: str) -> tuple[int, str]:
    """Run the real playbook on hosts that nobody can reach; return how it ended and what it said, in one line."""
    (folder / "hosts.yml").write_text(yaml.safe_dump(inventory))
    return run(f"-i{folder}/hosts.yml", "playbooks/deploy.yml", *arguments)


@pytest.mark.parametrize("arguments", [(), ("--check",)])
def test_a_deploy_ends_before_it_reaches_a_host_with_one_message_for_all(
    arguments: tuple[str, ...], checkpoint: Path, tmp_path: Path
) -> None:
    few = lines(tmp_path / "few.txt", 66)
    settings = {
        "model_bundle_source": str(tmp_path / "models"),
        "model_bundle_create": {"checkpoint": str(checkpoint), "architecture": "resnet50", "labels": str(few)},
        "ansible_connection": "nowhere",
    }
    code, output = deploy(
        {"inference_hosts": {"hosts": {"gpu-1": {}, "gpu-2": {}}, "vars": settings}}, tmp_path, *arguments
    )
    assert code != 0
    assert output.count("This cannot be deployed") == 1
    assert "This cannot be deployed, so nothing was started: The labels" in output
    assert "name 66 classes" in output
    assert "nowhere" not in output


def test_a_fault_of_some_hosts_names_them(tmp_path: Path) -> None:
    hosts = {"gpu-1": {"ansible_connection": "nowhere"}, "gpu-2": {"ansible_connection": "nowhere"}}
    hosts["gpu-2"]["model_bundle_source"] = str(tmp_path / "none")
    hosts["gpu-1"] |= {"inference_image_strategy": "pull", "model_bundle_source": str(tmp_path / "models")}
    bundle(tmp_path / "models/efficientnet-lite0-imagenet/1", name="efficientnet-lite0-imagenet")
    code, output = deploy({"inference_hosts": {"hosts": hosts}}, tmp_path)
    assert code != 0
    assert "to the images in your registry. (gpu-1)" in output
    assert "none: none. (gpu-2)" in output
