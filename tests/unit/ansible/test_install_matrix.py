"""What the roles would install on each distribution, rendered and compared with what the vendors document.

Nothing is installed here; molecule/hosts does that on Debian 12 and 13. The expected values are those of

- NVIDIA's driver installation guide: docs.nvidia.com/datacenter/tesla/driver-installation-guide/kernel-modules.html and
  version-locking.html beside it (stream of releases 8 and 9, lock of release 10),
- NVIDIA's container toolkit guide: docs.nvidia.com/datacenter/cloud-native/container-toolkit/latest/install-guide.html,
- Docker's guides: docs.docker.com/engine/install/debian, /ubuntu, /rhel and /centos.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar

ROLES = Path(__file__).resolve().parents[3] / "roles"
TOOLKIT = "https://nvidia.github.io/libnvidia-container"
DOCKER = "https://download.docker.com/linux"
KEYRING = "/etc/apt/keyrings/nvidia-container-toolkit.asc"

DISTRIBUTIONS = {
    "debian12": ("Debian", "bookworm", "Debian", "12"),
    "debian13": ("Debian", "trixie", "Debian", "13"),
    "ubuntu2204": ("Ubuntu", "jammy", "Debian", "22"),
    "ubuntu2404": ("Ubuntu", "noble", "Debian", "24"),
    "rocky8": ("Rocky", "Green Obsidian", "RedHat", "8"),
    "rhel9": ("RedHat", "Plow", "RedHat", "9"),
    "rocky9": ("Rocky", "Blue Onyx", "RedHat", "9"),
    "rhel10": ("RedHat", "Coughlan", "RedHat", "10"),
}


def variables(role: str, distribution: str, **more: Any) -> dict[str, Any]:
    """Defaults and internal variables of a role, on a host of this distribution with an L4."""
    name, release, family, major = DISTRIBUTIONS[distribution]
    facts = {
        "distribution": name,
        "distribution_release": release,
        "distribution_major_version": major,
        "os_family": family,
        "architecture": "x86_64",
    }
    loader = DataLoader()
    return {
        **(loader.load_from_file(str(ROLES / role / "defaults/main.yml"), trusted_as_template=True) or {}),
        **(loader.load_from_file(str(ROLES / role / "vars/main.yml"), trusted_as_template=True) or {}),
        "ansible_facts": facts,
        **more,
    }


def render(role: str, file: str, name: str, values: dict[str, Any]) -> dict[str, Any]:
    """Arguments of one task of a role, as the host would get them."""
    tasks = DataLoader().load_from_file(str(ROLES / role / "tasks" / file), trusted_as_template=True)
    (task,) = [task for task in tasks if task["name"].endswith(f"| {name}")]
    # The module stands behind the name of each task.
    action = list(task.values())[1]
    return dict(Templar(loader=DataLoader(), variables=values).template(action))


class TestDriver:
    """Its packages are chosen in Python: test_driver_plan.py."""

    def test_the_stream_of_the_rhel_family(self) -> None:
        values = variables("nvidia_driver", "rhel9", __nvidia_driver_plan={"stream": "nvidia-driver:575-open"})
        argv = render("nvidia_driver", "packages_redhat.yml", "Choose the branch by its module stream", values)["argv"]
        assert argv == ["dnf", "--assumeyes", "module", "enable", "nvidia-driver:575-open"]

    def test_the_lock_of_a_release_without_streams(self) -> None:
        values = variables("nvidia_driver", "rhel10", __nvidia_driver_plan={"lock": "*nvidia*580*"})
        name = "Choose the branch by a lock on its versions"
        argv = render("nvidia_driver", "packages_redhat.yml", name, values)["argv"]
        assert argv == ["dnf", "versionlock", "add", "*nvidia*580*"]

    @pytest.mark.parametrize(
        ("distribution", "architecture", "folder"),
        [
            ("rocky8", "x86_64", "rhel8/x86_64"),
            ("rhel9", "aarch64", "rhel9/sbsa"),
            ("rhel10", "x86_64", "rhel10/x86_64"),
        ],
    )
    def test_the_vendors_repository_and_its_key(self, distribution: str, architecture: str, folder: str) -> None:
        values = variables("nvidia_driver", distribution)
        values["ansible_facts"]["architecture"] = architecture
        source = render("nvidia_driver", "sources_redhat.yml", "Add the vendor's repository", values)
        assert source["baseurl"] == f"https://developer.download.nvidia.com/compute/cuda/repos/{folder}"
        assert (source["gpgcheck"], source["gpgkey"]) == (True, "file:///etc/pki/rpm-gpg/RPM-GPG-KEY-nvidia-driver")
        key = render("nvidia_driver", "sources_redhat.yml", "Fetch the vendor's signing key", values)
        assert key["url"] == f"{source['baseurl']}/D42D0685.pub"
        assert key["fingerprints"] == ["610C7B14E068A878070DA4E99CD0A493D42D0685"]

    def test_everything_that_is_installed_is_named(self) -> None:
        plan = {"packages": ["libcuda1"], "headers": ["linux-headers-6.1.0-31-amd64"]}
        values = variables("nvidia_driver", "debian12", __nvidia_driver_plan=plan)
        task = render("nvidia_driver", "packages_debian.yml", "Install the packages", values)
        assert task["name"] == ["linux-headers-6.1.0-31-amd64", "libcuda1"]
        values = variables("nvidia_driver", "debian12", nvidia_driver_packages=["mine"])
        assert render("nvidia_driver", "packages_debian.yml", "Install the packages", values)["name"] == ["mine"]

    def test_what_is_held(self) -> None:
        held: dict[str, Any] = {"driver": {"nvidia-driver": {}, "kmod-nvidia-open-dkms": {}}}
        host = {"facts": {"packages": held}}
        values = variables("nvidia_driver", "rhel9", __nvidia_driver_installed=host)
        argv = render("nvidia_driver", "hold_redhat.yml", "Lock the packages at this version", values)["argv"]
        assert argv == ["dnf", "versionlock", "add", "kmod-nvidia-open-dkms", "nvidia-driver"]

    def test_what_automatic_upgrades_leave_alone(self) -> None:
        values = variables("nvidia_driver", "ubuntu2404", ansible_managed="Ansible managed")
        text = (ROLES / "nvidia_driver/templates/unattended-upgrades.j2").read_text(encoding="utf-8")
        from ansible.template import trust_as_template

        rendered = Templar(loader=DataLoader(), variables=values).template(trust_as_template(text))
        assert 'Unattended-Upgrade::Package-Blacklist {\n  "nvidia-";\n  "libnvidia-";\n' in rendered
        assert rendered.rstrip().endswith("};")


class TestToolkit:
    @pytest.mark.parametrize("distribution", ["debian12", "debian13", "ubuntu2204", "ubuntu2404"])
    def test_apt(self, distribution: str) -> None:
        values = variables("nvidia_container_toolkit", distribution)
        source = render("nvidia_container_toolkit", "install_debian.yml", "Add the vendor's repository", values)
        # The guide's one line, `deb [signed-by=KEY] .../stable/deb/$(ARCH) /`, in the newer format.
        assert source["content"] == (f"Types: deb\nURIs: {TOOLKIT}/stable/deb/amd64\nSuites: /\nSigned-By: {KEYRING}\n")
        key = render("nvidia_container_toolkit", "install_debian.yml", "Fetch the vendor's signing key", values)
        assert (key["url"], key["dest"]) == (f"{TOOLKIT}/gpgkey", KEYRING)
        task = render(
            "nvidia_container_toolkit", "install_debian.yml", "Install all four packages of one version", values
        )
        assert task["name"] == [
            "nvidia-container-toolkit=1.20.1-1",
            "nvidia-container-toolkit-base=1.20.1-1",
            "libnvidia-container-tools=1.20.1-1",
            "libnvidia-container1=1.20.1-1",
        ]
        assert task["allow_change_held_packages"]

    @pytest.mark.parametrize("distribution", ["rhel9", "rocky9"])
    def test_dnf(self, distribution: str) -> None:
        values = variables("nvidia_container_toolkit", distribution)
        source = render("nvidia_container_toolkit", "install_redhat.yml", "Add the vendor's repository", values)
        # Index and packages are signed by the key that was checked; the guide's own file leaves the packages unchecked.
        assert source["baseurl"] == f"{TOOLKIT}/stable/rpm/$basearch"
        key = render("nvidia_container_toolkit", "install_redhat.yml", "Fetch the vendor's signing key", values)
        assert (key["url"], source["gpgkey"]) == (f"{TOOLKIT}/gpgkey", f"file://{key['dest']}")
        assert (source["repo_gpgcheck"], source["gpgcheck"]) == (True, True)
        task = render(
            "nvidia_container_toolkit", "install_redhat.yml", "Install all four packages of one version", values
        )
        assert task["name"][0] == "nvidia-container-toolkit-1.20.1-1"
        lock = render("nvidia_container_toolkit", "install_redhat.yml", "Lock the packages at this version", values)
        assert lock["argv"][:3] == ["dnf", "versionlock", "add"]

    @pytest.mark.parametrize(
        ("sources", "own"),
        [
            ([], True),
            (
                [
                    {
                        "path": "/etc/apt/sources.list.d/nvidia-container-toolkit.sources",
                        "uri": f"{TOOLKIT}/stable/deb/amd64",
                    }
                ],
                True,
            ),
            (
                [
                    {
                        "path": "/etc/apt/sources.list.d/nvidia-container-toolkit.list",
                        "uri": f"{TOOLKIT}/stable/deb/$(ARCH)",
                    }
                ],
                False,
            ),
            ([{"path": "/etc/apt/sources.list.d/cuda.list", "uri": "https://other.example/deb"}], True),
        ],
    )
    def test_a_source_that_the_host_has_is_used(self, sources: list[dict[str, str]], own: bool) -> None:
        host = {"facts": {"packages": {"vendor_sources": sources}}}
        values = variables("nvidia_container_toolkit", "ubuntu2404", __nvidia_container_toolkit_host=host)
        name = "See whether the host has the vendor's repository already"
        facts = render("nvidia_container_toolkit", "install_debian.yml", name, values)
        assert facts["__nvidia_container_toolkit_own_source"] is own


class TestEngine:
    @pytest.mark.parametrize(
        ("distribution", "folder", "suite"),
        [
            ("debian12", "debian", "bookworm"),
            ("debian13", "debian", "trixie"),
            ("ubuntu2204", "ubuntu", "jammy"),
            ("ubuntu2404", "ubuntu", "noble"),
        ],
    )
    def test_apt(self, distribution: str, folder: str, suite: str) -> None:
        values = variables("docker_engine", distribution)
        source = render("docker_engine", "install_vendor_debian.yml", "Add the vendor's repository", values)
        assert source["content"] == (
            f"Types: deb\nURIs: {DOCKER}/{folder}\nSuites: {suite}\nComponents: stable\n"
            "Signed-By: /etc/apt/keyrings/docker.asc\n"
        )
        task = render("docker_engine", "install_vendor_debian.yml", "Install Docker and its plugins", values)
        assert task["name"] == [
            "docker-ce",
            "docker-ce-cli",
            "containerd.io",
            "docker-buildx-plugin",
            "docker-compose-plugin",
        ]

    @pytest.mark.parametrize(("distribution", "folder"), [("rhel9", "rhel"), ("rocky9", "centos")])
    def test_dnf(self, distribution: str, folder: str) -> None:
        values = variables("docker_engine", distribution)
        source = render("docker_engine", "install_vendor_redhat.yml", "Add the vendor's repository", values)
        assert source["baseurl"] == f"{DOCKER}/{folder}/$releasever/$basearch/stable"
        key = render("docker_engine", "install_vendor_redhat.yml", "Fetch the vendor's signing key", values)
        assert (key["url"], source["gpgkey"]) == (f"{DOCKER}/{folder}/gpg", f"file://{key['dest']}")
        assert source["gpgcheck"]


@pytest.mark.parametrize("role", ["docker_engine", "nvidia_driver", "nvidia_container_toolkit"])
def test_every_repository_is_checked_with_a_key_that_was_checked(role: str) -> None:
    text = "\n".join(path.read_text(encoding="utf-8") for path in sorted((ROLES / role).rglob("tasks/*.yml")))
    assert "gpgcheck: false" not in text
    assert text.count("gpgcheck: true") >= text.count("yum_repository:") > 0
    assert text.count("signing_key:") == text.count("fingerprints:") > 0
    assert "gpgkey: http" not in text


@pytest.mark.parametrize("role", ["docker_engine", "nvidia_driver", "nvidia_container_toolkit"])
def test_no_role_reloads_systemd(role: str) -> None:
    """A daemon-reload takes the GPU from containers that got it through a hook (GPU013)."""
    for path in (ROLES / role).rglob("*.yml"):
        assert "daemon_reload" not in path.read_text(encoding="utf-8")
        assert "daemon-reload" not in path.read_text(encoding="utf-8")
