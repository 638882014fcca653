"""A front end without HTTP whose clients ask all the time, as a program: `python -m tests.unit.app.front_load DOOR`.

Prints a line for every so many right answers, and how it ends.
"""

import asyncio
import itertools
import json
import sys
from collections import Counter
from pathlib import Path

import numpy as np

from app.errors import ServiceError
from app.fronts import channel
from app.fronts.remote import Remote
from app.fronts.remote_engine import RemoteEngine
from app.fronts.remote_loader import RemoteLoader
from app.process.metrics import Metrics
from app.settings import Settings
from tests.unit.app.decoded import as_decoded
from tests.unit.app.sleeping import answer

CLIENTS = 24
EVERY = 100


async def main() -> None:
    """Ask until the device is lost."""
    loader = RemoteLoader(Settings(bundle_path=Path("bundle")), channel.inherited(int(sys.argv[1])))
    loader.begin()
    model = await asyncio.wrap_future(loader.model)
    engine = model.engine
    assert isinstance(engine, RemoteEngine)
    remote = Remote(engine, Metrics(256), lambda _: None, threads=2)
    shape = (engine.slots.layout.height, engine.slots.layout.width, 3)
    shades = itertools.cycle(range(256))
    ended: Counter[str] = Counter()
    right = 0

    async def ask() -> None:
        nonlocal right
        while True:
            shade = next(shades)
            try:
                result = await remote.submit(as_decoded(np.full(shape, shade, np.uint8)))
            except ServiceError as error:
                ended[error.code] += 1
                return
            assert result.ranking == answer(shade)
            right += 1
            if right % EVERY == 0:
                print(right, flush=True)

    await asyncio.gather(*(ask() for _ in range(CLIENTS)))
    print(json.dumps(ended), flush=True)


if __name__ == "__main__":
    asyncio.run(main())
