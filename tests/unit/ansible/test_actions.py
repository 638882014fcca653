"""Actions that run a module on the host: what they ask it, what they tell meanwhile, and what they show."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ansible.utils.display import Display

from ansible_collections.gpu_hosts.timm.plugins.action import service_logs
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.watched import FOLDER, read_progress
from tests.collection import COLLECTIONS
from tests.unit.ansible.action_run import run_action

FIXTURES = Path(__file__).parent / "fixtures"

# Each with its arguments, what it says that it does, for how long at most, and where its module says how far it is.
WATCHED = [
    ("gateway_bake", {"state_dir": "/s", "color": "green", "seconds": 30}, "bake", 30, "/s/bake.progress"),
    ("instance_ready", {"container": "c", "timeout": 120, "gateway": "/s"}, "model load", 120, "/s/ready.progress"),
    ("instance_ready", {"container": "c", "timeout": 120}, "model load", 120, None),
    ("gateway_drain", {"state_dir": "/s", "state": "drained", "notice": 5, "timeout": 30}, "requests end", 35, None),
    ("gateway_drain", {"state_dir": "/s", "state": "serving", "notice": 5, "timeout": 30}, "service comes", 30, None),
]


@pytest.mark.parametrize(("name", "arguments", "what", "seconds", "report"), WATCHED)
def test_a_long_step_is_told_while_its_module_runs(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    name: str,
    arguments: dict[str, Any],
    what: str,
    seconds: float,
    report: str | None,
) -> None:
    monkeypatch.setenv(FOLDER, str(tmp_path))

    def module(**asked: Any) -> dict[str, Any]:
        assert asked.pop("progress", None) == report
        assert asked == arguments
        [told] = read_progress(tmp_path)
        assert told["what"].startswith(what)
        assert (told["host"], told["total"], told["unit"]) == ("gpu-1", seconds, "s")
        return {"changed": True}

    assert run_action(name, None, module, **arguments) == {"changed": True}
    assert read_progress(tmp_path) == []


@pytest.mark.parametrize(("name", "arguments"), [each[:2] for each in WATCHED])
def test_a_module_that_nobody_watches_is_asked_for_nothing_more(
    monkeypatch: pytest.MonkeyPatch, name: str, arguments: dict[str, Any]
) -> None:
    monkeypatch.delenv(FOLDER, raising=False)
    assert run_action(name, None, lambda **asked: {"asked": asked}, **arguments) == {"asked": arguments}


class TestLogs:
    @pytest.fixture
    def shown(self, monkeypatch: pytest.MonkeyPatch) -> list[str]:
        lines: list[str] = []
        monkeypatch.setattr(Display, "display", lambda _, line, *__, **___: lines.append(line))
        monkeypatch.setattr(service_logs, "PAUSE_SECONDS", 0)
        return lines

    def test_they_are_read_once(self, shown: list[str]) -> None:
        found = {"lines": ["one"], "until": "10:00"}
        assert run_action("service_logs", None, lambda **_: found, name="cats") == found
        assert shown == []

    def test_what_is_written_is_shown_until_the_run_is_interrupted(self, shown: list[str]) -> None:
        asked = []

        def module(**options: Any) -> dict[str, Any]:
            asked.append(options.get("since", ""))
            if len(asked) == 4:
                raise KeyboardInterrupt
            if len(asked) == 2:
                # It does not answer for a moment.
                return {"failed": True, "unreachable": True, "msg": "no route to host"}
            return {"lines": ["one", "two"] if len(asked) == 1 else [], "until": "10:00"}

        with pytest.raises(KeyboardInterrupt):
            run_action("service_logs", None, module, name="cats", follow=True)
        assert shown == ["gpu-1  one", "gpu-1  two"]
        # Nothing is shown twice, and nothing is missed of a host that was silent.
        assert asked == ["", "10:00", "10:00", "10:00"]

    def test_a_host_that_never_answered_is_not_asked_again(self, shown: list[str]) -> None:
        refused = {"failed": True, "msg": "no Docker"}
        assert run_action("service_logs", None, lambda **_: refused, name="cats", follow=True) == refused
        assert shown == []


class TestDescription:
    @pytest.fixture
    def asked(self, tmp_path: Path) -> dict[str, Any]:
        """A release as a host without a GPU was once asked for."""
        known = json.loads((FIXTURES / "release/cpu.json").read_text(encoding="utf-8"))
        for name, text in known["files"].items():
            (tmp_path / name).write_text(text)
        managed = known["files"]["docker-compose.managed.yml"]
        return {
            **known["asked"],
            **{name: known["release"][name] for name in ("image", "bundle")},
            "source_dir": str(tmp_path),
            "managed": {"cpu": managed, "cuda": ""},
        }

    def test_a_release_is_put_together_with_the_names_of_its_instances(self, asked: dict[str, Any]) -> None:
        known = json.loads((FIXTURES / "release/cpu.json").read_text(encoding="utf-8"))
        found = run_action("release_describe", **asked)
        assert not found.get("failed"), found
        assert (found["release"], found["files"]) == (known["release"], known["files"])
        assert (found["servers"], found["changed"]) == (["0"], False)

    def test_what_cannot_be_a_release_is_refused_with_the_next_step(self, asked: dict[str, Any]) -> None:
        refused = run_action("release_describe", **{**asked, "env": {"API_PORT": "1"}})
        assert refused["msg"].startswith("inference_service_env has API_PORT. Only API_")
        missing = run_action("release_describe", **{**asked, "source_dir": f"{asked['source_dir']}/nowhere"})
        assert missing["failed"]
        assert "docker-compose.yml" in missing["msg"]


def test_a_folder_is_copied_as_ansible_does_it_and_its_size_is_said(tmp_path: Path) -> None:
    (tmp_path / "from" / "golden").mkdir(parents=True)
    (tmp_path / "from" / "model").write_bytes(b"0" * 1_500_000)
    (tmp_path / "from" / "golden" / "cat.jpg").write_text("cat")
    (tmp_path / "to").mkdir()
    (tmp_path / "to" / "decoy").write_text("mine")
    arguments = {"src": f"{tmp_path}/from/", "dest": f"{tmp_path}/to/", "mode": "0640"}
    command = [str(Path(sys.executable).with_name("ansible")), "localhost", "-c", "local", "-m"]
    command += ["gpu_hosts.timm.copy_watched", "--one-line", "-a", json.dumps(arguments)]
    said = []
    for _ in range(2):
        environment = {"ANSIBLE_COLLECTIONS_PATH": str(COLLECTIONS), FOLDER: str(tmp_path), "ANSIBLE_NOCOLOR": "1"}
        done = subprocess.run(
            [*command, "-e", f"ansible_python_interpreter={sys.executable}"],
            env={**os.environ, **environment},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        said.append(json.loads(done.stdout.partition("=> ")[2]))
    assert [(each["changed"], each.get("note")) for each in said] == [(True, "1.5 MB"), (False, None)]
    there = {str(path.relative_to(tmp_path / "to")): path for path in (tmp_path / "to").rglob("*") if path.is_file()}
    assert sorted(there) == ["decoy", "golden/cat.jpg", "model"]
    assert there["model"].stat().st_mode & 0o777 == 0o640
    assert there["decoy"].read_text() == "mine"
