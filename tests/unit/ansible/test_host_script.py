"""What a script of an action said is found whatever the connection adds, and a failure is told as what it is."""

from __future__ import annotations

import hashlib
import json
import os
import pty
import shlex
import subprocess
from pathlib import Path
from typing import Any

import pytest
from ansible.errors import AnsibleConnectionFailure, AnsibleError

from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.host_script import (
    Answer,
    command_line,
    next_step,
    read_answer,
)
from tests.unit.ansible.action_run import run_action

MARKER, HALVES = "AAAABBBB", ("AAAA", "BBBB")
# Greets, says three things of which one is empty, complains twice, and ends with 3.
SCRIPT = "printf 'Grüße\\n\\n%s\\n' \"$1\"; echo complaint >&2; echo more >&2; exit 3"
ANSWER = Answer(3, "Grüße\n\ntwo words\n", "complaint\nmore")
SAID = "AAAABBBB<\nGrüße\n\ntwo words\n\nAAAABBBB 3\ncomplaint\nmore\nAAAABBBB>\n"
OVER_A_TERMINAL = SAID.replace("\n", "\r\n")
GOOD_BYE = "Shared connection to 192.0.2.11 closed.\r\n"

# What ansible-core 2.19 gave for SCRIPT on Debian 13, OpenSSH 10: output and errors.
RECORDED = {
    "local": (SAID, ""),
    "ssh as root": (OVER_A_TERMINAL, ""),
    "sudo without a password, and a login shell that greets": ("welcome home\r\n" + OVER_A_TERMINAL, ""),
    "sudo with a password": ("\r\n" + OVER_A_TERMINAL, GOOD_BYE),
    "su": ("\r\n" + OVER_A_TERMINAL, GOOD_BYE),
}

# The same where the script did not run: output, errors, what is to be read, and what to do.
REFUSED = {
    "no sudo rights": (
        "\r\nnosudo is not in the sudoers file.\r\n",
        GOOD_BYE,
        "nosudo is not in the sudoers file",
        "allow",
    ),
    "no password": ("", "Missing sudo password", "Missing sudo password", "-K"),
    "wrong password": ("", "Incorrect sudo password", "Incorrect sudo password", "right password with -K"),
    "wrong password of su": ("", "Incorrect su password", "Incorrect su password", "right password with -K"),
    "no doas": ("/bin/sh: 1: doas: not found\r\n", GOOD_BYE, "/bin/sh: 1: doas: not found", "ansible_become_method"),
    "local, no password": (
        "",
        "Premature end of stream waiting for become success.\n>>> Standard Error\nsudo: a password is required",
        "sudo: a password is required",
        "-K",
    ),
}


