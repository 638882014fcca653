"""Misspelt variables and wrong values end a run before anything happens; everything else passes."""

from __future__ import annotations

import datetime
import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.action.validate_variables import (
    meant,
    refusal,
    spelling_fault,
    value_fault,
)
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.description import DescriptionError, check_settings
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.option_rules import GONE, OWN_SETTINGS
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import read_options

REPOSITORY = Path(__file__).resolve().parents[3]
ROLES: dict[str, dict[str, dict[str, Any]]] = {
    "inference_service": {"inference_service_port": {"type": "int"}, "inference_service_bind": {"type": "str"}},
    "gateway": {"gateway_image": {"type": "str"}, "gateway_port": {"type": "int"}},
    "model_bundle": {"model_bundle_version": {"type": "str"}},
}
REAL = read_options(REPOSITORY)


class Project:
    """A checkout in small: a few roles, one playbook that begins with the check, and an inventory."""

    def __init__(self, root: Path) -> None:
        self.root = root
        # Linked as the real one is.
        link = root / "playbooks" / "collections" / "ansible_collections" / COLLECTION.replace(".", "/")
        link.parent.mkdir(parents=True)
        link.symlink_to(root)
        (root / "plugins").symlink_to(REPOSITORY / "plugins")
        for role, options in ROLES.items():
            self.write(
                f"roles/{role}/meta/argument_specs.yml",
                yaml.safe_dump({"argument_specs": {"main": {"options": options}}}),
            )
            self.write(f"roles/{role}/defaults/main.yml", yaml.safe_dump({f"{role}_internal_default": 1}))
            self.write(f"roles/{role}/tasks/main.yml", "[]")
        self.write("playbooks/meta/argument_specs.yml", (REPOSITORY / "playbooks/meta/argument_specs.yml").read_text())
        local = {"ansible_connection": "local"}
        hosts = {
            "inference_hosts": {"hosts": {"one": local, "two": local}},
            "load_balancers": {"hosts": {"front": local}},
            "others": {"hosts": {"printer": {**local, "gateway_of_the_office": "x"}}},
        }
        self.write("inventory/hosts.yml", yaml.safe_dump(hosts))
        before = {"ansible.builtin.set_fact": {"gateway_report": "of an earlier play"}}
        play = {
            "hosts": "all",
            "gather_facts": False,
            "vars": {"gateway_of_the_playbook": 1},
            "roles": [f"{COLLECTION}.gateway"],
            "pre_tasks": [before, {f"{COLLECTION}.validate_variables": None, "run_once": True}],
            "tasks": [{"ansible.builtin.debug": {"msg": "the run went on"}}],
        }
        self.write("playbooks/deploy.yml", yaml.safe_dump([play]))

    def write(self, path: str, text: str) -> None:
        target = self.root / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_text(text, encoding="utf-8")

    def run(self, *arguments: str, playbook: str = "playbooks/deploy.yml") -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [
                Path(sys.executable).with_name("ansible-playbook"),
                "--inventory",
                "inventory/hosts.yml",
                playbook,
                *arguments,
            ],
            cwd=self.root,
            env={
                "PATH": os.environ["PATH"],
                "HOME": str(self.root),
                "ANSIBLE_NOCOLOR": "1",
                "ANSIBLE_COLLECTIONS_PATH": str(self.root / "playbooks/collections"),
            },
            capture_output=True,
            text=True,
            check=False,
        )

    def refused(self, *arguments: str, **options: str) -> str:
        """Return the faults that a run is refused for, a line each."""
        process = self.run(*arguments, **options)
        output = process.stdout + process.stderr
        assert process.returncode != 0, output
        assert "the run went on" not in output
        message = json.loads(output.partition("FAILED! => ")[2].partition("\n")[0])["msg"]
        first, *faults, last = message.splitlines()
        assert re.search("(is|are) wrong, so nothing was started:", first), message
        assert last.startswith("Correct the inventory")
        return "\n".join(faults)

    def accepted(self, *arguments: str, **options: str) -> None:
        process = self.run(*arguments, **options)
        assert process.returncode == 0, process.stdout + process.stderr
        assert "the run went on" in process.stdout


