"""What waits for the service waits as long as its own settings want."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
import yaml
from ansible.errors import AnsibleFilterError
from ansible.parsing.dataloader import DataLoader
from ansible.template import Templar, trust_as_template

from ansible_collections.gpu_hosts.timm.plugins.filter.deadlines import DEFAULTS, answer_seconds, grace_seconds

ROOT = Path(__file__).resolve().parents[3]


def test_the_defaults_are_those_of_the_service() -> None:
    settings = (ROOT / "app/settings.py").read_text(encoding="utf-8")
    for name, value in DEFAULTS.items():
        declared = re.search(rf"    {name.removeprefix('API_').lower()}: float = Field\(\s*default=([\d.]+)", settings)
        assert declared, name
        assert float(declared[1]) == value


@pytest.mark.parametrize(
    ("given", "seconds"), [({}, 45), ({"API_DRAIN_SECONDS": 120}, 135), ({"API_DRAIN_SECONDS": "0.5"}, 16)]
)
def test_an_instance_may_drain_before_the_engine_kills_it(given: dict[str, Any], seconds: int) -> None:
    assert grace_seconds(given) == seconds
    template = (ROOT / "roles/inference_service/templates/docker-compose.managed.yml.j2").read_text(encoding="utf-8")
    templar = Templar(loader=DataLoader(), variables={"inference_service_env": given, "device": "cuda"})
    rendered = re.search(r"stop_grace_period: \S+", templar.template(trust_as_template(template)))
    assert rendered
    assert rendered[0] == f"stop_grace_period: {seconds}s"


@pytest.mark.parametrize(
    ("services", "seconds"),
    [
        ([], 75),
        ([{}], 75),
        ([{"API_REQUEST_TIMEOUT_SECONDS": 120}], 165),
        ([{"API_REQUEST_TIMEOUT_SECONDS": "5"}, {}], 75),
    ],
)
def test_a_gateway_waits_for_the_services_own_answer(services: list[dict[str, Any]], seconds: int) -> None:
    assert answer_seconds(services) == seconds
    if len(services) == 1:
        defaults = yaml.safe_load((ROOT / "roles/gateway/defaults/main.yml").read_text(encoding="utf-8"))
        templar = Templar(loader=DataLoader(), variables={"inference_service_env": services[0]})
        assert templar.template(trust_as_template(defaults["gateway_answer_seconds"])) == seconds


def test_what_is_no_number_is_refused_by_name() -> None:
    with pytest.raises(AnsibleFilterError, match=r"API_DRAIN_SECONDS is 'long'. Set a number of seconds."):
        grace_seconds({"API_DRAIN_SECONDS": "long"})
