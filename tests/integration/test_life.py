"""A host is treated as hosts are: whatever was done to it, the next run converges, and says only what is true.

The short tests of the suite come first; the matrix of every part and every run is a trial.
"""

from __future__ import annotations

import contextlib
import http.client
import itertools
import json
import os
import threading
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.docker_host import LABEL_RELEASE
from tests.integration.support.damage import CRASHING, DAMAGES, PAIRED, newest_record, release_folder
from tests.integration.support.load import get
from tests.integration.support.playbooks import ROOT, Host, Run, docker

# Longer than a gateway takes to notice that an instance is gone.
NOTICED_SECONDS = 3
# The matrix takes every single damage with every run, and this many pairs; what the runs said goes to .reports/life.
PAIRS = int(os.environ.get("INFERENCE_TEST_PAIRS", "20"))


def answer(port: int) -> str:
    """Return the version that answers, '' when none does."""
    try:
        status, _, headers = get(port, "/health/ready", timeout=30)
    except (OSError, ValueError, http.client.HTTPException):
        return ""
    return headers["X-Model-Version"] if status == 200 else ""


def served(host: Host) -> str:
    """Return the version that a host answers with, '' when it does not."""
    return answer(host.port)


def served_soon(host: Host) -> str:
    """Return what a host answers with that has just been started, '' when it does not within half a minute."""
    deadline = time.monotonic() + 30
    while not (version := served(host)) and time.monotonic() < deadline:
        time.sleep(0.2)
    return version


def served_still(host: Host) -> str:
    """Return what a host answers with when its gateway has noticed what was done to it, '' when it does not.

    A request that came before that is answered by an instance that starts, and the next ones find nobody.
    """
    version = served(host)
    while version:
        time.sleep(NOTICED_SECONDS)
        before, version = version, served(host)
        if before == version:
            break
    return version


def damage(host: Host, names: Iterable[str]) -> None:
    """Do what the names say, one after the other."""
    for name in names:
        DAMAGES[name](host)


def begin_anew(host: Host) -> None:
    """Leave release B live, and A kept, and nothing else."""
    host.remove()
    for version in "AB":
        host.variables["model_bundle_version"] = version
        host.deploy()


@pytest.fixture(scope="module")
def serving(host: Host) -> Host:
    """The host with release B live, and A kept."""
    begin_anew(host)
    return host


def goes_back(host: Host) -> bool:
    """Return whether a rollback has somewhere to go: the newest record is of a deploy, and both releases are kept."""
    newest: dict[str, Any] = {}
    with contextlib.suppress(OSError, ValueError, IndexError):
        newest = json.loads(newest_record(host).read_text())
    kept = list((host.state_dir / "releases").glob("*/release.json"))
    former = newest.get("previous", "")
    return newest.get("action") == "deploy" and former not in ("", newest["release_id"]) and len(kept) > 1


@pytest.fixture
def whole(serving: Host, run: str) -> Host:
    """The host with one release live and one to go back to, whatever the tests before did to it."""
    version = served(serving)
    if not version:
        begin_anew(serving)
    else:
        serving.variables["model_bundle_version"] = version
    if run == "rollback" and not goes_back(serving):
        serving.variables["model_bundle_version"] = "A" if serving.variables["model_bundle_version"] == "B" else "B"
        serving.deploy()
    return serving


@contextlib.contextmanager
def begun_anew_after_a_failure(host: Host) -> Iterator[None]:
    """Leave nothing of a test that failed, so that the one after it says something of its own."""
    try:
        yield
    except BaseException:
        begin_anew(host)
        raise


class Watch:
    """Asks the service whether it is ready ten times a second, each time over a new connection."""

    def __init__(self, port: int) -> None:
        self._port = port
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self.answers: list[str] = []

    def __enter__(self) -> Self:
        """Begin to ask."""
        self._thread.start()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        """End after the request that is under way."""
        self._stop.set()
        self._thread.join(timeout=60)

    def _run(self) -> None:
        while not self._stop.wait(0.1):
            self.answers.append(answer(self._port))

    def failed(self) -> int:
        """Return how many requests failed after the first that was answered, or all when none was."""
        first = next((index for index, word in enumerate(self.answers) if word), 0)
        return sum(not word for word in self.answers[first:])


def test_a_lost_network_a_lost_map_and_an_unreadable_record_are_mended_by_one_deploy(serving: Host) -> None:
    damage(serving, ["a record emptied", "the network removed", "the map emptied", "the gateway restarted"])
    assert served(serving) == ""
    serving.deploy()
    assert served(serving) == "B"