@pytest.fixture
def project(tmp_path: Path) -> Project:
    return Project(tmp_path)


def test_right_names_foreign_names_facts_and_other_hosts_pass(project: Project) -> None:
    project.write(
        "inventory/group_vars/all.yml", "datacenter: ams\nmodel_bundle_version: 2\nredis_service_port: 6379\n"
    )
    project.accepted("-e", "inference_service_port=1", "-e", '{"__scratch": 1}', "-e", "ansible_user=root")


def test_everything_that_is_wrong_comes_in_one_message_with_its_place(project: Project) -> None:
    project.write("inventory/group_vars/all.yml", "region: x\ngateway_imagee: x\ndeploy_batch_size: 2\n")
    project.write("inventory/group_vars/inference_hosts.yml", "model_bundle_version: 010\n")
    project.write("inventory/host_vars/one.yml", "inference_service_bnd: x\n")
    project.write("inventory/host_vars/front.yml", "gateway_prot: 80\n")
    project.write("playbooks/group_vars/all.yml", "deploy_pause: 3\n")
    faults = project.refused("-e", "bundle_version=3", "-e", "inference_service_port=http", "-e", "gateway_report=x")
    assert faults.splitlines() == [
        "  bundle_version: did you mean model_bundle_version? (-e)",
        "  deploy_batch_size: did you mean deploy_batch? (inventory/group_vars/all.yml:3)",
        "  deploy_pause: did you mean deploy_pause_seconds? (playbooks/group_vars/all.yml:1)",
        "  gateway_imagee: did you mean gateway_image? (inventory/group_vars/all.yml:2)",
        "  gateway_prot: did you mean gateway_port? (front; inventory/host_vars/front.yml:1)",
        # A fact of that name does not hide it.
        "  gateway_report: did you mean gateway_port? (-e)",
        "  inference_service_bnd: did you mean inference_service_bind? (one; inventory/host_vars/one.yml:1)",
        "  inference_service_port: 'http' is not of type int (-e)",
        "  model_bundle_version: YAML reads 010 as the number 8; write it in quotes "
        "(one, two; inventory/group_vars/inference_hosts.yml:1)",
    ]


def test_what_somebodys_import_sets_would_reach_only_a_part_of_the_run(project: Project) -> None:
    """Hosts are asked for each other's variables, and those of an import are no host's."""
    variables = {"model_bundle_version": "2", "datacenter": "ams"}
    imports = [{"ansible.builtin.import_playbook": "playbooks/deploy.yml", "vars": variables}]
    project.write("site.yml", yaml.safe_dump(imports))
    assert project.refused(playbook="site.yml") == (
        "  model_bundle_version: vars of import_playbook do not reach the whole run; "
        "set it in the inventory or with -e (site.yml:4)"
    )
    del variables["model_bundle_version"]
    project.write("site.yml", yaml.safe_dump(imports))
    project.accepted(playbook="site.yml")


def test_what_an_earlier_version_took_is_refused_with_what_became_of_it(project: Project) -> None:
    project.write("inventory/group_vars/all.yml", "model_bundle_dir: /srv/bundles\n")
    assert project.refused() == (
        "  model_bundle_dir: it is gone: bundles lie in inference_service_state_dir, where instances look. Remove it. "
        "(inventory/group_vars/all.yml:1)"
    )
    assert not GONE.keys() & {name for options in REAL.values() for name in options}


