"""Who may change a host: one run at a time, and a run that is provably dead holds nothing."""

from __future__ import annotations

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from ansible_collections.gpu_hosts.timm.plugins.action.release_lock import (
    BUSY,
    HELD,
    SWAP,
    LockError,
    Swap,
    describe,
    plain_shell,
    process_start,
    provably_dead,
    read_holder,
    release,
    this_run,
    writing_shell,
)
from ansible_collections.gpu_hosts.timm.plugins.action.release_lock import take as take_and_wait
from ansible_collections.gpu_hosts.timm.plugins.module_utils.deploy_lock import LOCK_NAME, WRITER_NAME
from ansible_collections.gpu_hosts.timm.plugins.module_utils.deploy_lock import read_lock as lock_facts
from ansible_collections.gpu_hosts.timm.plugins.module_utils.state_folder import MARKER, mark


def owner(run: str) -> dict[str, Any]:
    """Return a run of this very process, which lives as long as the test does."""
    return {**this_run(os.getpid()), "run": run, "owner": "ann@deployer", "since": "2026-01-01T00:00:00Z"}


def swap_command(folder: Path, expected: str, new: str, seconds: int = 0) -> list[str]:
    """Return the command that replaces the lock's content where it is the expected one."""
    return ["sh", "-c", SWAP, "sh", str(folder), expected, new, str(seconds)]


def on_this_machine(folder: Path) -> Swap:
    """Run the script as an action does, without a connection between."""

    def swap(expected: str, new: str, seconds: int) -> tuple[int, str]:
        done = subprocess.run(swap_command(folder, expected, new, seconds), capture_output=True, text=True, check=False)
        assert done.returncode in (0, HELD, BUSY), done.stderr
        return done.returncode, done.stdout.strip()

    return swap


def take(swap: Swap, me: dict[str, Any], break_it: bool = False) -> dict[str, Any]:
    """Take the lock of a host where nobody works."""

    def waiting(work: str) -> None:
        raise AssertionError(f"waited for {work}")

    return take_and_wait(swap, me, break_it, 0, waiting)


def read_lock(folder: Path) -> dict[str, Any]:
    return read_holder((folder / LOCK_NAME).read_text())


