"""Inside the image: a bundle's model as the service would run it on this CPU, or in a way that is asked for.

    docker run --rm -v "$PWD/bench:/bench:ro" -v "$PWD/models/NAME/1:/bundle:ro" -e PYTHONPATH=/app:/ IMAGE \
        python -m bench.engines /bundle

Prints a table of every way to compute the model: how fast, how much it changes the golden samples, and which is taken.
"""

import sys
import tempfile
import threading
from pathlib import Path
from typing import TYPE_CHECKING

from app.derive import derive
from app.engines.engine import Build, Engine
from app.engines.selection import Selection, WantedPrecision
from app.settings import Settings
from app.start import candidates
from app.start.loader import Loader
from bench.figures import table

if TYPE_CHECKING:
    import openvino

# Pixels of the largest picture that is measured with.
LARGEST = 50_000_000


def _asked(folder: Path, max_batch: int, precision: WantedPrecision = "auto") -> Settings:
    return Settings(bundle_path=folder, device="cpu", max_batch=max_batch, precision=precision)


def build(folder: Path, max_batch: int) -> Build:
    """What makes engines of a bundle's model."""
    return candidates.prepare(_asked(folder, max_batch))[0]


def as_served(folder: Path, max_batch: int, precision: WantedPrecision = "auto") -> Selection:
    """What the service would choose."""
    asked = _asked(folder, max_batch, precision)
    return candidates.choose(asked, *candidates.prepare(asked))


def deployed(folder: Path, precision: WantedPrecision = "auto") -> Engine:
    """What a deployment computes with: what is made of the bundle once and kept."""
    with tempfile.TemporaryDirectory() as kept:
        asked = Settings(bundle_path=folder, device="cpu", precision=precision, derived_path=Path(kept))
        derive(asked)
        loading = Loader(asked)
        loading.begin()
        engine = loading.model.result().engine
    for thread in threading.enumerate():
        if thread.name == "lone":
            thread.join()
    if not isinstance(engine, Engine):
        raise TypeError(engine)
    return engine


def converted(folder: Path) -> "openvino.Model":
    """What OpenVINO computes of a bundle's model."""
    return candidates.prepare(_asked(folder, 1))[0].converted()


def main() -> None:
    """Print what was tried on each bundle."""
    head = ["bundle", "engine", "images a second, every core", "largest change", "outcome"]
    rows = []
    for name in sys.argv[1:]:
        selection = as_served(Path(name), 4)
        for trial in selection.trials:
            taken = (trial.engine, trial.precision) == (selection.engine.runtime, selection.engine.precision)
            rate = f"{1 / trial.seconds:.1f}" if trial.seconds else ""
            change = "" if trial.change is None else f"{trial.change:.2g}"
            outcome = trial.refused or ("taken" if taken else "")
            rows.append([name, f"{trial.engine} {trial.precision}", rate, change, outcome])
    print(table(head, rows))


if __name__ == "__main__":
    main()
