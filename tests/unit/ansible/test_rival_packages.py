"""Docker's packages are not installed over a distribution's: the role's own tasks, the package tool a stand-in."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest

from tests.unit.ansible.playbook_run import REPOSITORY, run

FAMILIES = {"Debian": ("dpkg-query", "Debian", "trixie"), "RedHat": ("rpm", "Rocky", "Blue Onyx")}
# In --check the tasks that follow only say what they would do.
PLAYBOOK = """
- hosts: all
  gather_facts: false
  tasks:
    - ansible.builtin.include_role:
        name: gpu_hosts.timm.docker_engine
        tasks_from: install.yml
"""


def install(folder: Path, family: str, source: str, *packages: str) -> tuple[int, str]:
    """Have the role install the engine, on a host with these packages."""
    tool, distribution, release = FAMILIES[family]
    stand_in = folder / tool
    absent = "" if family == "Debian" else "echo 'package docker is not installed'\n"
    stand_in.write_text(f"#!/bin/sh\n{absent}printf '%s:installed\\n' {' '.join(packages)}\nexit 1\n")
    stand_in.chmod(0o755)
    (folder / "play.yml").write_text(PLAYBOOK)
    facts = {"os_family": family, "distribution": distribution, "distribution_release": release}
    variables = {
        "ansible_facts": facts | {"distribution_major_version": "9", "architecture": "x86_64"},
        "ansible_python_interpreter": sys.executable,
        "docker_engine_source": source,
        # Nobody answers there.
        "docker_engine_vendor_url": "http://127.0.0.1:9",
        "__docker_engine_query": {family: [str(stand_in)]},
    }
    return run(
        "--inventory=localhost,", "--connection=local", "--check", f"--extra-vars={json.dumps(variables)}",
        str(folder / "play.yml"), folder=REPOSITORY,
    )  # fmt: skip


@pytest.mark.parametrize(
    ("family", "packages", "named", "way_out"),
    [
        ("RedHat", ("docker", "podman", "runc"), "conflict with docker, runc of", "crun in its place"),
        ("Debian", ("docker.io", "containerd", "runc"), "docker.io, containerd, runc of", "docker_engine_source="),
    ],
)
def test_what_other_containers_run_by_is_not_replaced(
    tmp_path: Path, family: str, packages: tuple[str, ...], named: str, way_out: str
) -> None:
    code, said = install(tmp_path, family, "vendor", *packages)
    assert code == 2
    assert named in said
    assert way_out in said
    assert "Nothing was installed." in said


@pytest.mark.parametrize(
    ("source", "packages", "goes_on"),
    [
        ("auto", ("runc",), "Would install docker.io"),
        ("vendor", ("docker-ce", "containerd.io"), "Fetch the vendor's signing key"),
        ("vendor", ("podman", "crun"), "Fetch the vendor's signing key"),
    ],
)
def test_what_gets_along_is_installed(tmp_path: Path, source: str, packages: tuple[str, ...], goes_on: str) -> None:
    _, said = install(tmp_path, "Debian", source, *packages)
    assert goes_on in said
