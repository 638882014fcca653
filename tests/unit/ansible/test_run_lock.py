"""Who may change a host: one run at a time, and a run that is provably dead holds nothing."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from plugins.action.release_lock import describe, process_start, provably_dead, this_run
from plugins.module_utils.run_lock import LOCK_NAME, read_lock, release, take


def owner(run: str) -> dict[str, Any]:
    return {"run": run, "owner": "ann@deployer", "pid": 7, "since": "2026-01-01T00:00:00Z"}


class TestLock:
    def test_the_first_takes_it_and_the_second_learns_who_has_it(self, tmp_path: Path) -> None:
        assert take(tmp_path / "state", owner("one")) == {}
        assert take(tmp_path / "state", owner("two")) == owner("one")
        assert read_lock(tmp_path / "state") == owner("one")

    def test_a_run_may_take_its_own_lock_again(self, tmp_path: Path) -> None:
        take(tmp_path, owner("one"))
        assert take(tmp_path, owner("one")) == {}

    def test_only_the_holder_gives_it_back(self, tmp_path: Path) -> None:
        take(tmp_path, owner("one"))
        assert release(tmp_path, "two") is False
        assert release(tmp_path, "one") is True
        assert list(tmp_path.iterdir()) == []
        assert release(tmp_path / "nothing", "one") is False

    def test_a_dead_run_is_replaced_by_name_only(self, tmp_path: Path) -> None:
        take(tmp_path, owner("dead"))
        assert take(tmp_path, owner("two"), replace="dead") == {}
        # A third that saw the same dead run comes too late.
        assert take(tmp_path, owner("three"), replace="dead") == owner("two")

    @pytest.mark.parametrize("content", ["", "{", "[]"])
    def test_a_lock_that_cannot_be_read_holds_until_it_is_broken(self, tmp_path: Path, content: str) -> None:
        (tmp_path / LOCK_NAME).write_text(content)
        assert "unknown" in describe(take(tmp_path, owner("one")))
        assert take(tmp_path, owner("one"), break_it=True) == {}
        assert json.loads((tmp_path / LOCK_NAME).read_text()) == owner("one")

    def test_of_many_at_once_one_wins(self, tmp_path: Path) -> None:
        program = (
            "import sys; from pathlib import Path\n"
            "import ansible.module_utils as m; m.__path__.append(sys.argv[3])\n"
            "from ansible.module_utils.run_lock import take\n"
            "print('won' if not take(Path(sys.argv[1]), {'run': sys.argv[2]}) else 'lost')\n"
        )
        shared = str(Path(__file__).resolve().parents[3] / "plugins" / "module_utils")
        running = [
            subprocess.Popen((sys.executable, "-c", program, str(tmp_path), str(n), shared), stdout=subprocess.PIPE)
            for n in range(8)
        ]
        said = [process.communicate()[0].decode().strip() for process in running]
        assert sorted(said) == ["lost"] * 7 + ["won"]


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
        assert describe(owner("one")) == "ann@deployer (process 7) since 2026-01-01T00:00:00Z"
