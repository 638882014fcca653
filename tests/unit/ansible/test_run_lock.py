"""Who may change a host: one run at a time, and a run that is provably dead holds nothing."""

from __future__ import annotations

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import pytest

from plugins.action.release_lock import (
    HELD,
    LOCK_NAME,
    SWAP,
    Swap,
    describe,
    process_start,
    provably_dead,
    read_holder,
    release,
    take,
    this_run,
)


def owner(run: str) -> dict[str, Any]:
    """Return a run of this very process, which lives as long as the test does."""
    return {**this_run(os.getpid()), "run": run, "owner": "ann@deployer", "since": "2026-01-01T00:00:00Z"}


def swap_command(folder: Path, expected: str, new: str) -> list[str]:
    """Return the command that replaces the lock's content where it is the expected one."""
    return ["sh", "-c", SWAP, "sh", str(folder), expected, new]


def on_this_machine(folder: Path) -> Swap:
    """Run the script as an action does, without a connection between."""

    def swap(expected: str, new: str) -> tuple[bool, str]:
        done = subprocess.run(swap_command(folder, expected, new), capture_output=True, text=True, check=False)
        assert done.returncode in (0, HELD), done.stderr
        return done.returncode == 0, done.stdout

    return swap


def read_lock(folder: Path) -> dict[str, Any]:
    return read_holder((folder / LOCK_NAME).read_text())


class TestLock:
    def test_the_first_takes_it_and_the_second_learns_who_has_it(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path / "it's a state")
        assert take(swap, owner("one")) == {}
        assert take(swap, owner("two")) == owner("one")
        assert read_lock(tmp_path / "it's a state") == owner("one")

    def test_a_run_may_take_its_own_lock_again(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path)
        take(swap, owner("one"))
        assert take(swap, {**owner("one"), "since": "later"}) == {}
        assert read_lock(tmp_path)["since"] == "later"

    def test_only_the_holder_gives_it_back(self, tmp_path: Path) -> None:
        swap = on_this_machine(tmp_path)
        take(swap, owner("one"))
        assert release(swap, "two") is False
        assert release(swap, "one") is True
        assert list(tmp_path.iterdir()) == []
        assert release(swap, "one") is False
        assert release(on_this_machine(tmp_path / "nothing"), "one") is False
        assert list(tmp_path.iterdir()) == []

    def test_a_dead_run_is_replaced_once(self, tmp_path: Path) -> None:
        swap, me = on_this_machine(tmp_path), this_run(os.getpid())
        take(swap, {**me, "run": "dead", "start": "0"})
        dead = (tmp_path / LOCK_NAME).read_text().strip()
        assert take(swap, me) == {}
        # A third that saw the same dead run comes too late.
        swapped, held = swap(dead, json.dumps(owner("three")))
        assert not swapped
        assert read_holder(held) == me

    @pytest.mark.parametrize("content", ["{", "[]"])
    def test_a_lock_that_cannot_be_read_holds_until_it_is_broken(self, tmp_path: Path, content: str) -> None:
        (tmp_path / LOCK_NAME).write_text(content)
        swap = on_this_machine(tmp_path)
        assert "unknown" in describe(take(swap, owner("one")))
        assert take(swap, owner("one"), break_it=True) == {}
        assert read_lock(tmp_path) == owner("one")

    def test_what_cannot_be_written_says_why(self, tmp_path: Path) -> None:
        (tmp_path / "file").write_text("")
        command = swap_command(tmp_path / "file", "", "{}")
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        assert done.returncode not in (0, HELD)
        assert "exists" in done.stderr or "directory" in done.stderr

    def test_of_many_at_once_one_wins(self, tmp_path: Path) -> None:
        running = [subprocess.Popen(swap_command(tmp_path, "", str(n))) for n in range(1, 9)]
        assert sorted(process.wait() for process in running) == [0] + [HELD] * 7


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