def test_a_value_that_cannot_be_evaluated_is_refused_unless_it_needs_facts(project: Project) -> None:
    project.write(
        "inventory/group_vars/all.yml", "inference_service_bind: '{{ ansible_facts.default_ipv4.address }}'\n"
    )
    project.write("inventory/host_vars/front.yml", "gateway_image: '{{ nowhere }}'\n")
    faults = project.refused("-e", '{"model_bundle_version": 010}')
    assert (
        "gateway_image: it cannot be evaluated: 'nowhere' is undefined (front; inventory/host_vars/front.yml:1)"
        in faults
    )
    assert "inference_service_bind" not in faults
    assert "model_bundle_version: YAML reads this as the number 8; write it in quotes (-e)" in faults


NAMES = [
    ("inference_service_prot", ["inference_service_port"]),
    ("inferense_service_port", ["inference_service_port"]),
    ("Model-Bundle-Version", ["model_bundle_version"]),
    ("bundle_version", ["model_bundle_version"]),
    ("model_version", ["model_bundle_version"]),
    ("service_port", ["inference_service_port"]),
    ("inference_port", ["inference_service_port"]),
    ("state_dir", ["gateway_state_dir", "inference_service_state_dir"]),
    ("deploy_batch_size", ["deploy_batch"]),
    ("deploy_pause", ["deploy_pause_seconds"]),
    ("deploy_canaries", ["deploy_canary"]),
    ("deploy_wait_seconds", ["deploy_pause_seconds"]),
    ("verify_report_file", ["verify_report"]),
    ("my_bundle_version", ["model_bundle_version"]),
    ("gateway_zzzzzzzzzzzz", []),
]


@pytest.mark.parametrize(("name", "options"), NAMES)
def test_a_name_that_is_meant_for_us_is_refused(name: str, options: list[str]) -> None:
    assert meant(name, REAL, addressed=False) == options


FOREIGN = """
acme_bundle_name app_name app_version datacenter deploy_key deploy_user docker_daemon_options docker_edition
docker_install_compose docker_users env gpu gpus grafana_image_name host_name http_port image labels model my_company_dc
nginx_state_dir node_exporter_version ntp_server nvidia_driver nvidia_docker_version nvidia_gpu_operator port
postgresql_service_name prometheus_port redis_service_port region service timezone verify_ssl version
"""


@pytest.mark.parametrize("name", FOREIGN.split())
def test_a_name_that_something_else_may_have_passes(name: str) -> None:
    assert meant(name, REAL, addressed=False) is None


@pytest.mark.parametrize("name", ["acme_bundle_name", "redis_service_port", "deploy_parallel"])
def test_on_the_command_line_less_is_a_doubt(name: str) -> None:
    assert meant(name, REAL, addressed=True) is not None
    assert meant(name, REAL, addressed=False) is None


@pytest.mark.parametrize("name", ["ntp_server", "my_company_dc", "region", "version"])
def test_the_command_line_may_have_what_is_not_ours(name: str) -> None:
    assert meant(name, REAL, addressed=True) is None


@pytest.mark.parametrize(
    ("value", "line", "fault"),
    [
        ("010", "'010'", ""),
        (2, "2  # the second", ""),
        (2, None, ""),
        (8, "010", "YAML reads 010 as the number 8; write it in quotes"),
        (16, "0x10", "YAML reads 0x10 as the number 16; write it in quotes"),
        (90, "1:30", "YAML reads 1:30 as the number 90; write it in quotes"),
        (1000, "1_000", "YAML reads 1_000 as the number 1000; write it in quotes"),
        (1.1, "1.10", "YAML reads 1.10 as the number 1.1; write it in quotes"),
        (datetime.date(2026, 11, 1), "2026-11-01", "YAML reads 2026-11-01 as the date 2026-11-01; write it in quotes"),
        (True, None, "YAML reads this as true, not as text; write it in quotes"),
    ],
)
def test_a_version_keeps_its_spelling_or_is_refused(value: Any, line: str | None, fault: str) -> None:
    assert spelling_fault(value, line) == fault


