"""Images on their way from one engine to another: what arrives is what was saved, and nothing else."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import ansible
import pytest

from tests.integration.conftest import NAME
from tests.integration.support.lab import DEPLOY, GUEST, PASSWORD, Lab, Machine
from tests.integration.support.playbooks import ROOT, SMALL_SERVICE, Run, docker

IMAGE = f"{NAME}-parcel:1"

# Saved, and then loaded as what the tasks say it is.
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - gpu_hosts.timm.service_image: {state: saved, images: ["{{ image }}"]}
      register: saved
    - ansible.builtin.command: "docker image rm {{ image }}"
    - gpu_hosts.timm.service_image: {state: loaded, parcel: "{{ saved.parcel | combine(other) }}"}
    - gpu_hosts.timm.service_image: {state: loaded, parcel: "{{ saved.parcel }}"}
      register: again
    - ansible.builtin.assert: {that: again is not changed}
"""

# What a controller needs of this checkout, and of the Python packages beside Ansible.
CHECKOUT = ["ansible.cfg", "playbooks", "plugins", "roles", "Dockerfile", "docker-compose.yml", ".dockerignore"]
CHECKOUT += ["app", "docker", "requirements"]
PACKAGES = ["ansible", "ansible_collections/ansible", "ansible_collections/community/docker", "jinja2", "markupsafe"]
PACKAGES += ["ansible_collections/community/library_inventory_filtering_v1", "packaging", "resolvelib", "yaml"]


@pytest.fixture
def image() -> Iterator[str]:
    """An image of one empty layer; its id is returned."""
    empty = subprocess.run(("tar", "--create", "--files-from=/dev/null"), capture_output=True, check=True).stdout
    done = subprocess.run(("docker", "import", "-", IMAGE), input=empty, capture_output=True, check=True)
    yield done.stdout.decode().strip()
    subprocess.run(("docker", "image", "rm", "--force", IMAGE), capture_output=True, check=False)


def carry(tmp_path: Path, **other: Any) -> subprocess.CompletedProcess[str]:
    """Save the image, remove it, load it; what else is said of the parcel takes the place of what is true."""
    playbook = tmp_path / "carry.yml"
    playbook.write_text(PLAYBOOK)
    tool = Path(sys.executable).with_name("ansible-playbook")
    extra = json.dumps({"image": IMAGE, "other": other, "ansible_python_interpreter": sys.executable})
    words = [str(tool), "--inventory=localhost,", "--connection=local", f"--extra-vars={extra}", str(playbook)]
    return subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)


def test_what_was_saved_is_loaded_once(tmp_path: Path, image: str) -> None:
    done = carry(tmp_path)
    assert done.returncode == 0, done.stdout
    assert docker("image", "inspect", "--format={{.Id}}", IMAGE).strip() == image


def test_what_is_not_what_was_saved_is_removed_again(tmp_path: Path, image: str) -> None:
    done = carry(tmp_path, images={IMAGE: ["sha256:other", 0, ["sha256:other"]]})
    assert done.returncode != 0
    assert f"differs from the one that was saved ({IMAGE}), so it was removed." in " ".join(done.stdout.split())
    assert docker("image", "ls", "--quiet", IMAGE) == ""


