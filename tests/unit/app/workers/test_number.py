from pathlib import Path
from typing import Any

import pytest

from app.process import cpus
from app.settings import Settings
from app.workers.number import workers


@pytest.mark.parametrize(
    ("cores", "settings", "number"),
    [
        (16, {"device": "cuda", "workers": "auto"}, 7),
        (4, {"require_gpu": True, "workers": "auto"}, 1),
        (5, {"require_gpu": True, "workers": "auto"}, 2),
        (2, {"device": "cuda", "workers": "auto"}, 1),
        (2, {"device": "cuda", "workers": 3}, 3),
        (16, {"device": "cuda"}, 1),
        # Without a derived model, and nobody knows of a GPU before the model is loaded.
        (16, {"workers": "auto"}, 1),
    ],
)
def test_a_gpu_gets_a_front_end_for_each_two_cores_beside_its_own(
    cores: int, settings: dict[str, Any], number: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpus, "available", lambda: cores)
    assert workers(Settings(bundle_path=Path("bundle"), **settings)) == number
