import json
from pathlib import Path

import pytest
import torch

from tests.unit.app.gpu import SIMULATED, on_a_real_one
from tests.unit.app.support import fresh


def test_torchs_libraries_are_open_before_it_is_imported_and_it_works_with_them() -> None:
    printed = fresh(
        "import json, pathlib, sys\n"
        "from app.start import loader\n"
        "loader._open_torch()\n"
        "opened = 'libtorch_cpu.so' in pathlib.Path('/proc/self/maps').read_text()\n"
        "imported = 'torch' in sys.modules\n"
        "import torch\n"
        "total = float(torch.conv2d(torch.ones(1, 3, 8, 8), torch.ones(2, 3, 3, 3)).sum())\n"
        "print(json.dumps([opened, imported, total]))"
    ).stdout
    opened, imported, total = json.loads(printed)
    assert (opened, imported) == (True, False)
    assert total == float(torch.conv2d(torch.ones(1, 3, 8, 8), torch.ones(2, 3, 3, 3)).sum())


def test_http_needs_no_library_that_would_wait_for_torchs() -> None:
    printed = fresh(
        "import json, sys\n"
        "import ctypes\n"
        "from app import settings\n"
        "from app.start import loader\n"
        "before = set(sys.modules)\n"
        "from app.http import server\n"
        "files = {name: getattr(sys.modules[name], '__file__', None) or '' for name in set(sys.modules) - before}\n"
        "libraries = {name for name, file in files.items() if file.endswith('.so')}\n"
        "print(json.dumps(sorted(libraries - set(loader._LIBRARIES))))"
    ).stdout
    assert json.loads(printed) == []


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
