from pathlib import Path

import pytest

from tests.unit.app.gpu import SIMULATED, on_a_real_one
from tests.unit.app.support import fresh


@pytest.mark.parametrize("device", [pytest.param(SIMULATED, id="simulated"), on_a_real_one("")])
def test_the_module_that_was_folded_does_not_stay_behind(bundle: Path, device: str) -> None:
    fresh(f"""{device}
import gc
import torch
from app.start.loader import Loader
from app.settings import Settings
loader = Loader(Settings(bundle_path={str(bundle)!r}, device="cuda", precision="fp16"))
loader.begin()
model = loader.model.result()
# Whatever was frozen stays for good.
gc.disable()
gc.unfreeze()
kept = [each for each in gc.get_objects() if isinstance(each, torch.nn.Conv2d)]
assert not kept, len(kept)
assert isinstance(model.engine._module, torch.jit.ScriptModule)
""")
