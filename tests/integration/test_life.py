"""A host is treated as hosts are: whatever was done to it, the next run converges, and says only what is true.

The short tests of the suite come first; the matrix of every part and every run is a trial.
"""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterable

import pytest

from tests.integration.support.damage import DAMAGES, PAIRED, release_folder
from tests.integration.support.load import get
from tests.integration.support.playbooks import Host, docker

# The matrix takes every single damage, and this many pairs.
PAIRS = int(os.environ.get("INFERENCE_TEST_PAIRS", "20"))


def served(host: Host) -> str:
    """Return the version that answers, '' when none does."""
    try:
        status, _, headers = get(host.port, "/health/ready")
    except OSError:
        return ""
    return headers["X-Model-Version"] if status == 200 else ""


def damage(host: Host, names: Iterable[str]) -> None:
    """Do what the names say, one after the other."""
    for name in names:
        DAMAGES[name](host)


@pytest.fixture(scope="module")
def serving(host: Host) -> Host:
    """The host with release B live, and A kept."""
    host.deploy()
    host.variables["model_bundle_version"] = "B"
    host.deploy()
    return host


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


@pytest.mark.trial
@pytest.mark.parametrize("names", [*((name,) for name in DAMAGES), *itertools.islice(PAIRED, PAIRS)], ids=" and ".join)
def test_after_any_damage_one_deploy_serves(serving: Host, names: tuple[str, ...]) -> None:
    version = served(serving)
    serving.variables["model_bundle_version"] = version
    damage(serving, names)
    before = served(serving)
    status = serving.play("status")
    assert status.code == 0, status.output[-4000:]
    serving.deploy()
    assert served(serving) == version
    print(f"{' and '.join(names)}: {before or 'nothing'} answered before the deploy")
    assert serving.deploy().changed == 0
    assert "The next deploy mends" not in serving.play("status").output


@pytest.mark.trial
@pytest.mark.parametrize("name", DAMAGES)
def test_after_any_damage_another_release_can_be_deployed(serving: Host, name: str) -> None:
    version = "A" if served(serving) == "B" else "B"
    damage(serving, [name])
    serving.variables["model_bundle_version"] = version
    serving.deploy()
    assert served(serving) == version


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
