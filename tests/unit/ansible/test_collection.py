"""The checkout is a collection: built, installed elsewhere and used by its full name it works as it does here."""

from __future__ import annotations

import inspect
import json
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.collection import COLLECTION
from tests.collection import COLLECTIONS, REPOSITORY

PLUGINS = f"ansible_collections.{COLLECTION}.plugins"
PLAYBOOKS = sorted(path.stem for path in (REPOSITORY / "playbooks").glob("*.yml"))
ROLES = sorted(path.name for path in (REPOSITORY / "roles").iterdir())
FILTERS = {
    name: function
    for path in sorted((REPOSITORY / "plugins/filter").glob("*.py"))
    for name, function in import_module(f"{PLUGINS}.filter.{path.stem}").FilterModule().filters().items()
}
# What somebody writes who has his own playbooks.
STRANGERS = f"""
- hosts: inference_hosts
  roles: [{COLLECTION}.nvidia_driver, {COLLECTION}.docker_engine]
- ansible.builtin.import_playbook: {COLLECTION}.deploy
"""


def ansible(tool: str, *arguments: str, folder: Path, **environment: str) -> subprocess.CompletedProcess[str]:
    """Run a tool of Ansible in a folder, with no settings but these."""
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("ANSIBLE_")}
    return subprocess.run(
        [str(Path(sys.executable).with_name(tool)), *arguments],
        cwd=folder,
        env={**inherited, "HOME": str(folder), "ANSIBLE_NOCOLOR": "1", **environment},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The collection, built from the checkout and installed into a path of its own."""
    folder = tmp_path_factory.mktemp("elsewhere")
    for arguments in (
        ("build", str(REPOSITORY), "--output-path", str(folder)),
        ("install", str(folder / f"{COLLECTION.replace('.', '-')}-{version()}.tar.gz"), "--no-deps", "-p", str(folder)),
    ):
        done = ansible("ansible-galaxy", "collection", *arguments, folder=folder)
        assert done.returncode == 0, done.stdout
    return folder


def version() -> str:
    """Return the version of the service, which is that of everything."""
    found = re.search(r'(?m)^__version__ = "(.+)"$', (REPOSITORY / "app/__init__.py").read_text())
    assert found
    return found[1]


def test_the_collection_and_the_newest_entry_of_the_changelog_have_the_services_version() -> None:
    assert yaml.safe_load((REPOSITORY / "galaxy.yml").read_text())["version"] == version()
    newest = re.search(r"(?m)^## \[(.+)\] - \d{4}-\d\d-\d\d$", (REPOSITORY / "CHANGELOG.md").read_text())
    assert newest
    assert newest[1] == version()


def test_images_are_labeled_with_that_version(tmp_path: Path) -> None:
    """What the script would have Docker do; the role reads the same line."""
    docker = tmp_path / "docker"
    docker.write_text("#!/bin/sh\n")
    docker.chmod(0o755)
    done = subprocess.run(
        [str(REPOSITORY / "scripts/docker-build.sh"), "--dry-run", "--builder-base", "b", "--runtime-base", "r"],
        env={"PATH": f"{tmp_path}:{os.environ['PATH']}", "HOME": str(tmp_path)},
        capture_output=True,
        text=True,
        check=False,
    )
    assert f"VERSION={version()}" in done.stdout, done.stderr


def inventory(folder: Path) -> str:
    """Write an inventory of this machine under a name of its own; return where it is."""
    host = {"ansible_connection": "local", "ansible_python_interpreter": sys.executable}
    variables = {
        "inference_service_name": f"stranger-{os.getpid()}",
        "inference_service_state_dir": str(folder / "state"),
        "inference_service_port": 8899,
        "model_bundle_source": str(folder / "models"),
    }
    path = folder / "hosts.json"
    path.write_text(json.dumps({"inference_hosts": {"hosts": {"here": host}, "vars": variables}}))
    return str(path)


def test_what_a_user_of_the_collection_needs_is_in_it_and_nothing_else(installed: Path) -> None:
    root = installed / "ansible_collections" / COLLECTION.replace(".", "/")
    there = {path.name for path in root.iterdir()}
    assert {"app", "docker", "Dockerfile", ".dockerignore", "docker-compose.yml", "meta", "playbooks", "roles"} <= there
    assert not there & {"tests", "molecule", "bench", ".git", ".venv", ".cache", "models", "ansible.cfg", "Makefile"}
    assert not (root / "playbooks" / "collections").exists()


def test_a_strangers_playbook_uses_roles_and_the_deploy_by_name(installed: Path) -> None:
    (installed / "site.yml").write_text(STRANGERS)
    arguments = ("-i", inventory(installed), "--check", "site.yml")
    done = ansible("ansible-playbook", *arguments, folder=installed, ANSIBLE_COLLECTIONS_PATH=str(installed))
    said = " ".join(done.stdout.split())
    # Both roles look at this machine, whatever they find; the deploy misses a model that nobody has given it.
    assert f"TASK [{COLLECTION}.nvidia_driver : " in said
    assert f"TASK [{COLLECTION}.docker_engine : " in said
    assert "This cannot be deployed, so nothing was started" in said
    assert str(installed / "models") in said
    # Settings that it does not have are not missed.
    assert "ansible.cfg" not in said


def test_every_playbook_is_found_by_name_and_from_any_folder(installed: Path) -> None:
    check = ("--syntax-check", "-i", inventory(installed))
    names = [f"{COLLECTION}.{playbook}" for playbook in PLAYBOOKS]
    paths = [str(REPOSITORY / f"playbooks/{playbook}.yml") for playbook in PLAYBOOKS]
    by_name = ansible("ansible-playbook", *check, *names, folder=installed, ANSIBLE_COLLECTIONS_PATH=str(installed))
    by_path = ansible("ansible-playbook", *check, *paths, folder=installed)
    for done in (by_name, by_path):
        assert done.returncode == 0, done.stdout
        assert done.stdout.count("playbook: ") == len(PLAYBOOKS), done.stdout


def documented(kind: str) -> list[str]:
    """Return the full names of the plugins of a kind that a playbook may use."""
    if kind == "role":
        return [f"{COLLECTION}.{name}" for name in ROLES]
    if kind == "filter":
        modules = [
            import_module(f"{PLUGINS}.filter.{path.stem}") for path in (REPOSITORY / "plugins/filter").glob("*.py")
        ]
        return [f"{COLLECTION}.{name}" for module in modules for name in module.FilterModule().filters()]
    folder = {"module": "modules"}.get(kind, kind)
    return [f"{COLLECTION}.{path.stem}" for path in (REPOSITORY / "plugins" / folder).glob("*.py")]


@pytest.mark.parametrize("kind", ["module", "filter", "lookup", "callback", "role"])
def test_ansible_doc_answers(tmp_path: Path, kind: str) -> None:
    names = documented(kind)
    path = {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS)}
    done = ansible("ansible-doc", "--type", kind, "--json", *names, folder=tmp_path, **path)
    assert done.returncode == 0, done.stdout
    answers: dict[str, Any] = json.loads(done.stdout[done.stdout.index("{") :])
    assert sorted(answers) == sorted(names)


@pytest.mark.parametrize("name", FILTERS)
def test_a_filter_takes_what_its_documentation_says(name: str) -> None:
    said = yaml.safe_load((REPOSITORY / f"plugins/filter/{name}.yml").read_text())["DOCUMENTATION"]
    first, *others = inspect.signature(FILTERS[name]).parameters
    assert said["name"] == name, first
    assert said.get("positional", "") == ", ".join(others)
    assert [*said["options"]] == ["_input", *others]


def names_without_collection(text: str) -> list[str]:
    """Return the roles, modules and filters that a file of YAML calls by a short name."""
    modules = "|".join(path.stem for path in (REPOSITORY / "plugins/modules").glob("*.py"))
    filters = "|".join(name.rpartition(".")[2] for name in documented("filter"))
    calls = (
        rf"(?m)^\s+(?:- )?({modules}):\s*$",
        rf"\|\s*({filters})\b",
        rf"(?:import|include)_role:\s*\n\s+name: ({'|'.join(ROLES)})\b",
        r"\b(?:lookup|query)\('(\w+)'",
    )
    return [found for call in calls for found in re.findall(call, text)]


def test_everything_of_ours_is_called_by_its_full_name() -> None:
    files = [path for folder in ("roles", "playbooks") for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    called = {
        str(path.relative_to(REPOSITORY)): names_without_collection(path.read_text(encoding="utf-8"))
        for path in files
        if path.suffix in (".yml", ".j2") and not {"collections", "meta"} & {*path.parts}
    }
    assert {name: found for name, found in called.items() if found} == {}


def in_playbooks(pattern: str) -> list[str]:
    """Return what matches in the playbooks and their tasks."""
    folder = REPOSITORY / "playbooks"
    texts = [path.read_text(encoding="utf-8") for path in (*folder.glob("*.yml"), *folder.glob("tasks/*.yml"))]
    return [found for text in texts for found in re.findall(pattern, text)]


def test_playbooks_name_no_internal_variable_and_no_file_of_a_role() -> None:
    assert in_playbooks(rf"\b__(?:{'|'.join(ROLES)})_\w+") == []
    assert in_playbooks(r"\broles/\S*") == []


# What stands in one place of plugins, roles and playbooks, and where; examples in documentation do not count.
FACTS = {
    r"(?<![\w.])/etc/haproxy/conf/live\.map": [
        "plugins/module_utils/gateway_paths.py",
        # As the files of the gateway's container say it, which know no Python.
        "roles/gateway/files/hold.lua",
        "roles/gateway/files/keeper.py",
        "roles/gateway/vars/main.yml",
    ],
    r"/var/lib/timm-classifier\b": [
        "roles/inference_service/defaults/main.yml",
        "roles/inference_service/meta/argument_specs.yml",
    ],
    # The name of the service and of its image are two facts with one value.
    r"(?<!registry\.example/)\btimm-classifier\b": [
        "roles/inference_image/defaults/main.yml",
        "roles/inference_image/meta/argument_specs.yml",
        "roles/inference_service/defaults/main.yml",
        "roles/inference_service/meta/argument_specs.yml",
    ],
    r"(?<![\w/])conf/live\.map": ["plugins/module_utils/gateway_paths.py"],
    r"\brun/admin\.sock|\"admin\.sock\"": ["plugins/module_utils/gateway_paths.py"],
    # As the container sees it.
    r"/run/haproxy/admin\.sock": ["roles/gateway/files/keeper.py", "roles/gateway/templates/haproxy.cfg.j2"],
    r"run/(?:haproxy/)?servers\.state": [
        "plugins/module_utils/gateway_replace.py",
        "roles/gateway/templates/haproxy.cfg.j2",
    ],
    # In Python; the Compose files say what they are.
    r"[\"=]inference-service\.(?:name|release|colou?r|instance|bundle-version)\b(?!:)": [
        "plugins/module_utils/docker_host.py",
        "roles/gateway/files/keeper.py",
        "roles/inference_service/tasks/teardown.yml",
    ],
    # How far an answer may be off says the bundle, to the image and to those who ask a release.
    r"(?i)\btolerance\b[^\n]*[=:] *0?\.\d": [],
    r"(?m)^PATIENCE\b": [],
    r"\"\.inference-service\"": ["plugins/module_utils/state_folder.py"],
    r"\"(?:deploy|writer)\.lock\"": ["plugins/module_utils/deploy_lock.py"],
    # Whose gateway it is: a service's, or that of a load balancer.
    r"(?m)^ *gateway_(?:name|state_dir): \"\{\{": [
        "roles/gateway/defaults/main.yml",
        "roles/inference_service/tasks/gateway.yml",
        "playbooks/tasks/balancer_gateway.yml",
    ],
    r"\}\}/gateway\"": [
        "roles/gateway/defaults/main.yml",
        "roles/gateway/meta/argument_specs.yml",
        "roles/inference_service/vars/main.yml",
    ],
    # Where a model is put must be where the instances look for it.
    r"(?m)^BUNDLES = |\}\}/bundles\"": [
        "plugins/module_utils/releases.py",
        "roles/inference_service/vars/main.yml",
        "roles/model_bundle/vars/main.yml",
    ],
    r"\[\{self\.ip\}\]|\[\{(?:address|host)\}\]": ["plugins/module_utils/published.py"],
    r"deploy_address (?:is|\|)|get\(\"deploy_address\"": [
        "plugins/filter/balanced_hosts.py",
        "plugins/plugin_utils/reach.py",
    ],
}


@pytest.mark.parametrize("fact", FACTS)
def test_a_fact_has_one_place(fact: str) -> None:
    places = []
    for folder in ("plugins", "roles", "playbooks"):
        for path in sorted((REPOSITORY / folder).rglob("*")):
            if (
                path.suffix in (".py", ".yml", ".j2", ".lua")
                and "collections" not in path.relative_to(REPOSITORY).parts
            ):
                text = re.sub(r'(?ms)^(DOCUMENTATION|EXAMPLES) = r""".*?"""', "", path.read_text(encoding="utf-8"))
                if re.search(fact, text):
                    places.append(str(path.relative_to(REPOSITORY)))
    assert places == FACTS[fact]


def test_engine_means_what_computes_the_model() -> None:
    """Docker is called by its name; only names in code and of findings, which stay what they are, say engine of it."""
    folders = ("roles", "playbooks", "plugins", "docs", "scripts")
    files = [path for folder in folders for path in (REPOSITORY / folder).rglob("*") if path.is_file()]
    texts = {
        path: path.read_text(encoding="utf-8", errors="replace") for path in files if "collections" not in path.parts
    }
    # What computes the model may have a process of its own.
    docker = re.compile(r"\b[Tt]he (Docker |container )?engine\b(?!'s process)")
    assert [str(path) for path, text in texts.items() if docker.search(text)] == []


# Whose value is an expression without braces.
CONDITIONS = ("when", "that", "until", "changed_when", "failed_when")


def expressions(content: Any, key: str = "") -> Iterator[str]:
    """Yield every expression of a file of tasks or variables."""
    if isinstance(content, dict):
        for name, value in content.items():
            yield from expressions(value, name)
    elif isinstance(content, list):
        for value in content:
            yield from expressions(value, key)
    elif isinstance(content, str):
        in_braces = re.findall(r"(?s)\{\{.*?\}\}", content)
        yield from in_braces or ([content] if key in CONDITIONS else [])


def test_logic_over_data_is_no_template() -> None:
    """An expression with more than three filters belongs into one that has a test."""
    found = set()
    for path in (
        path for folder in ("roles", "playbooks", "molecule") for path in (REPOSITORY / folder).glob("**/*.yml")
    ):
        texts = expressions(yaml.safe_load(path.read_text(encoding="utf-8")))
        if any(re.sub(r"'[^']*'|\"[^\"]*\"", "", text).count("|") > 3 for text in texts):
            found.add(str(path.relative_to(REPOSITORY)))
    assert found == set()


def test_every_entry_point_that_is_called_has_a_specification() -> None:
    files = [path for folder in ("roles", "playbooks") for path in (REPOSITORY / folder).glob("**/*.yml")]
    call = re.compile(rf"name: {COLLECTION}\.(\w+)\n\s+tasks_from: (\w+)")
    texts = [path.read_text(encoding="utf-8") for path in files]
    called = {found for text in texts for found in call.findall(text)}
    # Both ways to the gateway name its part in a variable.
    parts = {found for text in texts for found in re.findall(r"__\w+_entry: (\w+)", text)}
    assert "switch" in parts
    called |= {("gateway", part) for part in parts}
    specified = {
        (role, entry)
        for role in ROLES
        for entry in yaml.safe_load((REPOSITORY / "roles" / role / "meta/argument_specs.yml").read_text())[
            "argument_specs"
        ]
    }
    assert called
    assert called - specified == set()