class TestAnswer:
    @pytest.mark.parametrize("transport", RECORDED)
    def test_each_transport_gives_the_same(self, transport: str) -> None:
        assert read_answer(MARKER, *RECORDED[transport]) == ANSWER

    def test_the_command_says_what_was_recorded(self) -> None:
        command = command_line(SCRIPT, ["two words"], HALVES)
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert (done.returncode, done.stdout, done.stderr) == (0, SAID, "")

    def test_nothing_is_in_it_that_login_shells_read_in_different_ways(self) -> None:
        command = command_line("echo \"$1\" '!'\necho b", ["it's\nthat: $HOME"], HALVES)
        # Within quotes, csh stumbles over an end of line and an exclamation mark, fish over a backslash.
        assert not set(command) & set("\n!\\")
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, check=False)
        assert read_answer(MARKER, done.stdout) == Answer(0, "it's\nthat: $HOME !\nb\n", "")

    @pytest.mark.parametrize("lines", ["", "no end of line", "\n", "a\r\nb\r", "\n\n AAAABBBB \n", f"{MARKER[:-1]}<\n"])
    @pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n"])
    def test_output_is_not_touched(self, lines: str, end: str) -> None:
        command = command_line('printf %s "$1"', [lines], ("CCCC", "DDDD"))
        said = subprocess.run(["sh", "-c", command], capture_output=True, check=False).stdout.decode()
        assert read_answer("CCCCDDDD", said.replace("\n", end)) == Answer(0, lines, "")

    def test_a_message_that_quotes_the_command_is_not_an_answer(self) -> None:
        command = command_line(SCRIPT, [], HALVES).replace("\n", "\r\n")
        answer = read_answer(
            MARKER, f"Sorry, user ann is not allowed to execute '/bin/sh -c {command}' as root on gpu-1."
        )
        assert answer.code is None
        assert "let the host's administrator allow" in answer.failure("")

    @pytest.mark.parametrize("case", REFUSED)
    def test_a_script_that_did_not_run_says_why(self, case: str) -> None:
        output, errors, reason, step = REFUSED[case]
        message = read_answer(MARKER, output, errors).failure("The lock cannot be written")
        assert message.startswith(f"The host ran nothing: {reason}. ")
        assert step in message
        assert "Free space" not in message

    @pytest.mark.parametrize(
        ("complaint", "step"),
        [
            (
                "sh: 6: echo: echo: I/O error\nmkdir: cannot create directory '/x': No space left on device",
                "Free space",
            ),
            ("sh: 9: cannot create .deploy.lock: Read-only file system", "dmesg"),
            ("mkdir: cannot create directory '/var/lib/x': Permission denied", "permissions"),
            ("sh: 4: flock: not found", "util-linux"),
            ("sha256sum: a: Input/output error", "Look at the disk"),
        ],
    )
    def test_a_script_that_failed_says_why(self, complaint: str, step: str) -> None:
        message = Answer(1, "", complaint).failure("The lock cannot be written")
        assert message.startswith(f"The lock cannot be written: {complaint}. ".replace("\n", "; "))
        assert step in message

    @pytest.mark.parametrize("length", [12, 30, -3])
    def test_a_script_whose_end_is_missing_is_not_taken_for_one_that_ended(self, length: int) -> None:
        answer = read_answer(MARKER, OVER_A_TERMINAL[:length], GOOD_BYE)
        assert answer.code not in (0, 3, None)
        assert answer.failure("It was not read") == (
            "It was not read: the connection ended before the command did. Look whether the host is up, then run again."
        )

    def test_what_is_not_known_has_a_next_step_too(self) -> None:
        assert next_step("something else") == "Fix that on the host, then run again."


def over_a_terminal(command: str, first: str = "\r\n") -> tuple[int, bytes, bytes]:
    """Run a command as ssh -tt and sudo with a password do: one terminal for all, an empty line first, a good-bye."""
    ours, theirs = pty.openpty()
    with subprocess.Popen(["sh", "-c", command], stdin=theirs, stdout=theirs, stderr=theirs) as process:
        os.close(theirs)
        said = bytearray(first.encode())
        # Linux reports the end of a terminal as an error.
        try:
            while part := os.read(ours, 65536):
                said += part
        except OSError:
            pass
    os.close(ours)
    return process.returncode, bytes(said), GOOD_BYE.encode()


@pytest.fixture
def bundle(tmp_path: Path) -> Path:
    """A bundle in good order."""

    def entry(name: str) -> dict[str, Any]:
        (tmp_path / name).write_text("x")
        return {"file": name, "sha256": hashlib.sha256(b"x").hexdigest(), "bytes": 1}

    manifest = {"name": "cats", "version": "2", "source": {"sha256": "5"}, "golden_samples": [entry("a.jpg")]}
    manifest |= {key: entry(key) for key in ("weights", "labels", "golden")}
    (tmp_path / "bundle.json").write_text(json.dumps(manifest, indent=2))
    return tmp_path


