"""Misspelt variables end a run before anything happens; everything else passes."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from plugins.action.validate_variables import known_variables, refusal, wrong_variables

REPOSITORY = Path(__file__).resolve().parents[3]
ROLES = {
    "inference_service": {"inference_service_port", "inference_service_bind"},
    "gateway": {"gateway_image"},
}


class Project:
    """A checkout in small: two roles, one playbook that begins with the check, and an inventory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        for role, options in ROLES.items():
            specs = {"argument_specs": {"main": {"options": {name: {"type": "str"} for name in options}}}}
            self.write(f"roles/{role}/meta/argument_specs.yml", yaml.safe_dump(specs))
            self.write(f"roles/{role}/defaults/main.yml", yaml.safe_dump({f"{role}_internal_default": 1}))
            self.write(f"roles/{role}/tasks/main.yml", "[]")
        self.write("inventory/hosts.yml", yaml.safe_dump({"app": {"hosts": {"one": {"ansible_connection": "local"}}}}))
        self.play()

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def play(self, *also_known: str) -> None:
        before = {"ansible.builtin.set_fact": {"gateway_report": "of an earlier play"}}
        check = {"validate_variables": {"also_known": list(also_known)}}
        play = {
            "hosts": "all",
            "gather_facts": False,
            "vars": {"gateway_of_the_playbook": 1},
            "roles": ["gateway"],
            "pre_tasks": [before, check],
            "tasks": [{"ansible.builtin.debug": {"msg": "the run went on"}}],
        }
        self.write("playbooks/deploy.yml", yaml.safe_dump([play]))

    def run(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        plugins = REPOSITORY / "plugins"
        return subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                "--inventory",
                "inventory/hosts.yml",
                "playbooks/deploy.yml",
                *arguments,
            ],
            cwd=self.root,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.root),
                "ANSIBLE_LIBRARY": str(plugins / "modules"),
                "ANSIBLE_ACTION_PLUGINS": str(plugins / "action"),
                "ANSIBLE_ROLES_PATH": str(self.root / "roles"),
                "ANSIBLE_NOCOLOR": "1",
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def refused(self, *arguments: str) -> str:
        process = self.run(*arguments)
        output = process.stdout + process.stderr
        assert process.returncode != 0, output
        assert "the run went on" not in output
        return output

    def accepted(self, *arguments: str) -> None:
        process = self.run(*arguments)
        assert process.returncode == 0, process.stdout + process.stderr
        assert "the run went on" in process.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_right_names_and_foreign_names_pass(project: Project) -> None:
    project.accepted("-e", "inference_service_port=1", "-e", "datacentre=ams", "-e", '{"__scratch": 1}')


def test_facts_defaults_and_the_playbooks_own_variables_are_not_looked_at(project: Project) -> None:
    project.accepted("-e", "ansible_user=root")


def test_a_misspelt_option_on_the_command_line(project: Project) -> None:
    assert "inference_service_prot: did you mean inference_service_port?" in project.refused(
        "-e", "inference_service_prot=1"
    )


def test_a_misspelt_prefix(project: Project) -> None:
    assert "inferense_service_port: did you mean inference_service_port?" in project.refused(
        "-e", "inferense_service_port=1"
    )


@pytest.mark.parametrize(
    "path",
    [
        "inventory/group_vars/app.yml",
        "inventory/host_vars/one.yml",
        "playbooks/group_vars/all.yml",
    ],
)
def test_files_of_variables_are_looked_at(project: Project, path: str) -> None:
    project.write(path, "gateway_imagee: x\n")
    assert "gateway_imagee: did you mean gateway_image?" in project.refused()


def test_the_inventory_itself_is_looked_at(project: Project) -> None:
    hosts = {"app": {"hosts": {"one": {"ansible_connection": "local", "gateway_colour": "x"}}}}
    project.write("inventory/hosts.yml", yaml.safe_dump(hosts))
    assert "gateway_colour: " in project.refused()


def test_all_wrong_names_come_in_one_message_each_once(project: Project) -> None:
    project.write("inventory/group_vars/all.yml", "gateway_imagee: x\ninference_service_bnd: x\n")
    output = project.refused("-e", "gateway_imagee=y")
    message = output[output.index("fatal: [one]") :]
    assert "2 variables are not known" in message
    assert message.count("gateway_imagee:") == message.count("inference_service_bnd:") == 1


def test_a_fact_does_not_hide_a_wrong_extra_variable(project: Project) -> None:
    assert "gateway_report: " in project.refused("-e", "gateway_report=x")


def test_options_of_the_playbook_are_told(project: Project) -> None:
    assert "gateway_images" in project.refused("-e", "gateway_images=x")
    project.play("gateway_images")
    project.accepted("-e", "gateway_images=x")


def test_the_real_roles_know_their_variables() -> None:
    known = known_variables(REPOSITORY / "roles")
    assert "docker_engine_install" in known["docker_engine"]
    assert "nvidia_driver_gpu" in known["nvidia_driver"]


def test_a_near_name_is_proposed_and_a_far_one_is_let_through() -> None:
    names = ["inference_service_port", "inference_servise_port", "gateway_zzzzzzzzzzzz", "region"]
    assert wrong_variables(names, ROLES, []) == {
        "inference_servise_port": "inference_service_port",
        "gateway_zzzzzzzzzzzz": "",
    }


def test_the_refusal_says_what_to_do() -> None:
    message = refusal({"gateway_x": ""})
    assert message.startswith("One variable is not known")
    assert "no role has it" in message
    assert "README" in message
