"""Inside the image: `forward BUNDLE PRECISION SECONDS` prints as JSON which engine serves, and its images a second."""

import json
import sys
from functools import partial
from pathlib import Path
from typing import cast

import numpy as np

from app.bundle.manifest import read
from app.engines.selection import WantedPrecision
from app.errors import BundleError
from bench import engines, limits


def main() -> None:
    """Measure every core; nothing a second where the precision is refused."""
    bundle, seconds = Path(sys.argv[1]), float(sys.argv[3])
    try:
        engine = engines.deployed(bundle, cast(WantedPrecision, sys.argv[2]))
    except BundleError as error:
        print(json.dumps({"engine": error.detail, "rate": 0.0}))
        return
    height, width = read(bundle)[0].input.size[1:]
    images = [np.zeros((height, width, 3), np.uint8)] * engine.max_batch
    rate = limits.rate(partial(limits.forward, engine, images), seconds)
    print(json.dumps({"engine": f"{engine.runtime} {engine.precision}", "rate": rate}))


if __name__ == "__main__":
    main()
