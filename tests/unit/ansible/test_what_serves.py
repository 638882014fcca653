"""What is said of a host after a failure comes from what it answered."""

from __future__ import annotations

import dataclasses

import pytest

from ansible_collections.gpu_hosts.timm.plugins.module_utils.published import Look
from ansible_collections.gpu_hosts.timm.plugins.plugin_utils.what_serves import what_serves

LIVE = dataclasses.asdict(Look(True, "http://127.0.0.1:8000", "127.0.0.1", 8000, "aa", "small", "A"))
SILENT = dataclasses.asdict(Look(reason="http://127.0.0.1:8000: refused"))


@pytest.mark.parametrize(
    ("look", "expected", "said"),
    [
        (LIVE, "aa", "Release aa keeps serving at http://127.0.0.1:8000."),
        (LIVE, "bb", "Release aa (small A) serves at http://127.0.0.1:8000."),
        (LIVE, "", "Release aa (small A) serves at http://127.0.0.1:8000."),
        (SILENT, "aa", "NOTHING ANSWERS where release aa served: http://127.0.0.1:8000: refused."),
        ({**SILENT, "reason": "Try again."}, "aa", "NOTHING ANSWERS where release aa served: Try again."),
        (SILENT, "", "Nothing serves: no release was live before, and what had been started was removed."),
        ({"msg": "Docker is gone"}, "aa", "What is served now is not known: Docker is gone."),
    ],
)
def test_each_look_has_its_sentence(look: dict[str, object], expected: str, said: str) -> None:
    assert what_serves(look, expected) == said


def test_a_release_that_stays_although_it_failed_is_named_as_such() -> None:
    assert what_serves({**LIVE, "release": "cc"}, "aa", "cc").startswith(
        "The new release stays live at http://127.0.0.1:8000"
    )
