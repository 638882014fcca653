"""Run the real playbooks against this machine, for a service of the test's own."""

from __future__ import annotations

import dataclasses
import json
import os
import re
import shutil
import socket
import subprocess
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[3]

# A service that two cores and a test can spare, on a host whose GPU, if there is one, is left alone.
SMALL_SERVICE: dict[str, Any] = {
    "nvidia_driver_gpu": "absent",
    "inference_image_flavor": "cpu",
    "inference_service_cpus": 2,
    "inference_service_memory": "2g",
    # What is tested is that no request is lost, on machines that may be busy with something else.
    "inference_service_latency_budget_ms": 60000,
    "inference_service_bake_seconds": 1,
}


@dataclasses.dataclass(frozen=True)
class Run:
    """How one ansible-playbook ended."""

    code: int
    output: str

    @property
    def changed(self) -> int:
        """Number of changed tasks, over all hosts of the recap."""
        return self._recap("changed")

    @property
    def failed(self) -> int:
        """Number of failed tasks, over all hosts of the recap."""
        return self._recap("failed")

    def _recap(self, column: str) -> int:
        recap = self.output.rpartition("PLAY RECAP")[2]
        found = re.findall(rf"\b{column}=(\d+)", recap)
        if not found:
            raise ValueError(f"no recap in:\n{self.output[-3000:]}")
        return sum(int(number) for number in found)


def free_port() -> int:
    """Return a port of this machine that nothing listens on."""
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


class Host:
    """This machine as an inventory of its own: another service name, state directory, port and model folder."""

    def __init__(self, folder: Path, name: str, **variables: Any) -> None:
        self.name = name
        self.port = free_port()
        self.state_dir = folder / "state"
        self.models = folder / "models"
        self.models.mkdir(parents=True)
        self.variables: dict[str, Any] = {
            **SMALL_SERVICE,
            "docker_engine_install": True,
            "inference_service_name": name,
            "inference_service_port": self.port,
            "inference_service_state_dir": str(self.state_dir),
            "model_bundle_source": str(self.models),
            **variables,
        }
        self._inventory = folder / "inventory.json"

    def play(self, playbook: str, *arguments: str, **extra: Any) -> Run:
        """Run a playbook; keyword arguments become --extra-vars. Whatever it says is in the result."""
        process = self.begin(playbook, *arguments, **extra)
        output, _ = process.communicate()
        return Run(process.returncode, output)

    def begin(self, playbook: str, *arguments: str, **extra: Any) -> subprocess.Popen[str]:
        """Start a playbook in a process group of its own, and return while it runs."""
        return begin(self.command(playbook, *arguments, **extra))

    def command(self, playbook: str, *arguments: str, **extra: Any) -> list[str]:
        """Return the command that runs a playbook here, after writing the inventory that it reads."""
        groups = {"inference_hosts": {"localhost": self.variables}}
        return command(playbook, self._inventory, groups, *arguments, **extra)

    def module(self, name: str, **arguments: Any) -> dict[str, Any]:
        """Run one module here; return its result."""
        variables = {"ansible_python_interpreter": sys.executable}
        words = [str(Path(sys.executable).with_name("ansible")), "--inventory=localhost,", "--one-line", "localhost"]
        words += [f"--extra-vars={json.dumps(variables)}", "--connection=local"]
        words += [f"--module-name=gpu_hosts.timm.{name}", f"--args={json.dumps(arguments)}"]
        done = subprocess.run(words, cwd=ROOT, capture_output=True, text=True, check=False)
        return dict(json.loads(done.stdout.partition(" => ")[2]))

    def deploy(self, *arguments: str, **extra: Any) -> Run:
        """Run the deploy and require that it ends well."""
        run = self.play("deploy", *arguments, **extra)
        assert run.code == 0, run.output[-6000:]
        return run

    def deploy_expecting_failure(self, **extra: Any) -> str:
        """Run a deploy that must fail; return what it said."""
        run = self.play("deploy", **extra)
        assert run.code != 0, f"the deploy should have failed:\n{run.output[-6000:]}"
        return run.output

    def drain(self, state: str, notice: int = 0) -> dict[str, Any]:
        """Take this host out of its load balancers as before a reboot, or put it back."""
        return self.module("gateway_drain", state_dir=str(self.state_dir / "gateway"), state=state, notice=notice)

    def containers(self) -> list[dict[str, Any]]:
        """Return the inspection of every container of this service that exists, the gateway's included."""
        label = f"--filter=label=inference-service.name={self.name}"
        identities = docker("ps", "--all", "--quiet", "--no-trunc", label).split()
        return json.loads(docker("inspect", *identities)) if identities else []

    def instance(self) -> dict[str, Any]:
        """Return the inspection of the one instance that is there."""
        found = [item for item in self.containers() if "inference-service.release" in item["Config"]["Labels"]]
        assert len(found) == 1, [item["Name"] for item in found]
        return found[0]

    def records(self) -> list[dict[str, Any]]:
        """Return the records of this service, oldest first."""
        return [json.loads(path.read_text()) for path in sorted((self.state_dir / "records").glob("*.json"))]

    def traces(self) -> dict[str, list[str]]:
        """Return what the service has on this machine, colors made equal: what two clean deploys have in common."""

        def plain(names: Iterable[str]) -> list[str]:
            return sorted({re.sub(r"\b(blue|green)\b", "COLOR", name) for name in names})

        label = f"--filter=name={self.name}"
        files = (path.relative_to(self.state_dir) for path in self.state_dir.rglob("*") if not path.is_socket())
        return {
            "containers": plain(f"{item['Name']} {item['State']['Status']}" for item in self.containers()),
            "networks": plain(docker("network", "ls", "--format={{.Name}}", label).split()),
            "volumes": plain(docker("volume", "ls", "--format={{.Name}}", label).split()),
            # Each deploy adds a record; that it is one and no more is asserted where it matters.
            "files": plain(str(file) for file in files if not re.match(r"records/\d{4}-", str(file))),
        }

    def remove(self) -> None:
        """Remove everything that the service left on this machine."""
        self.play("teardown")
        for item in self.containers():
            docker("rm", "--force", "--volumes", item["Id"])
        shutil.rmtree(self.state_dir, ignore_errors=True)