class Controller:
    """A machine that has images and deploys from there, by SSH to a host that has none.

    They are empty ones with the names that this checkout's have: what they are made of is another test's matter.
    """

    def __init__(self, lab: Lab) -> None:
        self.machine, self.host = lab["lb-1"], lab["lb-2"]
        self.images = json.loads((ROOT / ".cache" / "test-images.json").read_text())
        for name in (self.images["runtime"], self.images["gateway"]):
            self.machine.sh(f"echo {name} >/srv/name && tar --create /srv/name | docker import - {name}")
        site = Path(ansible.__file__).parents[1]
        # Versions are looked up there.
        packages = [*PACKAGES, *(path.name for path in site.glob("*.dist-info"))]
        for folder, names, target in ((ROOT, CHECKOUT, "/srv/checkout"), (site, packages, "/srv/packages")):
            words = ["tar", "--create", f"--directory={folder}", "--exclude=__pycache__", *names]
            packed = subprocess.run(words, capture_output=True, check=True).stdout
            unpack = f"mkdir {target} && tar --extract --no-same-owner --directory={target}"
            put = ["docker", "exec", "--interactive", self.machine.container, "sh", "-c", unpack]
            subprocess.run(put, input=packed, check=True)
        connection = {
            "ansible_host": self.host.address,
            "ansible_user": DEPLOY,
            "ansible_ssh_common_args": "-o StrictHostKeyChecking=accept-new",
            "ansible_become": True,
            "ansible_become_password": PASSWORD,
            "inference_image_strategy": "controller",
            "model_bundle_source": "https://models.example/small.tar",
            "model_bundle_checksum": f"sha256:{'0' * 64}",
            "model_bundle_name": "small",
            "model_bundle_version": "A",
            **SMALL_SERVICE,
        }
        inventory = {"all": {"vars": connection}, "inference_hosts": {"hosts": {"far": {}}}}
        self.machine.sh("cat >/srv/inventory.json", json.dumps(inventory))
        for user in (GUEST, "root"):
            self.machine.sh(f"install -d -m 700 -o {user} ~{user}/.ssh")
            self.machine.sh(f"install -m 600 -o {user} /dev/stdin ~{user}/.ssh/id_ed25519", lab.key.read_text())

    def provide_image(self, user: str) -> Run:
        """Run what a deploy does about images, as this user of the controller."""
        words = "python3 -m ansible playbook -i /srv/inventory.json playbooks/deploy.yml"
        words += " --tags inference_image_select,inference_image_build"
        command = ["docker", "exec", f"--user={user}", "--workdir=/srv/checkout", "--env=PYTHONPATH=/srv/packages"]
        command += ["--env=ANSIBLE_NOCOLOR=1", self.machine.container, "sh", "-c", f"{words} 2>&1"]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        return Run(done.returncode, done.stdout)


def images(machine: Machine) -> set[str]:
    """Return names and ids of the images that the machine's engine has."""
    return set(machine.sh("docker image ls --no-trunc --format '{{.Repository}}:{{.Tag}} {{.ID}}'").splitlines())


@pytest.fixture(scope="module")
def controller(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controller]:
    with Lab(tmp_path_factory.mktemp("lab"), f"{NAME}-ship", inference_hosts=0, load_balancers=2) as lab:
        yield Controller(lab)


def test_a_controller_whose_user_may_not_use_docker_says_so_before_a_host_is_touched(controller: Controller) -> None:
    run = controller.provide_image(GUEST)
    assert run.code != 0
    said = " ".join(run.output.split())
    assert f"{GUEST} cannot build images here: permission denied" in said
    assert f"sudo usermod -aG docker {GUEST}" in said
    assert controller.host.sh("ls -d /var/lib/timm-classifier 2>/dev/null || true") == ""


def test_a_user_of_dockers_group_who_may_not_use_sudo_ships_the_images(controller: Controller) -> None:
    controller.machine.sh(f"usermod --append --groups docker {GUEST}")
    run = controller.provide_image(GUEST)
    assert run.code == 0, run.output[-6000:]
    assert images(controller.host) == images(controller.machine)
    left = "find /tmp /root/.ansible /home/*/.ansible -type f -size +1k 2>/dev/null || true"
    assert [machine.sh(left) for machine in (controller.machine, controller.host)] == ["", ""]


def test_what_somebody_put_in_the_temporary_folder_is_not_loaded(controller: Controller) -> None:
    digest = controller.images["runtime"].rpartition("-")[2]
    controller.host.sh("docker image ls --quiet | xargs --no-run-if-empty docker image rm")
    plant = f"tar -c -T /dev/null | docker import - planted:1 && docker save -o /tmp/{digest}-far.tar planted:1"
    controller.machine.sh(f"{plant} && chown {GUEST} /tmp/{digest}-far.tar && docker image rm planted:1")
    run = controller.provide_image("root")
    assert run.code == 0, run.output[-6000:]
    assert images(controller.host) == images(controller.machine)
