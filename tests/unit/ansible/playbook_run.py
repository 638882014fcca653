"""Run the real playbooks as a user does; such runs end before they reach a host, so they are fast."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

REPOSITORY = Path(__file__).resolve().parents[3]
PLAYBOOK = str(Path(sys.executable).with_name("ansible-playbook"))


def run(*arguments: str, folder: Path = REPOSITORY) -> tuple[int, str]:
    """Run ansible-playbook in the folder; return its exit code and what it said, in one line."""
    done = subprocess.run(
        [PLAYBOOK, *arguments],
        cwd=folder,
        env={key: value for key, value in os.environ.items() if not key.startswith("ANSIBLE_")}
        | {"ANSIBLE_NOCOLOR": "1"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    return done.returncode, " ".join(done.stdout.split())