class TestLock:
    def test_the_first_takes_it_and_the_second_learns_who_has_it(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path / "it's a state")
        assert take(swap, owner("one")) == {}
        assert take(swap, owner("two")) == {**owner("one"), "working": False}
        assert read_lock(tmp_path / "it's a state") == owner("one")

    def test_a_run_may_take_its_own_lock_again(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path)
        take(swap, owner("one"))
        assert take(swap, {**owner("one"), "since": "later"}) == {}
        assert read_lock(tmp_path)["since"] == "later"

    def test_everybody_may_read_whose_it_is_however_files_are_made_there(self, tmp_path: Path) -> None:
        """Each command of a run looks, before it becomes root."""
        private = ["sh", "-c", 'umask 077; exec "$@"', "sh", *swap_command(tmp_path / "state", "", "{}")]
        subprocess.run(private, check=True)
        modes = {
            path.name: path.stat().st_mode & 0o777 for path in (tmp_path / "state", *(tmp_path / "state").iterdir())
        }
        assert modes == {"state": 0o755, LOCK_NAME: 0o644, WRITER_NAME: 0o644}

    def test_only_the_holder_gives_it_back(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path)
        take(swap, owner("one"))
        assert release(swap, "two") is False
        mark(tmp_path, "cats")
        assert release(swap, "one") is True
        # What its processes lock stays, in a folder that is the service's.
        assert sorted(path.name for path in tmp_path.iterdir()) == [MARKER, WRITER_NAME]
        assert release(swap, "one") is False

    def test_a_run_that_did_nothing_else_leaves_nothing(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path / "state")
        take(swap, owner("one"))
        release(swap, "one")
        assert release(on_this_machine(tmp_path / "nothing"), "one") is False
        assert list(tmp_path.iterdir()) == []

    def test_nothing_stays_in_a_folder_that_is_somebody_else_s(self, tmp_path: Path) -> None:
        (tmp_path / "thesis.txt").touch()
        swap, me = on_this_machine(tmp_path), owner("a")
        assert take(swap, me) == {}
        assert release(swap, "a")
        assert [path.name for path in tmp_path.iterdir()] == ["thesis.txt"]

    def test_a_dead_run_is_replaced_once(self, tmp_path: Path) -> None:
        swap, me = on_this_machine(tmp_path), this_run(os.getpid())
        take(swap, {**me, "run": "dead", "start": "0"})
        dead = (tmp_path / LOCK_NAME).read_text().strip()
        assert take(swap, me) == {}
        # A third that saw the same dead run comes too late.
        code, held = swap(dead, json.dumps(owner("three")), 0)
        assert (code, read_holder(held)) == (HELD, me)

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_a_lock_that_cannot_be_read_holds_until_it_is_broken(self, tmp_path: Path, content: str) -> None:
        (tmp_path / LOCK_NAME).write_text(content)
        swap = on_this_machine(tmp_path)
        assert "unknown" in describe(take(swap, owner("one")))
        assert take(swap, owner("one"), break_it=True) == {}
        assert read_lock(tmp_path) == owner("one")

    @pytest.mark.parametrize("name", [LOCK_NAME, WRITER_NAME])
    def test_a_folder_in_its_place_is_nobody_s_lock_and_makes_room(self, tmp_path: Path, name: str) -> None:
        (tmp_path / name).mkdir()
        assert lock_facts(tmp_path) == {}
        (tmp_path / name / "notes.txt").write_text("mine")
        assert take(on_this_machine(tmp_path), owner("one")) == {}
        assert read_lock(tmp_path) == owner("one")
        assert [path.read_text() for path in tmp_path.glob(f"{name}.aside-*/{name}/notes.txt")] == ["mine"]

    def test_an_empty_folder_in_its_place_goes(self, tmp_path: Path) -> None:
        (tmp_path / LOCK_NAME).mkdir()
        assert take(on_this_machine(tmp_path), owner("one")) == {}
        assert read_lock(tmp_path) == owner("one")
        assert sorted(path.name for path in tmp_path.iterdir()) == [LOCK_NAME, WRITER_NAME]

    def test_what_cannot_be_written_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        command = swap_command(tmp_path / "file", "", "{}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode not in (0, HELD)
        assert "exists" in done.stderr or "directory" in done.stderr

    def test_of_many_at_once_one_wins(self, tmp_path: Path) -> None:
        running = [subprocess.Popen(swap_command(tmp_path, "", str(n))) for n in range(1, 9)]
        assert sorted(process.wait() for process in running) == [0] + [HELD] * 7


@pytest.fixture
def orphan(tmp_path: Path) -> Iterator[subprocess.Popen[bytes]]:
    """A command that a run began on this host and that still works; whoever takes the lock is another run by now."""
    take(on_this_machine(tmp_path), owner("dead"))
    shell = writing_shell(str(tmp_path), "dead", "/bin/sh")
    # As Ansible puts it: a shell, a shell that another user became, and a module that runs a program.
    module = "import subprocess; print(flush=True); subprocess.run(['sleep', '987'], close_fds=True)"
    inner = f"{shell} -c {shlex.quote(shlex.join([sys.executable, '-c', module]) + ' && sleep 0')}"
    command = ["sh", "-c", f"{shell} -c {shlex.quote(inner)}"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, start_new_session=True) as process:
        assert process.stdout
        process.stdout.readline()
        yield process
        os.killpg(process.pid, signal.SIGKILL)


def as_run(folder: Path, run: str, command: str) -> subprocess.CompletedProcess[str]:
    """Run a command of the shell as Ansible does for the run that the shell was made for."""
    words = f"{writing_shell(str(folder), run, '/bin/sh')} -c {shlex.quote(command)}"
    return subprocess.run(["sh", "-c", words], capture_output=True, text=True, check=False)


class TestWriter:
    def test_a_command_of_the_run_that_has_the_lock_is_what_it_would_be(self, tmp_path: Path) -> None:
        take(on_this_machine(tmp_path), owner("one"))
        done = as_run(tmp_path, "one", 'echo "it\'s $((1 + 1))"; echo complaint >&2; exit 7')
        assert (done.returncode, done.stdout, done.stderr) == (7, "it's 2\n", "complaint\n")

    @pytest.mark.parametrize("content", ["", "{", json.dumps(owner("two"))])
    def test_a_command_of_another_run_is_refused_in_a_module_s_own_words(self, tmp_path: Path, content: str) -> None:
        take(on_this_machine(tmp_path), owner("one"))
        (tmp_path / LOCK_NAME).write_text(content)
        done = as_run(tmp_path, "one", f"touch {tmp_path}/done")
        said = json.loads(done.stdout)
        assert (done.returncode, said["failed"], done.stderr) == (1, True, "")
        assert "no longer has the lock" in said["msg"]
        assert not (tmp_path / "done").exists()

    def test_a_lock_that_is_gone_altogether_refuses_too(self, tmp_path: Path) -> None:
        done = as_run(tmp_path / "gone", "one", "echo done")
        # Somebody who is not root may just not be allowed to see it: he has yet to become root.
        assert ("done" in done.stdout) == (os.geteuid() != 0)

    def test_the_shell_that_it_becomes_is_known_again(self) -> None:
        assert plain_shell(writing_shell("/a b", "it's", "/bin/bash")) == "/bin/bash"
        assert plain_shell("/bin/sh") == "/bin/sh"

    def test_a_daemon_that_gives_the_lock_up_holds_nothing(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path)
        take(swap, owner("one"))
        pid = int(as_run(tmp_path, "one", "sleep 987 9<&- >/dev/null 2>&1 & echo $!").stdout)
        assert take(swap, owner("one")) == {}
        os.kill(pid, signal.SIGKILL)

    def test_who_takes_the_lock_waits_and_learns_for_whom(
        self, tmp_path: Path, orphan: subprocess.Popen[bytes]
    ) -> None:
        said: list[str] = []

        def waiting(work: str) -> None:
            said.append(work)
            assert read_lock(tmp_path) == owner("two")
            os.killpg(orphan.pid, signal.SIGKILL)

        assert take_and_wait(on_this_machine(tmp_path), owner("two"), True, 60, waiting) == {}
        assert re.fullmatch(
            r"process \d+ \(sleep 987\), left by the run of ann@deployer \(process \d+\) since .*", said[0]
        )

    def test_who_is_refused_learns_whether_anything_works_there(
        self, tmp_path: Path, orphan: subprocess.Popen[bytes]
    ) -> None:
        assert take(on_this_machine(tmp_path), owner("two")) == {**owner("dead"), "working": True}
        assert orphan.poll() is None

    def test_who_waits_too_long_gives_the_lock_back(self, tmp_path: Path, orphan: subprocess.Popen[bytes]) -> None:
        waited: list[str] = []
        with pytest.raises(
            LockError, match=r"waited \d+ s for process \d+ \(sleep 987\), left by .* Nothing was changed"
        ):
            take_and_wait(on_this_machine(tmp_path), owner("two"), True, 1, waited.append)
        assert waited
        assert not (tmp_path / LOCK_NAME).exists()
        # The lock was given back while it still works: the next run waits all the same.
        with pytest.raises(LockError, match="left by the run of ann@deployer"):
            take_and_wait(on_this_machine(tmp_path), owner("three"), False, 0, waited.append)
        assert orphan.poll() is None


class TestFacts:
    def test_a_host_without_a_run_has_no_lock(self, tmp_path: Path) -> None:
        assert lock_facts(tmp_path) == {}

    def test_the_run_that_has_it_is_named(self, tmp_path: Path) -> None:
        take(on_this_machine(tmp_path), owner("one"))
        assert lock_facts(tmp_path) == {
            "owner": "ann@deployer",
            "controller": owner("one")["controller"],
            "since": "2026-01-01T00:00:00Z",
            "working": False,
        }

    def test_what_still_works_is_seen_with_and_without_a_lock(
        self, tmp_path: Path, orphan: subprocess.Popen[bytes]
    ) -> None:
        assert lock_facts(tmp_path)["working"]
        (tmp_path / LOCK_NAME).unlink()
        assert lock_facts(tmp_path) == {"owner": "", "controller": "", "since": "", "working": True}
        assert orphan.poll() is None

    def test_a_lock_that_cannot_be_read_is_somebody_s(self, tmp_path: Path) -> None:
        (tmp_path / LOCK_NAME).write_text("{")
        assert lock_facts(tmp_path)["owner"] == "somebody unknown"


class TestDead:
    me = this_run(os.getpid())

    def test_a_living_run_is_not_dead(self) -> None:
        assert provably_dead(self.me, self.me) is False

    def test_a_process_that_is_gone_is_dead(self) -> None:
        with subprocess.Popen(("true",)) as process:
            pass
        assert process_start(process.pid) == ""
        assert provably_dead({**self.me, "pid": process.pid}, self.me) is True

    def test_a_number_that_another_process_got_is_dead(self) -> None:
        assert provably_dead({**self.me, "start": "1"}, self.me) is True

    def test_a_controller_that_was_restarted_has_no_runs_of_before(self) -> None:
        assert provably_dead({**self.me, "boot": "another"}, self.me) is True

    @pytest.mark.parametrize("key", ["controller", "machine", "namespace"])
    def test_nothing_is_known_of_another_machine(self, key: str) -> None:
        assert provably_dead({**self.me, key: "another", "pid": 0}, self.me) is False

    def test_nobody_is_not_dead(self) -> None:
        assert provably_dead({}, self.me) is False

    def test_the_holder_is_named_with_its_time(self) -> None:
        assert describe(owner("one")) == f"ann@deployer (process {os.getpid()}) since 2026-01-01T00:00:00Z"
