"""A run that would not do what its command line asks for ends before any host is changed, and says what to do."""

from __future__ import annotations

import os
import pty
import re
import select
import shutil
import subprocess
from pathlib import Path

import pytest
import yaml
from ansible.release import __version__ as ansible_version

from ansible_collections.gpu_hosts.timm.plugins.action.validate_run import mixed_inventories, no_hosts, unknown_tags
from tests.unit.ansible.playbook_run import PLAYBOOK, REPOSITORY, run

NOT_STARTED = "Nothing was started."


def fleet(folder: Path) -> str:
    """Write an inventory of two hosts that nobody can reach; a run that gets that far has passed the checks."""
    hosts = {"hosts": {name: {"ansible_connection": "nowhere"} for name in ("gpu-1", "gpu-2")}}
    (folder / "fleet.yml").write_text(yaml.safe_dump({"inference_hosts": hosts}))
    return str(folder / "fleet.yml")


@pytest.mark.parametrize("playbook", ["deploy", "rollback", "status", "teardown", "verify"])
def test_every_playbook_refuses_what_is_wrong_before_it_reaches_a_host(playbook: str, tmp_path: Path) -> None:
    code, output = run(f"-i{fleet(tmp_path)}", f"playbooks/{playbook}.yml", "-e", "bundle_version=3")
    assert code != 0
    assert "bundle_version: did you mean model_bundle_version? (-e)" in output
    assert "nowhere" not in output


def test_a_tag_to_skip_may_be_anything(tmp_path: Path) -> None:
    _, output = run(f"-i{fleet(tmp_path)}", "playbooks/deploy.yml", "--skip-tags", "somebody_elses")
    assert "has no tag" not in output


def test_a_tag_that_the_playbook_does_not_have_is_refused(tmp_path: Path) -> None:
    code, output = run(f"-i{fleet(tmp_path)}", "playbooks/deploy.yml", "--tags", "docker_engine_instal")
    assert code != 0
    assert "This playbook has no tag docker_engine_instal" in output
    assert re.search(r"Its tags are docker_engine_configure, docker_engine_install, .*\bmodel_bundle_create\b", output)
    assert NOT_STARTED in output


def test_a_playbook_without_such_tags_says_so(tmp_path: Path) -> None:
    code, output = run(f"-i{fleet(tmp_path)}", "playbooks/status.yml", "--tags", "model_bundle_create")
    assert code != 0
    assert "This playbook has no tag model_bundle_create" in output


def test_a_removal_without_an_inventory_is_refused_where_nobody_sits() -> None:
    code, output = run("playbooks/teardown.yml", "-e", "inference_service_name=never-there")
    assert code != 0
    assert (
        f"This would remove never-there on localhost (the inventory {REPOSITORY}/inventory/local, as none was" in output
    )
    assert "run it again with -i and that inventory. Nothing was started." in output


def test_a_removal_without_an_inventory_is_asked_about_on_a_terminal() -> None:
    terminal, end = pty.openpty()
    command = [PLAYBOOK, "playbooks/teardown.yml", "-e", "inference_service_name=never-there"]
    # The terminal must be the run's own: Ansible asks nobody from the background.
    session = ["setsid", "--ctty", "--wait", "timeout", "--foreground", "120", *command]
    process = subprocess.Popen(session, cwd=REPOSITORY, stdin=end, stdout=end, stderr=end)
    os.close(end)
    said = b""
    try:
        while select.select([terminal], [], [], 1)[0] or process.poll() is None:
            # Ansible throws away what was typed before it listens, so the answer is given until it is heard.
            if b"Type yes to go on" in said:
                os.write(terminal, b"no\r")
            if select.select([terminal], [], [], 0)[0]:
                said += os.read(terminal, 1000)
    except OSError:
        # So ends a terminal.
        pass
    assert process.wait() != 0
    assert "This removes never-there on localhost" in said.decode()
    assert "This was not confirmed with yes. Nothing was started." in " ".join(said.decode().split())


