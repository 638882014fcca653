"""The images for GPUs on a machine without one: with stand-ins they answer as with the real libraries, and are small.

Some gigabytes of wheels are downloaded, and 12 GB of disk are needed.
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.integration.conftest import NAME
from tests.integration.support.playbooks import ROOT, docker

pytestmark = pytest.mark.trial

SCRIPTS = Path(__file__).parent / "support" / "in_image"
PLAYBOOK = """
- hosts: localhost
  tasks:
    - ansible.builtin.include_role: {name: gpu_hosts.timm.inference_image}
    - ansible.builtin.copy:
        content: "{{ inference_image_tag }} {{ inference_image_gateway_tag }}"
        dest: "{{ told }}"
        mode: "0644"
"""


class Images:
    """Both kinds of a flavor's image, as a deploy makes them."""

    def __init__(self, flavor: str, folder: Path) -> None:
        self._gateway = ""
        self.tags = {kind: self._build(flavor, kind, folder) for kind in ("whole", "slim")}

    def _build(self, flavor: str, kind: str, folder: Path) -> str:
        playbook, told = folder / "build.yml", folder / kind
        playbook.write_text(PLAYBOOK)
        variables = {
            "inference_image_name": f"{NAME}-cuda",
            "inference_image_flavor": flavor,
            "inference_image_cuda_libraries": kind,
            "told": str(told),
            "ansible_python_interpreter": sys.executable,
        }
        words = [
            str(Path(sys.executable).with_name("ansible-playbook")),
            "--inventory=localhost,",
            "--connection=local",
        ]
        words += [f"--extra-vars={json.dumps(variables)}", str(playbook)]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout[-6000:]
        tag, self._gateway = told.read_text().split()
        return tag

    def run(self, kind: str, *arguments: str) -> tuple[Any, str]:
        """What the script prints in an image where every symbol is looked for at once, and what it says on stderr."""
        words = ["docker", "run", "--rm", "--network=none", "--env=LD_BIND_NOW=1", f"--volume={SCRIPTS}:/scripts:ro"]
        words += [self.tags[kind], "python", "/scripts/cuda_answers.py", *arguments]
        done = subprocess.run(words, capture_output=True, text=True, check=True)
        return json.loads(done.stdout), done.stderr

    def remove(self) -> None:
        for tag in (*self.tags.values(), self._gateway):
            subprocess.run(["docker", "image", "rm", tag], capture_output=True, check=False)


@pytest.fixture(scope="module", params=["cu124", "cu130"])
def built(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Images]:
    images = Images(request.param, tmp_path_factory.mktemp("images"))
    yield images
    images.remove()


def test_models_answer_as_with_the_real_libraries_and_call_no_stand_in(built: Images) -> None:
    (expected, _), (found, said) = built.run("whole"), built.run("slim")
    assert len(expected) >= 4
    for architecture, probabilities in expected.items():
        assert found[architecture] == pytest.approx(probabilities, abs=1e-6), architecture
    assert "is a stand-in" not in said


def test_a_call_is_answered_with_not_supported_and_says_what_is_missing(built: Images) -> None:
    found, said = built.run("slim", "calls")
    text = found.pop("torch")
    assert found == {
        "cufftCreate": 16,
        "cusparseCreate": 10,
        "cusparseLtInit": 10,
        "ncclCommInitAll": 5,
        "cuptiSubscribe": 27,
    }
    assert text.startswith("NCCL Error 5: libnccl.so.2 is a stand-in: this image leaves out computing on several GPUs")
    assert said.count("build with --build-arg CUDA_LIBRARIES=whole") == len(found)
    assert "this image leaves out Fourier transforms on the GPU (torch.fft)" in said


def test_it_is_small(built: Images) -> None:
    tag = built.tags["slim"]
    assert int(docker("image", "inspect", "--format={{.Size}}", tag)) <= 3.3e9
    words = ["sh", "-c", 'docker save "$0" | gzip -6 | wc -c', tag]
    packed = subprocess.run(words, capture_output=True, text=True, check=True)
    assert int(packed.stdout) <= 1.8e9
