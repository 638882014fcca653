"""A user of this machine who is not root and has nothing yet but a home, an SSH key and a copy of the checkout.

with Newcomer("fleet-test") as newcomer:
    machine.admit(newcomer.public_key)
    newcomer.remember([machine])
    run = newcomer.run("make deploy INVENTORY=inventory/fleet ARGS=-K", password=PASSWORD)
"""

from __future__ import annotations

import contextlib
import os
import pty
import pwd
import select
import subprocess
import sys
import sysconfig
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Self

from tests.integration.support.lab import Machine, known_hosts
from tests.integration.support.playbooks import ROOT, Run, as_root

POLL_SECONDS = 0.1
# A command that asks for what nobody types would wait for ever.
LIMIT_SECONDS = 900
# Where distributions and administrators put what everybody may run.
SEARCHED = ("/usr/local/sbin", "/usr/local/bin", "/usr/sbin", "/usr/bin", "/sbin", "/bin")


class Newcomer:
    """The user, from useradd to userdel. He may use Docker here where there is a group for it, and sudo nowhere."""

    def __init__(self, name: str) -> None:
        self.name = name

    def __enter__(self) -> Self:
        self.leave()
        docker_group = ("--groups=docker",) if Path("/var/run/docker.sock").group() == "docker" else ()
        as_root("useradd", "--create-home", "--shell=/bin/bash", *docker_group, self.name)
        self._copy_checkout()
        self._make_environment()
        self._must("mkdir -p ~/.ssh && ssh-keygen -q -t ed25519 -N '' -f ~/.ssh/id_ed25519")
        return self

    def __exit__(self, *_: object) -> None:
        self.leave()

    def leave(self) -> None:
        """Remove the user, what he runs and what he has."""
        with contextlib.suppress(KeyError):
            # Connections of SSH are kept for a while after a run.
            self._end_processes()
            as_root("userdel", "--remove", self.name)

    @property
    def checkout(self) -> Path:
        """His copy of the checkout, where his commands run."""
        return Path(pwd.getpwnam(self.name).pw_dir) / "checkout"

    @property
    def public_key(self) -> str:
        """What opens a host to him."""
        return self._must("cat ~/.ssh/id_ed25519.pub")

    def remember(self, machines: Iterable[Machine]) -> None:
        """Know these hosts, as after a first login to each."""
        self.write("../.ssh/known_hosts", known_hosts(machines))

    def read(self, path: str) -> str:
        """Return the text of a file of his checkout."""
        return self._must(f"cat {path}")

    def write(self, path: str, text: str) -> None:
        """Write a file of his checkout."""
        as_him = (*self._become(), "sh", "-euc", f"mkdir -p $(dirname {path}) && cat > {path}")
        subprocess.run(as_him, cwd=self.checkout, input=text, text=True, check=True)

    def bring(self, file: Path, path: str) -> None:
        """Copy a file of this machine into his checkout."""
        as_root("install", "-D", f"--owner={self.name}", "--mode=0644", str(file), str(self.checkout / path))

    def run(self, line: str, password: str = "") -> Run:
        """Run a line of shell as typed into a terminal; the password is typed where one is asked for.

        The terminal is there to be asked at. What the command prints goes to a file, so that it comes without control
        sequences and in lines of any length.
        """
        terminal, end = pty.openpty()
        with tempfile.TemporaryFile() as output:
            command = (*self._become(), "setsid", "--ctty", "--wait", "sh", "-c", line)
            process = subprocess.Popen(command, cwd=self.checkout, stdin=end, stdout=output, stderr=subprocess.STDOUT)
            os.close(end)
            asked = ""
            deadline = time.monotonic() + LIMIT_SECONDS
            while process.poll() is None:
                if time.monotonic() > deadline:
                    self._end_processes()
                if select.select([terminal], [], [], POLL_SECONDS)[0]:
                    with contextlib.suppress(OSError):  # the other end is closed when the command has ended
                        asked += os.read(terminal, 4096).decode(errors="replace")
                if asked.rstrip().lower().endswith("password:"):
                    os.write(terminal, f"{password}\n".encode())
                    asked = ""
            os.close(terminal)
            output.seek(0)
            return Run(process.returncode, output.read().decode(errors="replace"))

    def _must(self, script: str) -> str:
        command = (*self._become(), "sh", "-euc", script)
        return subprocess.run(command, cwd=self.checkout, stdout=subprocess.PIPE, text=True, check=True).stdout

    def _become(self) -> tuple[str, ...]:
        user = pwd.getpwnam(self.name)
        environment = {
            "HOME": user.pw_dir,
            "USER": self.name,
            "LANG": "C.UTF-8",
            "PATH": ":".join(SEARCHED),
            "TERM": "dumb",
            # He shares the packages of this checkout's environment, and cannot write beside them.
            "PYTHONPYCACHEPREFIX": f"{user.pw_dir}/.cache/pycache",
        }
        return (
            *(("sudo", "--non-interactive") if os.geteuid() else ()),
            *("setpriv", f"--reuid={user.pw_uid}", f"--regid={user.pw_gid}", "--init-groups", "--"),
            *("env", "--ignore-environment", *(f"{name}={value}" for name, value in environment.items())),
        )

    def _copy_checkout(self) -> None:
        """Give him what git tracks or would track here, as old as can be: what is made of it is newer."""
        as_root("install", "--directory", f"--owner={self.name}", str(self.checkout))
        names = subprocess.run(
            ("git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"),
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout.split(b"\0")
        there = b"\0".join(name for name in names if name and (ROOT / os.fsdecode(name)).exists())
        pack = ("tar", "--create", "--mtime=@0", "--null", "--files-from=-")
        packed = subprocess.run(pack, cwd=ROOT, input=there, check=True, capture_output=True).stdout
        unpack = (*self._become(), "tar", "--extract")
        subprocess.run(unpack, cwd=self.checkout, input=packed, check=True)

    def _make_environment(self) -> None:
        """Make his .venv with the packages of this one: installing them anew, as make does, takes over a minute."""
        packages = sysconfig.get_path("purelib")
        python = self._python()
        self._must(f"{python} -m venv --without-pip .venv")
        his = str(self.checkout / ".venv" / Path(packages).relative_to(sys.prefix))
        # Links take a second. Between two file systems there are none.
        as_root("sh", "-euc", 'cp -rl "$0/." "$1" || cp -r "$0/." "$1"', packages, his)
        for tool in Path(sys.executable).parent.glob("ansible*"):
            text = tool.read_text().replace(sys.prefix, str(self.checkout / ".venv"))
            self.write(f".venv/bin/{tool.name}", text)
        self._must("chmod +x .venv/bin/ansible* && touch .venv/.deploy")

    def _python(self) -> str:
        """Return an interpreter of this version that he may run: this one may lie in somebody's home."""
        version = f"python{sys.version_info.major}.{sys.version_info.minor}"
        for candidate in (sys.executable, *(f"{folder}/{version}" for folder in SEARCHED)):
            probe = (*self._become(), candidate, "-c", "import venv, sys; print(sys.base_prefix)")
            done = subprocess.run(probe, cwd=self.checkout, capture_output=True, text=True, check=False)
            if done.returncode == 0:
                return f"{done.stdout.strip()}/bin/{version}"
        raise RuntimeError(f"{self.name} may run no {version} that has the module venv; install it for everybody")

    def _end_processes(self) -> None:
        of_his = f"--uid={pwd.getpwnam(self.name).pw_uid}"
        while subprocess.run(("pgrep", of_his), stdout=subprocess.DEVNULL, check=False).returncode == 0:
            with contextlib.suppress(subprocess.CalledProcessError):  # the last of them has just ended
                as_root("pkill", "--signal=KILL", of_his)
            time.sleep(POLL_SECONDS)
