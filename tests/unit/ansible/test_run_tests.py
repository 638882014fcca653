"""The stage runner: what it counts, where it stops, what it prints last."""

from __future__ import annotations

import importlib.machinery
import importlib.util
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

SCRIPT = Path(__file__).resolve().parents[3] / "scripts" / "run-tests"

PASSING = "def test_a(): pass\ndef test_b(): pass\n"
MIXED = """
import pytest
def test_good(): pass
def test_bad(): assert 1 + 1 == 3, "arithmetic is broken"
@pytest.mark.skip(reason="another day")
def test_later(): pass
@pytest.fixture
def broken(): raise RuntimeError("no such host")
def test_unready(broken): pass
"""


@pytest.fixture
def runner(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """Load the script as a module whose reports go into the test's own folder."""
    loader = importlib.machinery.SourceFileLoader("run_tests", str(SCRIPT))
    spec = importlib.util.spec_from_loader("run_tests", loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, "run_tests", module)
    loader.exec_module(module)
    monkeypatch.setattr(module, "ROOT", tmp_path)
    monkeypatch.setattr(module, "REPORTS", tmp_path / ".reports")
    return module


def stage_of(runner: ModuleType, folder: Path, name: str, source: str, **settings: bool) -> Any:
    """Make a stage that runs one file of real tests."""
    tests = folder / f"test_{name}.py"
    tests.write_text(source)
    return runner.Stage(
        name, name.title(), runner.pytest_command(name, "--rootdir", str(folder), str(tests)), **settings
    )


def outcome(
    runner: ModuleType,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    stages: list[Any],
    *arguments: str,
) -> tuple[int, list[str]]:
    """Run the stages; return the exit code and the printed lines."""
    monkeypatch.setattr(runner, "stages", lambda: tuple(stages))
    code = runner.main(arguments)
    return code, capsys.readouterr().out.splitlines()


def test_sums_the_stages_in_the_closing_line(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [stage_of(runner, tmp_path, "one", PASSING), stage_of(runner, tmp_path, "two", PASSING)]
    code, lines = outcome(runner, monkeypatch, capsys, stages)
    assert (code, lines[-1]) == (0, "4 passed, 0 failed, 0 skipped")
    assert (tmp_path / ".reports" / "summary.txt").read_text() == "4 passed, 0 failed, 0 skipped\n"


def test_errors_count_as_failed_and_failures_are_shown(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = outcome(runner, monkeypatch, capsys, [stage_of(runner, tmp_path, "mixed", MIXED)])
    assert (code, lines[-1]) == (1, "1 passed, 2 failed, 1 skipped")
    printed = "\n".join(lines)
    assert "arithmetic is broken" in printed
    assert "no such host" in printed


def test_stops_at_the_first_failing_stage(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [stage_of(runner, tmp_path, "mixed", MIXED), stage_of(runner, tmp_path, "later", PASSING)]
    code, lines = outcome(runner, monkeypatch, capsys, stages)
    assert (code, lines[-1]) == (1, "1 passed, 2 failed, 1 skipped")
    assert not (tmp_path / ".reports" / "later.xml").exists()


def test_keep_going_runs_the_rest_and_still_fails(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [stage_of(runner, tmp_path, "mixed", MIXED), stage_of(runner, tmp_path, "later", PASSING)]
    code, lines = outcome(runner, monkeypatch, capsys, stages, "--keep-going")
    assert (code, lines[-1]) == (1, "3 passed, 2 failed, 1 skipped")


def test_a_stage_without_tests_is_a_failure(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = outcome(runner, monkeypatch, capsys, [runner.Stage("empty", "Empty", ("true",))])
    assert (code, lines[-1]) == (1, "0 passed, 1 failed, 0 skipped")
    assert "no test ran" in "\n".join(lines)


def test_a_stage_that_breaks_after_its_tests_is_a_failure(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stage = stage_of(runner, tmp_path, "one", PASSING)
    command = ("sh", "-c", '"$@"; echo the host could not be destroyed; exit 9', "sh", *stage.command)
    code, lines = outcome(runner, monkeypatch, capsys, [runner.Stage("one", "One", command)])
    assert (code, lines[-1]) == (1, "2 passed, 1 failed, 0 skipped")
    assert "the host could not be destroyed" in "\n".join(lines)


def test_a_failed_task_is_shown_however_much_was_printed_after_it(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    log = "TASK [good] ***\nok: [host]\n\nTASK [install | Install it] ***\nok: [other]\n"
    log += "fatal: [host]: FAILED! =>\n    msg: the repository did not answer\n\nTASK [tidy up] ***\nok: [host]\n"
    command = ("sh", "-c", 'printf "%s" "$1"; seq 1000; exit 2', "sh", log)
    code, lines = outcome(runner, monkeypatch, capsys, [runner.Stage("broken", "Broken", command)])
    printed = "\n".join(lines)
    assert code == 1
    assert "TASK [install | Install it] ***" in printed
    assert "msg: the repository did not answer" in printed
    assert "good" not in printed


def test_a_failed_task_of_a_playbook_that_a_task_ran_is_shown(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    inner = "TASK [Restart it] ***\nfatal: [host]: FAILED! =>\n    msg: it did not come back\n\nTASK [Tidy up] ***\n"
    log = "TASK [Run the playbook] ***\nfatal: [outer]: FAILED! =>\n    stdout: |-\n"
    log += "".join(f"        {line}\n" for line in (*inner.splitlines(), *map(str, range(100))))
    command = ("sh", "-c", 'printf "%s" "$1"; seq 1000; exit 2', "sh", log)
    _, lines = outcome(runner, monkeypatch, capsys, [runner.Stage("broken", "Broken", command)])
    assert "msg: it did not come back" in "\n".join(lines)


def test_a_command_that_is_missing_is_a_failure(
    runner: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, lines = outcome(runner, monkeypatch, capsys, [runner.Stage("gone", "Gone", ("/no/such/command",))])
    assert (code, lines[-1]) == (1, "0 passed, 1 failed, 0 skipped")
    assert "cannot run /no/such/command" in "\n".join(lines)


def test_a_failed_preparation_ends_the_run_even_with_keep_going(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = runner.Stage("prepare", "Prepare", ("false",), is_test=False)
    stages = [prepare, stage_of(runner, tmp_path, "later", PASSING, needs_engine=True)]
    code, lines = outcome(runner, monkeypatch, capsys, stages, "--keep-going")
    assert (code, lines[-1]) == (1, "0 passed, 1 failed, 0 skipped")


def meeting(folder: Path, mine: str, other: str) -> str:
    """Return a test that passes only while the one of the other name runs too."""
    return f"""
import pathlib, time
def test_meets():
    pathlib.Path({str(folder / mine)!r}).touch()
    deadline = time.monotonic() + 60
    while not pathlib.Path({str(folder / other)!r}).exists():
        assert time.monotonic() < deadline
        time.sleep(0.01)
"""


def test_two_rows_run_at_the_same_time(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    stages = [
        stage_of(runner, tmp_path, "one", meeting(tmp_path, "a", "b"), beside=True),
        stage_of(runner, tmp_path, "two", meeting(tmp_path, "b", "a")),
    ]
    code, lines = outcome(runner, monkeypatch, capsys, stages)
    assert (code, lines[-1]) == (0, "2 passed, 0 failed, 0 skipped")


def test_both_rows_wait_for_the_engine_and_one_that_fails_ends_both(
    runner: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    prepare = runner.Stage("prepare", "Prepare", ("sh", "-c", f"sleep 1; touch {tmp_path}/engine"), is_test=False)
    needing = f"import pathlib\ndef test_engine(): assert pathlib.Path({str(tmp_path / 'engine')!r}).exists()\n"
    stages = [
        prepare,
        stage_of(runner, tmp_path, "one", needing, needs_engine=True),
        stage_of(runner, tmp_path, "two", needing + MIXED, needs_engine=True, beside=True),
        stage_of(runner, tmp_path, "three", PASSING, beside=True),
    ]
    code, lines = outcome(runner, monkeypatch, capsys, stages)
    assert (code, lines[-1]) == (1, "3 passed, 2 failed, 1 skipped")
    assert lines[lines.index("=== Three [three]") + 1] == "    not run"


@pytest.mark.parametrize(("floor", "code"), [(50, 0), (100, 1)])
def test_a_stage_fails_whose_tests_reach_less_than_its_floor(
    runner: ModuleType,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    floor: int,
    code: int,
) -> None:
    monkeypatch.delenv("PYTEST_ADDOPTS", raising=False)
    monkeypatch.setitem(runner.FLOORS, "plugins", floor)
    (tmp_path / "plugins").mkdir()
    (tmp_path / "plugins/half.py").write_text("def one():\n    return 1\ndef two():\n    return 2\n")
    test = tmp_path / "test_half.py"
    test.write_text("from plugins import half\ndef test_one(): assert half.one() == 1\n")
    measured = runner.coverage_options("plugins", str(tmp_path), str(tmp_path / ".reports"))
    options = (*measured, "--rootdir", str(tmp_path), str(test))
    stage = runner.Stage("unit", "Unit", runner.pytest_command("unit", *options), covers="plugins")
    ended, lines = outcome(runner, monkeypatch, capsys, [stage])
    assert ended == code
    assert any(line.endswith(f"; 75.0 % of plugins/ covered, {floor} % is the least") for line in lines)
    assert ("Required test coverage of 100% not reached" in "\n".join(lines)) == bool(code)


def test_tests_of_which_some_were_chosen_have_no_floor(runner: ModuleType, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTEST_ADDOPTS", "-m trial")
    assert runner.coverage_options("plugins", "/", "/reports") == ()


def make_scenarios(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).mkdir(parents=True)
        (folder / name / "molecule.yml").touch()


def test_a_named_stage_brings_the_preparation_it_needs(runner: ModuleType, tmp_path: Path) -> None:
    make_scenarios(tmp_path / "molecule", "default")

    def names(*chosen: str) -> list[str]:
        return [stage.name for stage in runner.selected(chosen, runner.stages())]

    assert names("lint", "unit-controller") == ["lint", "unit-controller"]
    assert names("molecule") == ["prepare", "molecule-default"]
    assert names() == ["lint", "unit-controller", "prepare", "unit-app", "molecule-default", "integration"]


def test_an_unknown_stage_is_refused_by_name(runner: ModuleType, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        runner.parse_arguments(["molecul"])
    assert "there is no stage 'molecul'" in capsys.readouterr().err


def test_every_scenario_is_a_stage_and_all_are_chosen_by_one_name(runner: ModuleType, tmp_path: Path) -> None:
    make_scenarios(tmp_path, "fleet", "default")
    (tmp_path / "shared").mkdir()
    prepare = runner.Stage("prepare", "Prepare", (), is_test=False)
    every = (prepare, *runner.molecule_stages(tmp_path))
    assert [stage.name for stage in every] == ["prepare", "molecule-default", "molecule-fleet"]
    assert runner.selected(["molecule"], every) == list(every)
    assert [stage.name for stage in runner.selected(["molecule-fleet"], every)] == ["prepare", "molecule-fleet"]


def test_the_checkouts_own_scenarios_all_run(runner: ModuleType) -> None:
    folder = SCRIPT.parents[1] / "molecule"
    names = [stage.name for stage in runner.molecule_stages(folder)]
    assert "molecule-default" in names
