"""Plugins of a few lines, each as Ansible uses it."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.gpu_hosts.timm.plugins.lookup.root_dir import LookupModule
from ansible_collections.gpu_hosts.timm.plugins.module_utils import hold
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.options import default_of
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.reach import reach

REPOSITORY = Path(__file__).resolve().parents[3]


def test_the_collection_lies_where_the_checkout_is() -> None:
    assert LookupModule().run([]) == [str(REPOSITORY)]


@pytest.mark.parametrize(
    ("settings", "place"),
    [({}, "gpu-1"), ({"ansible_host": "192.0.2.1"}, "192.0.2.1"), ({"ansible_host": "a", "deploy_address": "b"}, "b")],
)
def test_a_host_is_reached_at(settings: dict[str, str], place: str) -> None:
    assert reach("gpu-1", settings) == place


def test_a_hold_that_ended_is_not_begun_anew_by_a_sign_of_life(tmp_path: Path) -> None:
    sign = tmp_path / "conf" / "hold.alive"
    sign.parent.mkdir()
    hold.go_on(tmp_path)
    assert not sign.exists()
    hold.begin(tmp_path)
    os.utime(sign, (0, 0))
    hold.go_on(tmp_path)
    assert sign.stat().st_mtime > 0
    hold.end(tmp_path)
    hold.go_on(tmp_path)
    assert not sign.exists()


@pytest.mark.parametrize(
    ("variables", "value"),
    [({}, "/var/lib/timm-classifier"), ({"inference_service_state_dir": "/srv/{{ name }}", "name": "x"}, "/srv/x")],
)
def test_an_option_is_what_is_set_or_the_default_of_its_role(variables: dict[str, str], value: str) -> None:
    given = {name: trust_as_template(text) for name, text in variables.items()}
    templar = Templar(loader=DataLoader(), variables=given)
    template = trust_as_template("{{ lookup('gpu_hosts.timm.option', 'inference_service_state_dir') }}")
    assert templar.template(template) == value


def test_what_is_no_option_is_refused() -> None:
    with pytest.raises(KeyError):
        default_of("inference_service_stat_dir")