VALUES = [
    ("inference_service_port", [1, "8000", 65535], [0, "http", 65536, 80.5, True, None]),
    ("gateway_port", [80], [-1]),
    ("inference_service_bind", ["127.0.0.1", "192.0.2.1", "::1"], ["localhost", "10.0.0.300", "10.0.0.1\n"]),
    ("inference_service_memory", ["8g", "512m", 1073741824], ["8 g", "8gib", "all", "-1g", 8.5]),
    ("inference_service_cpus", [2, "1.5"], [0, "many", True]),
    ("inference_service_gpus", ["all", [0, 1], ["GPU-1a", "0:1"]], ["0", [0, 0], ["a b"]]),
    ("inference_service_env", [{}, {"API_QUEUE": 1}], [{"QUEUE": 1}, {"API_PORT": 1}, "API_QUEUE=1"]),
    ("inference_service_strategy", ["auto"], ["rolling"]),
    ("inference_service_purge", ["true", False], ["perhaps"]),
    ("inference_service_name", ["timm-classifier"], ["Cats", "a b", "-a", "a\n"]),
    ("inference_service_state_dir", ["/data", "/var/lib/cats"], ["/", "/var/lib", "/var/lib/", "cats", "/a:b"]),
    ("inference_service_bake_seconds", [0], [-1]),
    ("inference_image_flavor", ["cpu"], ["cuda"]),
    ("model_bundle_version", ["1", "2026-11-01", 2], ["../1", ".1", "1\n", "", "a/b", 1.5]),
    ("model_bundle_checksum", ["", "sha256:" + "0" * 64], ["0" * 64, "sha256:" + "0" * 64 + "\n"]),
    ("model_bundle_create", [{}], ["best.pth", None]),
    ("nvidia_driver_waived_findings", [[{"id": "GPU009", "reason": "tested"}]], [[{"id": "GPU009"}], ["GPU009"]]),
    ("nvidia_driver_packages", [["a"]], [{"a": 1}]),
    ("deploy_canary", [1, "2", "10%"], [0, "-1", "few", "101%"]),
    ("deploy_batch", [1, "25%"], [0, "25 %", "1.5", 1.5]),
    ("deploy_pause_seconds", [0, "30"], [-1, "1m"]),
    ("verify_report", ["report.json", "/report.json"], ["/nowhere/report.json"]),
]


@pytest.mark.parametrize(("name", "right", "wrong"), VALUES)
def test_values_are_what_their_option_is_about(name: str, right: list[Any], wrong: list[Any]) -> None:
    spec = next(options[name] for options in REAL.values() if name in options)
    assert {str(value): value_fault(name, spec, value, None) for value in right} == {str(value): "" for value in right}
    assert [value for value in wrong if not value_fault(name, spec, value, None)] == []


def test_the_defaults_of_all_options_are_right() -> None:
    faults = [
        value_fault(name, spec, spec["default"], None)
        for options in REAL.values()
        for name, spec in options.items()
        if "default" in spec and "{{" not in str(spec["default"])
    ]
    assert [fault for fault in faults if fault] == []


def test_the_settings_of_the_deployment_are_those_that_the_role_refuses() -> None:
    fault = value_fault("inference_service_env", {"type": "dict"}, {"API_PORT": 1}, None)
    with pytest.raises(DescriptionError) as refused:
        check_settings({"API_PORT": 1})
    names = [set(re.findall(r"\bAPI_[A-Z_]*[A-Z]\b", said)) for said in (fault, str(refused.value))]
    assert names == [{*OWN_SETTINGS}] * 2


def test_the_playbooks_explain_their_options_where_they_are_checked() -> None:
    assert set(REAL["playbooks"]) == {
        "deploy_canary",
        "deploy_batch",
        "deploy_pause_seconds",
        "deploy_address",
        "logs_follow",
        "logs_lines",
        "logs_release",
        "verify_report",
    }


def test_the_refusal_says_what_to_do() -> None:
    message = refusal({"gateway_x: no role has it.": ""})
    assert message.startswith("One variable is wrong, so nothing was started:\n  gateway_x: no role has it.\n")
    assert "README" in message
