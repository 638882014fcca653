"""Loading the model in a thread that begins before HTTP does: importing torch takes as long as everything after it."""

import ctypes
import gc
import importlib
import importlib.util
import os
import sys
import threading
import time
from concurrent.futures import Future
from pathlib import Path
from typing import TYPE_CHECKING

from app.process import lean
from app.settings import Settings

if TYPE_CHECKING:
    from app.start.derived import Derived
    from app.start.served_model import ServedModel


# A model's thread asks for the interpreter between two operators, some hundred times in a forward. By default it would
# wait 5 ms each time for a thread that imports or parses.
_SWITCH_SECONDS = 0.0005
# Modules that HTTP needs and that are libraries: the linker opens one at a time, and they would wait.
_LIBRARIES = (
    *("_multiprocessing", "_queue", "mmap", "resource"),
    *("httptools.parser.parser", "httptools.parser.url_parser"),
)


def _open_torch() -> None:
    """Have the linker open torch's own libraries while the interpreter does something else, like importing HTTP.

    An import opens them too, but keeps the interpreter to itself for as long; a call of a C function does not.
    Where they are elsewhere, or cannot be opened, the import does it and says what is wrong.
    """
    found = importlib.util.find_spec("torch")
    for folder in (found.submodule_search_locations or ()) if found else ():
        library = Path(folder) / "lib" / "libtorch.so"
        ctypes.CDLL(None).dlopen(ctypes.c_char_p(bytes(library)), ctypes.c_int(os.RTLD_NOW))


class Loader:
    """One model on its way; `model` is its future."""

    def __init__(self, settings: Settings, kept_for: Settings | None = None) -> None:
        self.model: Future[ServedModel] = Future()
        self._settings = settings
        # What a derived model was made for; a part of the service has fewer threads.
        self._kept_for = kept_for or settings
        self._begun = False

    def begin(self) -> None:
        """Start the thread, unless it runs already."""
        if not self._begun:
            self._begun = True
            for name in _LIBRARIES:
                importlib.import_module(name)
            sys.setswitchinterval(_SWITCH_SECONDS)
            threading.Thread(target=self._run, name="loader", daemon=True).start()

    def _run(self) -> None:
        started = time.perf_counter()
        # What is imported stays for good, so looking for garbage in between finds none.
        gc.disable()
        try:
            from app.start import derived

            phases = {"import": time.perf_counter() - started}
            found = derived.find(self._kept_for)
            kept = found and derived.load(self._settings, found, phases)
            model = kept or self._with_torch(found, phases)
            # The module that was converted has cycles, and would stay for good.
            gc.collect()
            if model.engine.device == "cuda":
                import torch

                # What the module, first runs and the engines that were tried took is free for others on the device.
                torch.cuda.empty_cache()
            # Nor need the collector walk through it between requests.
            gc.freeze()
        except Exception as error:  # it belongs to whoever waits for the model
            self.model.set_exception(error)
        else:
            self.model.set_result(model)
        finally:
            gc.enable()

    def _with_torch(self, found: "Derived | None", phases: dict[str, float]) -> "ServedModel":
        started = time.perf_counter()
        _open_torch()
        with lean.imports():
            from app.start import candidates

        phases["import"] += time.perf_counter() - started
        return candidates.load(self._settings, found, phases)
