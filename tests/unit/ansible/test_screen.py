"""What a run shows to people, on a terminal and without one: real runs of small playbooks with our ansible.cfg."""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import pty
import re
import signal
import struct
import subprocess
import sys
import termios
from pathlib import Path
from typing import Any

import pytest
import yaml

from ansible_collections.gpu_hosts.timm.plugins.callback.screen import CONTENTS, amount, clock, failure_texts, phase_of

REPOSITORY = Path(__file__).resolve().parents[3]
ROLES = REPOSITORY / "roles"
ROWS = 30
FIRST = """
- name: Prepare
  hosts: all
  gather_facts: false
  tasks:
    - name: Touch something
      ansible.builtin.command: "true"
      changed_when: true
    - name: Say what is planned
      ansible.builtin.debug: {msg: "From 1 to 2, because the model has another version and the image is the same."}
    - name: Report
      ansible.builtin.debug: {msg: ["two", "  lines"]}
"""
FAILURE = """
    - name: Fail with a long message
      ansible.builtin.fail:
        msg: |-
          The model does not fit: it needs 12 GB, and "gpu-1" has 8.

          Take a smaller one, or C:\\\\another host.
"""
RESCUED = """
    - ansible.builtin.include_role: {name: careful}
"""
CAREFUL = """
- block:
    - name: Start the candidate
      ansible.builtin.fail: {msg: "It is not ready: the disk is full."}
      loop: [blue]
  rescue:
    - name: Say what failed
      ansible.builtin.fail: {msg: "SENTENCE"}
"""
LABELED = """
    - ansible.builtin.debug: {msg: ["URL:    http://192.0.2.1:8000", "Device: cpu"]}
"""
QUIET = """
- name: Look
  hosts: all
  gather_facts: false
  tasks:
    - {name: Look at the command line, ansible.builtin.assert: {that: true, quiet: true}}
  roles: [first, second]
"""
SLOW = """
    - name: Take a while
      ansible.builtin.wait_for: {timeout: 6}
"""


