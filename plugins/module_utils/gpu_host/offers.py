"""Ask apt or dnf which versions of packages a host could install."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from .commands import Runner
from .driver_plan import Machine
from .files import read_text

_TIMEOUT = 120.0


def parse_os_release(text: str) -> tuple[str, int]:
    """Name and release of the distribution: `("debian", 12)`."""
    fields = dict(re.findall(r"^(\w+)=[\"']?([^\"'\n]*)[\"']?$", text, re.MULTILINE))
    release = re.match(r"\d+", fields.get("VERSION_ID", ""))
    return fields.get("ID", ""), int(release.group()) if release else 0


def kernel_images(status: str) -> list[str]:
    """Metapackages of kernels that /var/lib/dpkg/status lists as installed: names without a kernel's version."""
    found = []
    for block in status.split("\n\n"):
        name = re.search(r"^Package: (linux-image-(?!\d)\S+)$", block, re.MULTILINE)
        if name and re.search(r"^Status: \S+ \S+ installed$", block, re.MULTILINE):
            found.append(name.group(1))
    return found


def machine(root: Path, options: Mapping[str, Any]) -> Machine:
    """This host, as a plan needs it."""
    distribution, release = parse_os_release(read_text(root / "etc/os-release"))
    return Machine(
        distribution=distribution,
        release=release,
        kernel=options["kernel"],
        devices=options["devices"],
        headers=options["headers"],
        images=kernel_images(read_text(root / "var/lib/dpkg/status")),
        branch=options["branch"],
    )


def parse_policy(text: str) -> dict[str, str]:
    """Turn the output of `apt-cache policy` into the candidate version of each package, if there is one."""
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (\S+)$", text, re.MULTILINE)
    return {name: version for name, version in found if version != "(none)"}


def parse_repoquery(text: str) -> dict[str, str]:
    """Turn what dnf prints about packages into the version of each; a name with its version is a name too."""
    found: dict[str, str] = {}
    for line in text.splitlines():
        words = line.split()
        if len(words) == 3:
            name, version, full = words
            found[name] = version
            found[full] = version
    return found


def offers(host: Machine, names: Sequence[str], run: Runner) -> dict[str, str]:
    """Version that would be installed of each package that the host's package sources offer or that is there."""
    if host.distribution in {"debian", "ubuntu"}:
        return parse_policy(run(["apt-cache", "policy", *names], _TIMEOUT).out)
    form = r"--queryformat=%{name} %{version} %{name}-%{version}-%{release}.%{arch}\n"
    # A branch's packages are hidden until its stream is enabled, and the newest branch is not the one asked for.
    wanted = [f"{name}-{host.branch}.*" if "nvidia" in name else name for name in (*names, "dkms")]
    hidden = "--setopt=*.module_hotfixes=1"
    return parse_repoquery(
        run(["dnf", "--quiet", hidden, "repoquery", "--latest-limit=1", form, *wanted], _TIMEOUT).out
    )
