"""A gateway as the role describes it, in front of a container of a test's own; without the rest of a deploy."""

from __future__ import annotations

import contextlib
import json
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tests.integration.support.playbooks import ROOT, docker, free_port

# The name under which the gateway looks for the instance.
INSTANCE_ALIAS = "blue-0"
PLAY = [
    {
        "hosts": "localhost",
        "gather_facts": False,
        "tasks": [
            {"ansible.builtin.include_role": {"name": "gpu_hosts.timm.gateway", "tasks_from": "describe"}},
            {
                "ansible.builtin.copy": {
                    "content": "{{ gateway_wanted.files['conf/' ~ item] }}",
                    "dest": "{{ folder }}/{{ item }}",
                    "mode": "0644",
                },
                "loop": ["haproxy.cfg", "hold.lua"],
            },
        ],
    }
]


class Edge:
    """The gateway, its instance and their network, which all begin with one name; `path` answers 200 once served."""

    def __init__(
        self, folder: Path, name: str, image: str, path: str = "/", variables: Mapping[str, object] | None = None
    ) -> None:
        self.name, self.port, self.run = name, free_port(), folder / "run"
        self.address = ("127.0.0.1", self.port)
        self._image, self._path = image, path
        self._conf = folder / "conf"
        for made in (self._conf, self.run):
            made.mkdir()
        self.run.chmod(0o777)
        (self._conf / "live.map").write_text("live blue\n")
        (folder / "play.json").write_text(json.dumps(PLAY))
        known = {"folder": str(self._conf), "gateway_image": image, "ansible_python_interpreter": sys.executable}
        tool = Path(sys.executable).with_name("ansible-playbook")
        extra = f"--extra-vars={json.dumps({**known, **(variables or {})})}"
        words = (tool, "--inventory=localhost,", "--connection=local", extra, folder / "play.json")
        subprocess.run(words, cwd=ROOT, check=True, capture_output=True)

    def start(self, *instance: str, seconds: float = 30) -> None:
        """Start both; the arguments are those of `docker run` for the instance."""
        self.remove()
        docker("network", "create", self.name)
        own = ("run", "--detach", f"--network={self.name}")
        docker(*own, f"--name={self.name}-instance", f"--network-alias={INSTANCE_ALIAS}", *instance)
        docker(
            *(*own, f"--name={self.name}-gateway", "--user=1000:1000", f"--publish=127.0.0.1:{self.port}:8080"),
            *(f"--volume={self._conf}:/etc/haproxy/conf:ro", f"--volume={self.run}:/run/haproxy", self._image),
        )
        self.wait_until_served(seconds)

    def get(self, path: str, **headers: str) -> tuple[int, dict[str, Any]]:
        """Get a page through the gateway; return the status and the decoded answer."""
        request = urllib.request.Request(f"http://127.0.0.1:{self.port}{path}", headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            return error.code, json.load(error)

    def wait_until_served(self, seconds: float = 30) -> None:
        """Wait until the instance answers through the gateway."""
        deadline = time.monotonic() + seconds
        while True:
            with contextlib.suppress(OSError, ValueError):
                if self.get(self._path)[0] == 200:
                    return
            assert time.monotonic() < deadline
            time.sleep(0.1)

    def remove(self) -> None:
        """Remove everything that has the name."""
        for name in docker("ps", "--all", "--format={{.Names}}", f"--filter=name={self.name}-").split():
            docker("rm", "--force", "--volumes", name)
        for name in docker("network", "ls", "--format={{.Name}}", f"--filter=name={self.name}").split():
            docker("network", "rm", name)
