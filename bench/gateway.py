"""The gateway before one instance, configured as the role does it."""

import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from bench.machine import DATA, ROOT, docker

IMAGE = "timm-classifier-gateway:latest"
# What the role calls the one instance of a color.
INSTANCE = "blue-0"
PORT = 8080
# As the role has it.
_USER = "60842"
_ROLE = ROOT / "roles" / "gateway"
_PLAYBOOK = """
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {{ansible_python_interpreter: "{{{{ ansible_playbook_python }}}}"}}
  vars_files: [{role}/defaults/main.yml, {role}/vars/main.yml]
  tasks:
    - ansible.builtin.template: {{src: {role}/templates/haproxy.cfg.j2, dest: {target}/haproxy.cfg, mode: "0644"}}
"""


def configuration() -> Path:
    """A folder with what the role writes for a gateway whose live color is blue."""
    target = DATA / "gateway"
    target.mkdir(exist_ok=True)
    beside = str(Path(sys.executable).parent)
    program = shutil.which("ansible-playbook", path=f"{ROOT / '.venv' / 'bin'}:{beside}:{os.environ['PATH']}")
    if program is None:
        raise SystemExit(
            "error: there is no ansible-playbook, which makes the gateway's configuration; see CONTRIBUTING"
        )
    with tempfile.TemporaryDirectory() as folder:
        playbook = Path(folder) / "playbook.yml"
        playbook.write_text(_PLAYBOOK.format(role=_ROLE, target=target), encoding="utf-8")
        # A lookup looks for the role's files beside the playbook.
        (Path(folder) / "files").symlink_to(_ROLE / "files")
        command = [program, "--inventory", "localhost,", str(playbook)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"error: the gateway's configuration cannot be made:\n{done.stdout}{done.stderr}")
    shutil.copy(_ROLE / "files" / "hold.lua", target)
    (target / "live.map").write_text("live blue\n", encoding="utf-8")
    return target


def start(network: str) -> tuple[str, str]:
    """Start it on a network where an instance is, or will be; the container, and its address there."""
    container = docker(
        *("run", "-d", "--network", network, "-v", f"{configuration()}:/etc/haproxy/conf:ro"),
        *("--read-only", "--cap-drop", "ALL", "--security-opt", "no-new-privileges", "--dns-opt", "ndots:1"),
        *(
            "--pids-limit",
            "64",
            "--memory",
            "512m",
            "--ulimit",
            "nofile=16384",
            "--user",
            _USER,
            "--tmpfs",
            f"/run/haproxy:uid={_USER},mode=0700",
        ),
        IMAGE,
    )
    form = "{{range .NetworkSettings.Networks}}{{.IPAddress}}{{end}}"
    return container, f"{docker('inspect', '--format', form, container)}:{PORT}"
