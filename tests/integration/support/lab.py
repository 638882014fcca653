"""Hosts that are reached by SSH, as most users reach theirs: Debian 13 with systemd, sshd and an engine of their own.

    with Lab(tmp_path, "trial", inference_hosts=2, load_balancers=1) as lab:
        lab.variables |= {"model_bundle_source": str(models), "model_bundle_name": "small", "model_bundle_version": "A"}
        run = lab.play("deploy")                    # as DEPLOY, who gives sudo a password
        run = lab.play("deploy", "--check", user=OPERATOR, model_bundle_version="B")
        process = lab.begin("deploy")               # leads a process group: os.killpg(process.pid, SIGKILL)
        watched = WatchedRun(..., lab.command("deploy"))
        lab["gpu-1"].cut()                          # packets of SSH are lost, and neither end is told
        lab["gpu-1"].mend()
        lab["gpu-1"].stop_sshd()                    # connections end, and no new one is accepted
        with lab["gpu-1"].slowed("50mbit"): ...     # what is copied to the host takes its time
        lab["gpu-1"].sh("docker ps")                # as root, on the host, past SSH
        urllib.request.urlopen(f"http://{lab['lb-1'].address}/health/ready")

The hosts are gpu-1, gpu-2, ... and lb-1, ... in the inventory. They are containers of this machine's Docker whose names
begin with the name of the lab: choose one that no other lab has. molecule/shared/create.yml makes them, as it makes
Molecule's, with the service's and the gateway's image of this checkout, built by tests/prepare.yml.
The first host of a lab takes half a minute, a further one a few seconds.
"""

from __future__ import annotations

import contextlib
import dataclasses
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, Self

from tests.integration.support.playbooks import ROOT, SMALL_SERVICE, Run, begin, docker, playbook_command

# The accounts of every host: sudo wants a password of the first, none of the second, and refuses the third.
# The first is the one that inventory/fleet.example names.
DEPLOY = "deploy"
OPERATOR = "ops"
GUEST = "guest"
# Of all of them, and of root; with blanks, because people's have some.
PASSWORD = " ".join(("correct", "horse", "1"))

SSH_PORT = 22
BOOT_SECONDS = 60


@dataclasses.dataclass(frozen=True)
class Machine:
    """One host of a lab."""

    name: str
    container: str

    @property
    def address(self) -> str:
        """The address that it is reached at from this machine, and by the other hosts."""
        return docker("inspect", "--format={{.NetworkSettings.IPAddress}}", self.container).strip()

    def sh(self, script: str, stdin: str = "") -> str:
        """Run a shell script on the host as root, past SSH; return what it printed, or raise."""
        return docker("exec", "--interactive", self.container, "sh", "-euc", script, stdin=stdin)

    def wait_until_booted(self) -> None:
        """Wait until systemd has started what there is to start."""
        deadline = time.monotonic() + BOOT_SECONDS
        while "running" not in (state := self.sh("systemctl is-system-running --wait || true")):
            if time.monotonic() > deadline:
                raise RuntimeError(f"{self.name} is {state.strip()}: {self.sh('systemctl --failed')}")
            time.sleep(0.2)

    def admit(self, public_key: str) -> None:
        """Let the owner of this key in as each of the accounts, and give the accounts their password."""
        users = [DEPLOY, OPERATOR, GUEST]
        self.sh("chpasswd", "".join(f"{user}:{PASSWORD}\n" for user in [*users, "root"]))
        for user in users:
            folder = f"~{user}/.ssh"
            self.sh(
                f"install -d -m 700 -o {user} {folder}; install -m 600 -o {user} /dev/stdin {folder}/authorized_keys",
                public_key,
            )

    def cut(self) -> None:
        """Lose every packet of SSH from now on; connections that are open stay open at both ends."""
        for rule in self._ssh_rules():
            self.sh(f"iptables --insert {rule}")

    def mend(self) -> None:
        """Let the packets pass again."""
        for rule in self._ssh_rules():
            self.sh(f"iptables --delete {rule}")

    def stop_sshd(self) -> None:
        """Stop the host's sshd and end every connection; what ran in them without a terminal lives on."""
        self.sh("systemctl stop ssh.service; pkill sshd-session || true")

    def start_sshd(self) -> None:
        """Start the host's sshd again."""
        self.sh("systemctl start ssh.service")

    @contextlib.contextmanager
    def slowed(self, rate: str) -> Iterator[None]:
        """Let data reach the host no faster than this, in the words of tc: 100mbit, say."""
        # What the host receives is what this machine sends into its end of the link.
        end = self.sh("cat /sys/class/net/eth0/iflink").strip()
        device = f'$(ip -oneline link | sed -n "s/^{end}: \\([^@:]*\\).*/\\1/p")'
        image = docker("inspect", "--format={{.Image}}", self.container).strip()

        def traffic(words: str) -> None:
            docker("run", "--rm", "--privileged", "--network=host", image, "sh", "-euc", f"tc qdisc {words}")

        traffic(f"add dev {device} root tbf rate {rate} burst 256kb latency 400ms")
        try:
            yield
        finally:
            traffic(f"delete dev {device} root")

    @staticmethod
    def _ssh_rules() -> tuple[str, str]:
        return f"INPUT -p tcp --dport {SSH_PORT} -j DROP", f"OUTPUT -p tcp --sport {SSH_PORT} -j DROP"