def play(
    playbook: str, inventory: Path, groups: dict[str, dict[str, dict[str, Any]]], *arguments: str, **extra: Any
) -> Run:
    """Run a playbook on groups of hosts that are all this machine, told apart by their variables."""
    process = begin(command(playbook, inventory, groups, *arguments, **extra))
    output, _ = process.communicate()
    return Run(process.returncode, output)


def begin(arguments: list[str], checkout: Path = ROOT) -> subprocess.Popen[str]:
    """Start a command in the checkout, or in another one, in a process group of its own."""
    return subprocess.Popen(
        arguments,
        cwd=checkout,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        start_new_session=True,
    )


def command(
    playbook: str, inventory: Path, groups: dict[str, dict[str, dict[str, Any]]], *arguments: str, **extra: Any
) -> list[str]:
    """Return the command that runs a playbook on these groups, after writing the inventory that it reads."""
    connection = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    content = {
        group: {"hosts": {name: {**connection, **variables} for name, variables in hosts.items()}}
        for group, hosts in groups.items()
    }
    inventory.write_text(json.dumps(content))
    return playbook_command(playbook, inventory, *arguments, **extra)


def playbook_command(playbook: str, inventory: Path, *arguments: str, **extra: Any) -> list[str]:
    """Return the command that runs a playbook with this inventory."""
    words = [
        str(Path(sys.executable).with_name("ansible-playbook")),
        f"--inventory={inventory}",
        f"playbooks/{playbook}.yml",
        *arguments,
    ]
    if extra:
        words.append(f"--extra-vars={json.dumps(extra)}")
    return words


def as_root(*command: str) -> None:
    """Run a command that only root may."""
    subprocess.run((*(("sudo", "--non-interactive") if os.geteuid() else ()), *command), check=True)


def docker(*arguments: str, stdin: str = "") -> str:
    """Run the docker command line; return its output, or raise with what it said."""
    done = subprocess.run(("docker", *arguments), input=stdin, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"docker {' '.join(arguments[:3])}: {done.stderr.strip()}")
    return done.stdout