def test_an_inventory_that_is_given_is_enough(tmp_path: Path) -> None:
    code, output = run(f"-i{fleet(tmp_path)}", "playbooks/teardown.yml")
    assert code != 0
    assert "nowhere" in output
    assert NOT_STARTED not in output


def test_the_demo_inventory_beside_a_fleet_is_refused(tmp_path: Path) -> None:
    code, output = run(f"-i{fleet(tmp_path)}", "-i", "inventory/local", "playbooks/deploy.yml")
    assert code != 0
    assert "would apply to gpu-1, gpu-2 too. Give only the inventory of your fleet." in output


def test_an_inventory_without_our_group_is_refused(tmp_path: Path) -> None:
    (tmp_path / "hosts.yml").write_text("inference_host: {hosts: {gpu-1: }}\n")
    code, output = run("-i", str(tmp_path / "hosts.yml"), "playbooks/deploy.yml")
    assert code != 0
    assert "has no host in the group inference_hosts (its groups: inference_host), so there is nothing to do" in output


def test_the_playbooks_run_from_any_folder_and_say_what_is_missing_there(tmp_path: Path) -> None:
    code, output = run(f"-i{fleet(tmp_path)}", str(REPOSITORY / "playbooks/status.yml"), folder=tmp_path)
    assert code != 0
    assert "nowhere" in output
    assert f"{REPOSITORY}/ansible.cfg is not in force" in output
    assert f"ANSIBLE_CONFIG={REPOSITORY}/ansible.cfg" in output


def test_another_ansible_core_is_refused_with_both_versions_and_a_way_out(tmp_path: Path) -> None:
    shutil.copytree(REPOSITORY / "playbooks", tmp_path / "playbooks", symlinks=True)
    for name in ("roles", "plugins", "ansible.cfg"):
        (tmp_path / name).symlink_to(REPOSITORY / name)
    pinned = "ansible==1.0.0\nansible-core==1.2.3\n"
    (tmp_path / "requirements.txt").write_text(pinned)
    code, output = run(f"-i{fleet(tmp_path)}", "playbooks/deploy.yml", "-e", "bundle_version=1", folder=tmp_path)
    assert code != 0
    assert f"This is ansible-core {ansible_version}; these playbooks are made and tested for 1.2.3." in output
    assert "Run .venv/bin/ansible-playbook of the checkout, which `make setup` installs." in output
    assert "bundle_version" not in output


@pytest.mark.parametrize(("target", "demo"), [("setup", False), ("deploy", True), ("deploy INVENTORY=fleet", False)])
def test_make_sets_up_what_a_fleet_needs_and_no_more(target: str, demo: bool) -> None:
    command = ["make", "--dry-run", "--always-make", *target.split()]
    said = subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=True).stdout
    assert "--requirement requirements.txt" in said
    assert ("Fetching the demo checkpoint" in said) == demo


def test_tags_with_a_meaning_of_their_own_pass() -> None:
    assert unknown_tags(["all", "untagged", "a"], ["a", "always"]) == ""
    assert "It has no tags" in unknown_tags(["a"], ["always"])


def test_the_demo_inventory_alone_passes_and_so_do_several_of_a_fleet(tmp_path: Path) -> None:
    demo = str(tmp_path / "inventory/local")
    assert mixed_inventories([demo], tmp_path, ["localhost"]) == ""
    assert mixed_inventories(["a", "b"], tmp_path, ["gpu-1", "gpu-2"]) == ""
    for source in (demo, f"{demo}/hosts.yml", str(tmp_path / "inventory")):
        assert mixed_inventories(["fleet", source], tmp_path, ["localhost", "gpu-1"])


def test_a_limit_to_other_hosts_is_refused() -> None:
    groups = {"inference_hosts": ["a"], "load_balancers": ["b"], "all": ["a", "b", "c"]}
    assert no_hosts(groups, ["b", "c"], []) == ""
    assert "None of c is in the groups" in no_hosts(groups, ["c"], [])