class TestActions:
    def test_a_bundle_is_read_over_a_terminal(self, bundle: Path) -> None:
        result = run_action("bundle_info", over_a_terminal, path=str(bundle))
        assert not result.get("failed"), result["msg"]
        assert (result["exists"], result["version"], result["problems"]) == (True, "2", [])

    def test_a_bundle_that_cannot_be_read_says_why(self) -> None:
        def refused(_: str) -> tuple[int, bytes, bytes]:
            return 1, b"\r\nnosudo is not in the sudoers file.\r\n", GOOD_BYE.encode()

        result = run_action("bundle_info", refused, path="/nowhere")
        assert result["failed"]
        assert "nosudo is not in the sudoers file" in result["msg"]

    def test_a_lock_is_taken_and_given_back_over_a_terminal(self, tmp_path: Path) -> None:
        state = tmp_path / "state"
        assert not run_action("release_lock", over_a_terminal, state_dir=str(state)).get("failed")
        assert (state / "deploy.lock").is_file()
        assert not run_action("release_lock", over_a_terminal, state_dir=str(state), state="released").get("failed")
        assert not (state / "deploy.lock").exists()

    def test_a_lock_is_given_back_where_it_can_be_and_nothing_fails_for_it(self, tmp_path: Path) -> None:
        def unreachable(_: str) -> tuple[int, bytes, bytes]:
            raise AnsibleConnectionFailure("no route to host")

        def refused(_: str) -> tuple[int, bytes, bytes]:
            return 1, b"\r\nnosudo is not in the sudoers file.\r\n", GOOD_BYE.encode()

        for transport in (over_a_terminal, unreachable, refused):
            result = run_action("release_lock", transport, state_dir=str(tmp_path / "never"), state="released")
            assert (result.get("failed"), result.get("unreachable")) == (None, transport is unreachable or None)
            assert result["released"] is False
            if transport is unreachable:
                assert "could not be given back" in result["msg"]
                assert result["msg"].endswith("no route to host")
        assert list(tmp_path.iterdir()) == []

    def test_a_user_without_rights_is_not_told_to_free_space(self, tmp_path: Path) -> None:
        def refused(_: str) -> tuple[int, bytes, bytes]:
            return 1, b"\r\nnosudo is not in the sudoers file.\r\n", GOOD_BYE.encode()

        message = run_action("release_lock", refused, state_dir=str(tmp_path))["msg"]
        assert "nosudo is not in the sudoers file" in message
        assert "Free space" not in message

    @pytest.mark.parametrize("words", ["Incorrect sudo password", "Missing sudo password"])
    def test_what_the_connection_says_of_the_password_gets_a_next_step(self, tmp_path: Path, words: str) -> None:
        def refused(_: str) -> tuple[int, bytes, bytes]:
            raise AnsibleError(words)

        message = run_action("release_lock", refused, state_dir=str(tmp_path))["msg"]
        assert message.startswith(f"The host ran nothing: {words}. Give the ")

    def test_a_folder_that_cannot_be_made_is_the_reason(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        message = run_action("release_lock", over_a_terminal, state_dir=str(tmp_path / "file"))["msg"]
        assert message.startswith(f"The lock in {tmp_path / 'file'} cannot be written: mkdir: ")
        assert "closed" not in message

    def test_a_full_disk_is_the_reason(self, tmp_path: Path) -> None:
        full = tmp_path / "full"
        full.mkdir()
        (full / ".deploy.lock").symlink_to("/dev/full")
        message = run_action("release_lock", over_a_terminal, state_dir=str(full))["msg"]
        assert "No space left on device" in message
        assert "Free space there" in message
        assert "closed" not in message


def test_a_read_only_folder_is_the_reason(tmp_path: Path) -> None:
    """Mounts are a thing of root, and a namespace of its own keeps this one from everybody else."""
    command = f"mount -t tmpfs -o ro,size=1m none {shlex.quote(str(tmp_path))} && "

    def read_only(words: str) -> tuple[int, bytes, bytes]:
        return over_a_terminal(shlex.join(["unshare", "--mount", "sh", "-c", command + words]))

    if subprocess.run(["unshare", "--mount", "true"], capture_output=True, check=False).returncode != 0:
        pytest.skip("only root may mount")
    message = run_action("release_lock", read_only, state_dir=str(tmp_path))["msg"]
    assert "Read-only file system. Make the file system writable" in message
