"""A host is treated as hosts are: whatever was done to it, the next deploy converges, and says only what is true."""

from __future__ import annotations

import pytest

from tests.integration.support.damage import DAMAGES
from tests.integration.support.load import get
from tests.integration.support.playbooks import Host


def serves(host: Host, version: str) -> bool:
    """Return whether the service answers with the version."""
    try:
        status, _, headers = get(host.port, "/health/ready")
    except OSError:
        return False
    return (status, headers["X-Model-Version"]) == (200, version)


@pytest.fixture(scope="module")
def serving(host: Host) -> Host:
    """The host with release B live, and A kept."""
    host.deploy()
    host.deploy(model_bundle_version="B")
    host.variables["model_bundle_version"] = "B"
    return host


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_deploy_of_the_same_release_mends_it(serving: Host, damage: str) -> None:
    DAMAGES[damage](serving)
    print(serving.play("status").output[-3000:])
    run = serving.deploy()
    print(run.output[-3000:])
    assert serves(serving, "B")
    assert serving.deploy().changed == 0