class Lab:
    """Hosts with a key that opens them and an inventory; see the module for how it is used.

    The folder holds the key, the known hosts, the sockets of the connections and the inventory.
    """

    def __init__(self, folder: Path, name: str, inference_hosts: int = 1, load_balancers: int = 0) -> None:
        self.folder = folder
        self.hosts = {
            host: Machine(host, f"{name}-{host}")
            for kind, count in (("gpu", inference_hosts), ("lb", load_balancers))
            for host in (f"{kind}-{number}" for number in range(1, count + 1))
        }
        # Of the group inference_hosts, and of load_balancers.
        self.variables: dict[str, Any] = {
            **SMALL_SERVICE,
            "inference_service_bind": "{{ ansible_host }}",
            "deploy_pause_seconds": 0,
        }
        self.balancer_variables: dict[str, Any] = {"gateway_bind": "{{ ansible_host }}", "gateway_port": 80}

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.remove()

    def __getitem__(self, host: str) -> Machine:
        return self.hosts[host]

    def start(self) -> None:
        """Make the hosts and wait until they let us in."""
        self.remove()
        self.folder.mkdir(parents=True, exist_ok=True)
        self._on_platforms("create")
        self.key.unlink(missing_ok=True)
        subprocess.run(("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", self.key), check=True)
        for machine in self.hosts.values():
            machine.wait_until_booted()
            machine.admit(self.key.with_suffix(".pub").read_text())
        self._known_hosts.write_text(known_hosts(self.hosts.values()))

    def remove(self) -> None:
        """Remove the hosts and everything on them."""
        self._on_platforms("destroy")

    def play(self, playbook: str, *arguments: str, user: str = DEPLOY, **extra: Any) -> Run:
        """Run a playbook as this account of the hosts; keyword arguments become --extra-vars."""
        process = self.begin(playbook, *arguments, user=user, **extra)
        output, _ = process.communicate()
        return Run(process.returncode, output)

    def begin(self, playbook: str, *arguments: str, user: str = DEPLOY, **extra: Any) -> subprocess.Popen[str]:
        """Start a playbook in a process group of its own, and return while it runs."""
        return begin(self.command(playbook, *arguments, user=user, **extra))

    def command(self, playbook: str, *arguments: str, user: str = DEPLOY, **extra: Any) -> list[str]:
        """Return the command that runs a playbook here, after writing the inventory that it reads."""
        return playbook_command(playbook, self.inventory(user), *arguments, **extra)

    def inventory(self, user: str = DEPLOY) -> Path:
        """Write the inventory for this account of the hosts, and return its path; it holds the password too."""
        content = {
            "all": {"vars": self._connection(user)},
            "inference_hosts": {"hosts": self._addresses("gpu"), "vars": self.variables},
            "load_balancers": {"hosts": self._addresses("lb"), "vars": self.balancer_variables},
        }
        path = self.folder / "inventory.json"
        path.write_text(json.dumps(content, indent=1))
        return path

    @property
    def key(self) -> Path:
        """The private key that opens the hosts."""
        return self.folder / "id_ed25519"

    @property
    def _known_hosts(self) -> Path:
        return self.folder / "known_hosts"

    def _connection(self, user: str) -> dict[str, str]:
        return {
            "ansible_user": user,
            "ansible_ssh_private_key_file": str(self.key),
            "ansible_ssh_common_args": f"-o UserKnownHostsFile={self._known_hosts}",
            # A later lab's hosts may get the addresses of an earlier one's, whose connections are kept for a while.
            "ansible_control_path_dir": str(self.folder / "cp"),
            "ansible_become_password": PASSWORD,
        }

    def _addresses(self, kind: str) -> dict[str, dict[str, str]]:
        return {name: {"ansible_host": host.address} for name, host in self.hosts.items() if name.startswith(kind)}

    def _on_platforms(self, playbook: str) -> None:
        groups = {"gpu": "inference_hosts", "lb": "load_balancers"}
        platforms = [
            {"name": host.container, "groups": ["ssh", groups[host.name.partition("-")[0]]]}
            for host in self.hosts.values()
        ]
        run_shared(playbook, platforms)


def run_shared(playbook: str, platforms: list[dict[str, Any]]) -> None:
    """Run one of Molecule's shared playbooks on these platforms, as Molecule would; raise with what it said."""
    tool = Path(sys.executable).with_name("ansible-playbook")
    extra = json.dumps({"molecule_yml": {"platforms": platforms}})
    words = [str(tool), f"molecule/shared/{playbook}.yml", f"--extra-vars={extra}"]
    done = subprocess.run(
        words,
        cwd=ROOT,
        env={**os.environ, "ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        check=False,
    )
    if done.returncode != 0:
        raise RuntimeError(f"{playbook} failed:\n{done.stdout[-4000:]}{done.stderr[-1000:]}")


def known_hosts(machines: Iterable[Machine]) -> str:
    """Return the lines of a known_hosts file for these hosts, as somebody has them who logged in to each once."""
    addresses = [machine.address for machine in machines]
    scan = subprocess.run(("ssh-keyscan", "-t", "ed25519", *addresses), capture_output=True, text=True, check=True)
    missing = [address for address in addresses if address not in scan.stdout]
    if missing:
        raise RuntimeError(f"sshd does not answer at {', '.join(missing)}: {scan.stderr}")
    return scan.stdout