def test_with_nothing_live_a_rollback_brings_the_last_good_release_then_the_one_before(serving: Host) -> None:
    damage(serving, ["the instance removed", "the gateway removed"])
    for version in "BA":
        run = serving.play("rollback")
        assert run.code == 0, run.output[-4000:]
        assert served(serving) == version
    # What the next test damages.
    serving.deploy()


def test_a_map_file_that_would_stop_the_next_start_and_a_lost_state_folder_are_mended_while_it_serves(
    serving: Host,
) -> None:
    damage(serving, ["the map for the other color"])
    serving.deploy()
    damage(serving, ["the gateway restarted"])
    assert served_soon(serving) == "B"
    damage(serving, ["the state folder removed"])
    with Watch(serving.port) as watch:
        serving.deploy()
    assert not watch.failed()
    assert served(serving) == "B"


# Each run leaves what the next one needs: a rollback goes back from what a deploy of the other release brought.
RUNS = ("same", "other", "rollback")
CELLS = [
    *(((name,), run) for name in DAMAGES for run in RUNS),
    *((names, "same") for names in (*itertools.islice(PAIRED, PAIRS), *CRASHING)),
]


@pytest.mark.trial
@pytest.mark.parametrize(("names", "run"), CELLS, ids=[f"{' and '.join(names)}-{run}" for names, run in CELLS])
def test_after_any_damage_one_run_serves(whole: Host, names: tuple[str, ...], run: str) -> None:
    said = Path(ROOT, ".reports", "life", f"{run}: {' and '.join(names)}.txt")
    said.parent.mkdir(parents=True, exist_ok=True)
    said.unlink(missing_ok=True)

    def play(playbook: str) -> Run:
        """Run a playbook, and keep what it said."""
        done = whole.play(playbook)
        with said.open("a") as file:
            file.write(f"=== {playbook}: {done.code}\n{done.output}\n")
        return done

    with begun_anew_after_a_failure(whole):
        version = served(whole)
        release = whole.instance()["Config"]["Labels"][LABEL_RELEASE]
        other = "A" if version == "B" else "B"
        whole.variables["model_bundle_version"] = other if run == "other" else version
        damage(whole, names)
        before = served_still(whole)
        is_left = any(item["Config"]["Labels"].get(LABEL_RELEASE) == release for item in whole.containers())
        if run == "same":
            status = play("status")
            assert status.code == 0, status.output[-4000:]
        with Watch(whole.port) as watch:
            done = play("rollback" if run == "rollback" else "deploy")
        with said.open("a") as file:
            file.write(f"=== {before or 'nothing'} answered before, {watch.failed()} of {len(watch.answers)} failed\n")
        refused = run == "rollback" and done.code != 0
        if refused:
            # What the records do not tell, or is gone, cannot be gone back to; nothing is touched, and a deploy mends.
            said_why = ("no release to go back to", "is missing. Nothing was changed.")
            assert any(why in " ".join(done.output.split()) for why in said_why), done.output[-4000:]
            assert served(whole) == before
            done = play("deploy")
            wanted = version
        else:
            # Where no instance of it is left a rollback brings the last good release, not the one before it.
            wanted = version if run == "same" or (run == "rollback" and not is_left) else other
        assert done.code == 0, done.output[-6000:]
        assert served(whole) == wanted
        # A rollback that has nowhere to go touches nothing, be it an outage.
        assert not watch.failed() or (refused and not before)
        assert not before or watch.answers[0]
        # Nothing is left to do: by a deploy after each single damage, in the words of the status after a pair.
        if run == "same" and len(names) == 1:
            assert play("deploy").changed == 0
        elif run == "same":
            assert "The next deploy repairs it" not in play("status").output


@pytest.mark.trial
def test_a_rollback_without_its_image_is_refused_before_anything_is_touched(serving: Host) -> None:
    kept, folder = served(serving), release_folder(serving)
    before = docker("ps", "--format={{.ID}}", f"--filter=label=inference-service.name={serving.name}")
    description = next(path for path in folder.parent.glob("*/release.json") if path.parent != folder)
    content = description.read_text()
    image = next(word for word in content.split('"') if word.startswith("sha256:"))
    description.write_text(content.replace(image, f"sha256:{'0' * 64}"))
    run = serving.play("rollback", inference_service_release=description.parent.name)
    assert run.code != 0
    assert "is no longer on this host" in " ".join(run.output.split())
    assert served(serving) == kept
    assert docker("ps", "--format={{.ID}}", f"--filter=label=inference-service.name={serving.name}") == before
