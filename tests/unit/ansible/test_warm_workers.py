"""What the process of every task finds loaded already."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).resolve().parents[3]
OURS = "ansible_collections.gpu_hosts.timm.plugins.filter.next_step"
# A task's own process tells which of these it did not have to load itself.
PLAYBOOK = """
- hosts: localhost
  gather_facts: false
  tasks:
    - loaded: {names: [OURS, ansible.plugins.action.assert, ansible.executor.module_common]}
      register: found
    - debug: {msg: "found {{ found.names | to_json }}"}
"""
ACTION = """
import gc
import sys
from ansible.plugins.action import ActionBase
LOADED = set(sys.modules)
class ActionModule(ActionBase):
    def run(self, tmp=None, task_vars=None):
        names = [name for name in self._task.args["names"] if name in LOADED]
        return {"changed": False, "names": names + ["garbage collection"] * gc.isenabled()}
"""


@pytest.mark.parametrize(("callback", "loaded"), [("warm_workers", True), ("fleet_summary", False)])
def test_a_task_finds_plugins_loaded_and_collects_no_garbage(tmp_path: Path, callback: str, loaded: bool) -> None:
    (tmp_path / "loaded.py").write_text(ACTION)
    (tmp_path / "playbook.yml").write_text(PLAYBOOK.replace("OURS", OURS))
    environment = {
        **os.environ,
        "ANSIBLE_CALLBACKS_ENABLED": f"gpu_hosts.timm.{callback}",
        "ANSIBLE_ACTION_PLUGINS": str(tmp_path),
        "ANSIBLE_LIBRARY": str(tmp_path),
        "ANSIBLE_NOCOLOR": "1",
    }
    command = [str(Path(sys.executable).with_name("ansible-playbook")), "-i", "localhost,", "-c", "local"]
    done = subprocess.run(
        [*command, str(tmp_path / "playbook.yml")],
        cwd=REPOSITORY,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    names = json.loads(done.stdout.partition("found ")[2].partition("]")[0] + "]")
    assert ("ansible.plugins.action.assert" in names) is loaded
    assert (OURS in names) is loaded
    assert ("garbage collection" in names) is not loaded