class Run:
    """A playbook run on two hosts that are this machine, with the checkout's ansible.cfg."""

    def __init__(self, folder: Path) -> None:
        self._playbook = folder / "playbook.yml"

    def role(self, name: str, tasks: str) -> None:
        """Write a role beside the playbook."""
        folder = self._playbook.parent / "roles" / name / "tasks"
        folder.mkdir(parents=True)
        (folder / "main.yml").write_text(tasks)

    def command(self, playbook: str, *arguments: str) -> list[str]:
        self._playbook.write_text(playbook)
        tool = str(Path(sys.executable).with_name("ansible-playbook"))
        interpreter = f"ansible_python_interpreter={sys.executable}"
        return [tool, "-i", "gpu-1,gpu-22,", "-c", "local", "-e", interpreter, str(self._playbook), *arguments]

    def plain(self, playbook: str, *arguments: str, **environment: str) -> str:
        """Run without a terminal; return both outputs."""
        done = subprocess.run(
            self.command(playbook, *arguments),
            cwd=REPOSITORY,
            env={**os.environ, **environment},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.stdout

    def terminal(
        self, playbook: str, *arguments: str, columns: int = 100, interrupt_at: str = "", **environment: str
    ) -> str:
        """Run on a terminal; return everything that was written to it."""
        terminal, inside = pty.openpty()
        fcntl.ioctl(inside, termios.TIOCSWINSZ, struct.pack("HHHH", ROWS, columns, 0, 0))
        process = subprocess.Popen(
            self.command(playbook, *arguments),
            cwd=REPOSITORY,
            env={**os.environ, "TERM": "xterm", **environment},
            stdin=inside,
            stdout=inside,
            stderr=inside,
            start_new_session=True,
        )
        os.close(inside)
        output = b""
        # Reading fails when nobody has the terminal open any more.
        with contextlib.suppress(OSError):
            while True:
                output += os.read(terminal, 65536)
                if interrupt_at and interrupt_at.encode() in output:
                    interrupt_at = ""
                    process.send_signal(signal.SIGINT)
        process.wait()
        os.close(terminal)
        return output.decode()


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    for name in ("NO_COLOR", "ANSIBLE_NOCOLOR", "ANSIBLE_FORCE_COLOR", "ANSIBLE_STDOUT_CALLBACK"):
        monkeypatch.delenv(name, raising=False)
    return Run(tmp_path)


def rendered(output: str) -> list[str]:
    """Return the lines that are left on a terminal; knows the sequences that are used, and raises for another."""
    lines, row, column = [""], 0, 0
    for piece in re.findall(r"\x1b\[[\d;]*[A-Za-z]|\x1b.|[^\x1b]", re.sub(r"\x1b\[[\d;]*m", "", output)):
        if piece == "\r":
            column = 0
        elif piece == "\n":
            row += 1
            lines.extend([""] * (row + 1 - len(lines)))
        elif piece == "\x1b[J":
            lines[row:] = [lines[row][:column]]
        elif up := re.fullmatch(r"\x1b\[(\d+)A", piece):
            row -= int(up[1])
        elif piece.startswith("\x1b"):
            raise ValueError(f"unexpected {piece!r}")
        else:
            lines[row] = lines[row][:column].ljust(column) + piece + lines[row][column + 1 :]
            column += 1
    return [line.rstrip() for line in lines]


def without_times(text: str) -> str:
    return re.sub(r"\d+\.\d s", "N s", text)


class TestLines:
    def test_a_phase_of_a_host_is_a_line_with_what_it_said(self, run: Run) -> None:
        output = without_times(run.plain(FIRST))
        plan = "From 1 to 2, because the model has another version and the image is the same."
        for host in ("gpu-1 ", "gpu-22"):
            assert f"{host}  ✓ Prepare N s: 1 changed; {plan}\n" in output
            assert f"\n{host.strip()}:\n  two\n    lines\n" in output
        assert re.search(r"PLAY RECAP \*+\ngpu-1 +: ok=3 +changed=1 ", output)
        assert "\x1b" not in output
        assert "TASK" not in output

    def test_phases_that_change_nothing_share_a_line(self, run: Run) -> None:
        for role in ("first", "second"):
            run.role(role, "- ansible.builtin.assert: {that: true, quiet: true}\n")
        output = without_times(run.plain(QUIET))
        assert output.startswith("gpu-1   ✓ first N s   ✓ second N s\ngpu-22  ✓ first N s   ✓ second N s\n\nPLAY RECAP")

    def test_labels_stand_side_by_side(self, run: Run) -> None:
        assert "gpu-1   URL: http://192.0.2.1:8000   Device: cpu\n" in run.plain(FIRST + LABELED)

    def test_a_failure_is_shown_in_full_and_as_it_was_written(self, run: Run) -> None:
        output = run.plain(FIRST + FAILURE)
        assert "gpu-1   ✗ Prepare" in output
        assert ": Fail with a long message\n" in output
        assert (
            '        The model does not fit: it needs 12 GB, and "gpu-1" has 8.\n\n'
            "        Take a smaller one, or C:\\\\another host.\n"
        ) in output

    @pytest.mark.parametrize(
        "sentence", ["Gone. {{ ansible_failed_result.results[0].msg }} Free some.", "See its own message."]
    )
    def test_a_rescued_failure_is_shown_and_not_twice(self, run: Run, sentence: str) -> None:
        run.role("careful", CAREFUL.replace("SENTENCE", sentence))
        output = run.plain(FIRST + RESCUED, "--limit=gpu-1")
        assert output.count("the disk is full") == 1
        assert output.index("the disk is full") > output.index("✗ careful")
        assert sentence[:4] in output

    def test_a_long_step_is_not_silent(self, run: Run) -> None:
        output = without_times(run.plain(FIRST + SLOW))
        assert re.search(r"\ngpu-1   … Prepare N s: Take a while\n", output)

    def test_changes_are_named_in_a_dry_run_and_differences_are_shown(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("old\n")
        copy = f"    - name: Write it\n      ansible.builtin.copy: {{content: new, dest: {tmp_path}/file}}\n"
        output = without_times(run.plain(FIRST + copy, "--check", "--diff", "--limit=gpu-1"))
        assert "gpu-1  Write it\n" in output
        assert "-old\n" in output
        assert "+new\n" in output
        assert "1 would change; Write it\n" in output

    def test_warnings_appear(self, run: Run, tmp_path: Path) -> None:
        (tmp_path / "library").mkdir()
        module = "from ansible.module_utils.basic import AnsibleModule\n"
        module += "m = AnsibleModule({})\nm.warn('mind the gap')\nm.deprecate('old ways', version='9')\nm.exit_json()\n"
        (tmp_path / "library" / "warns.py").write_text(f"#!/usr/bin/python\n{module}")
        output = run.plain(FIRST + "    - warns:\n")
        assert "mind the gap" in output
        assert "old ways" in output


class TestOtherOutput:
    def test_verbose_is_ansibles_own(self, run: Run) -> None:
        ours, ansibles = (
            # Only times differ from run to run.
            re.sub(r"(delta|start|end): .*|'?\d+:\d\d:\d\d.*", "", run.plain(FIRST + FAILURE, "-v", **environment))
            for environment in ({}, {"ANSIBLE_STDOUT_CALLBACK": "ansible.builtin.default"})
        )
        assert "TASK [Touch something]" in ours
        assert sorted(ours.splitlines()) == sorted(ansibles.splitlines())

    @pytest.mark.parametrize("callback", ["json", "ansible.posix.json"])
    def test_json_is_json(self, run: Run, callback: str) -> None:
        output = run.plain(FIRST, ANSIBLE_STDOUT_CALLBACK=callback, ANSIBLE_DEPRECATION_WARNINGS="false")
        assert json.loads(output[output.index("{") :])["stats"]["gpu-1"]["changed"] == 1

    @pytest.mark.parametrize("callback", ["minimal", "oneline"])
    def test_short_ones_work(self, run: Run, callback: str) -> None:
        assert "gpu-1 | CHANGED" in run.plain(FIRST, ANSIBLE_STDOUT_CALLBACK=callback)


class TestTerminal:
    def test_what_is_under_way_is_rewritten_in_place_and_leaves_nothing(self, run: Run) -> None:
        output = run.terminal(FIRST + SLOW)
        assert re.search(r"gpu-1   [⠋⠙⠹⠸⠼⠴⠦⠧⠇⠏] Prepare \d\.\d s: Take a while", output)
        left = without_times("\n".join(rendered(output)))
        assert "Take a while" not in left
        assert "gpu-22  ✓ Prepare N s\n" in left
        assert left.count("PLAY RECAP") == 1

    def test_a_narrow_terminal_without_colors(self, run: Run) -> None:
        output = run.terminal(FIRST + FAILURE, columns=48, NO_COLOR="1")
        assert not re.search(r"\x1b\[[\d;]*m", output)
        body = "\n".join(rendered(output)).partition("✗ Prepare")[2]
        assert '\n        The model does not fit: it needs 12 GB,\n        and "gpu-1" has 8.\n\n' in body

    def test_a_terminal_that_cannot_move_its_cursor(self, run: Run) -> None:
        output = run.terminal(FIRST, TERM="dumb")
        assert not re.search(r"\x1b\[\d*[AJK]", output)
        assert "✓ Prepare" in output

    def test_an_interrupted_run_leaves_a_clean_screen(self, run: Run) -> None:
        output = run.terminal(FIRST + SLOW.replace("6", "60"), interrupt_at="Take a while")
        left = "\n".join(rendered(output))
        assert "User interrupted execution" in left
        assert "Take a while" not in left


class TestPhases:
    @pytest.mark.parametrize(
        "path", sorted(ROLES.glob("*/tasks/*.yml")), ids=lambda path: f"{path.parts[-3]}/{path.stem}"
    )
    def test_every_task_file_belongs_to_a_phase(self, path: Path) -> None:
        role = path.parts[-3]
        if path.stem in CONTENTS.get(role, ()):
            tasks = yaml.safe_load(path.read_text())
            flat = [each for task in tasks for each in (*task.get("block", [task]), *task.get("rescue", []))]
            modules = {key.rpartition(".")[2] for each in flat for key in each if key.startswith("ansible.builtin.")}
            assert modules <= {"import_tasks", "include_tasks", "import_role", "include_role"}, (
                "not a table of contents"
            )
        else:
            assert phase_of([("", ""), (role, path.stem)], "a play") not in ("", "a play")

    def test_tables_of_contents_are_there(self) -> None:
        assert all(
            (ROLES / role / "tasks" / f"{name}.yml").is_file() for role, names in CONTENTS.items() for name in names
        )

    @pytest.mark.parametrize(
        ("places", "phase"),
        [
            ([("", "")], "The play"),
            ([("", ""), ("", "check")], "check"),
            ([("", ""), ("docker_engine", "")], "docker engine"),
            ([("", ""), ("inference_service", "")], ""),
            ([("", ""), ("docker_engine", "main"), ("docker_engine", "install")], "docker engine"),
            (
                [
                    ("", "roll"),
                    ("inference_service", "main"),
                    ("inference_service", "rollout"),
                    ("inference_service", "start_candidate"),
                    ("inference_service", "remove"),
                ],
                "start candidate",
            ),
            ([("inference_service", "main"), ("inference_service", "rollout"), ("gateway", "switch")], "switch"),
            ([("inference_service", "rollout"), ("gateway", "main"), ("gateway", "run")], "gateway"),
        ],
    )
    def test_the_outermost_file_that_is_one_names_the_phase(self, places: list[tuple[str, str]], phase: str) -> None:
        assert phase_of(places, "The play") == phase


@pytest.mark.parametrize(
    ("step", "words"),
    [
        ({"done": 61e6, "total": 98e6, "unit": "B"}, "61 of 98 MB, 30.5 MB/s"),
        ({"done": 0, "total": 2.5e9, "unit": "B", "at_most": True}, "0.0 of at most 2.5 GB"),
        ({"total": 180, "unit": "s", "at_most": True}, "2 of at most 180 s"),
        (
            {"done": 6, "total": 10, "unit": "s", "detail": "241 requests, 0 errors"},
            "6 of 10 s, 241 requests, 0 errors",
        ),
        ({"unit": "s"}, "2.0 s"),
        ({"done": 3, "total": 12, "unit": "stages", "detail": "RUN pip"}, "3 of 12 stages, RUN pip"),
        ({"detail": "RUN pip"}, "RUN pip"),
    ],
)
def test_how_far_a_step_is(step: dict[str, Any], words: str) -> None:
    empty = {"done": 0, "total": 0, "unit": "", "at_most": False, "detail": "", "began": 100.0}
    assert amount({**empty, **step}, 102.0) == words


@pytest.mark.parametrize(
    ("seconds", "words"), [(0.04, "0.0 s"), (9.94, "9.9 s"), (61.2, "61 s"), (332.4, "5 min 32 s")]
)
def test_durations(seconds: float, words: str) -> None:
    assert clock(seconds) == words


@pytest.mark.parametrize(
    ("result", "text"),
    [
        ({"msg": "It failed."}, "It failed."),
        ({"msg": ["two", "lines"]}, "two\nlines"),
        ({"msg": "non-zero return code", "cmd": ["ls", "a b"], "stderr": "no"}, "ls 'a b'\nnon-zero return code\nno"),
        ({"msg": "MODULE FAILURE", "module_stderr": "no python\n"}, "MODULE FAILURE\nno python"),
        ({"censored": "hidden"}, "hidden"),
        ({}, "no reason given"),
        (
            {
                "msg": "One or more items failed",
                "results": [{"item": "a"}, {"item": "b", "failed": True, "msg": "No."}],
            },
            "b: No.",
        ),
    ],
)
def test_what_is_said_of_a_failure(result: dict[str, Any], text: str) -> None:
    assert failure_texts(result) == text
