"""Loading the model in a thread that begins before HTTP does."""

import contextlib
import gc
import importlib
import importlib.util
import sys
import threading
from concurrent.futures import Future
from typing import TYPE_CHECKING

from app.process import lean
from app.process.timing import Phases
from app.settings import Settings

if TYPE_CHECKING:
    from app.start.derived import Derived
    from app.start.served_model import ServedModel


# A model's thread asks for the interpreter between two operators, some hundred times in a forward. By default it would
# wait 5 ms each time for a thread that imports or parses.
_SWITCH_SECONDS = 0.0005


def _tidy_up() -> None:
    """Collect garbage, and spare the collector what is left between requests."""
    gc.collect()
    gc.freeze()


def _import(*names: str) -> None:
    # What cannot be imported is said by the thread, to whoever waits for the model.
    with contextlib.suppress(ImportError, OSError):
        for name in names:
            importlib.import_module(name)


class Loader:
    """One model on its way; `model` is its future."""

    def __init__(self, settings: Settings, kept_for: Settings | None = None) -> None:
        self.model: Future[ServedModel] = Future()
        self._settings = settings
        # What a derived model was made for; a part of the service has fewer threads.
        self._kept_for = kept_for or settings
        # Whether the log says already why there is no model.
        self.told = False
        self._phases = {"import": 0.0}
        self._begun = False
        self._imported = threading.Event()

    def begin(self) -> None:
        """Start the thread, unless it runs already."""
        if self._begun:
            return
        self._begun = True
        # What is imported stays for good, so looking for garbage in between finds none.
        gc.disable()
        derived = self._has_derived()
        phase = Phases(self._phases)
        if derived:
            _import("app.start.derived")
        phase.ended("import")
        sys.setswitchinterval(_SWITCH_SECONDS)
        threading.Thread(target=self._run, name="loader", daemon=True).start()
        if derived:
            # Beside the proof of its files, which leaves the interpreter to others, but before HTTP: two threads that
            # import take turns, and neither is done early.
            _import("app.images.decoder", "app.engines.openvino_engine")
        self._imported.set()

    def _has_derived(self) -> bool:
        asked = self._kept_for.derived_path and self._kept_for.device == "cpu"
        return bool(asked and importlib.util.find_spec("openvino"))

    def _run(self) -> None:
        try:
            model = self._load()
        except Exception as error:  # it belongs to whoever waits for the model
            self.model.set_exception(error)
        else:
            self.model.set_result(model)
            if "torch" not in sys.modules:
                # What imports left over, for which nobody needs to wait.
                _tidy_up()
        finally:
            gc.enable()

    def _load(self) -> "ServedModel":
        phase = Phases(self._phases)
        from app.start import derived

        phase.ended("import")
        found = derived.find(self._kept_for)
        phase.ended("weights")
        self._imported.wait()
        phase.ended("import")
        return (found and derived.load(self._settings, found, self._phases)) or self._with_torch(found)

    def _with_torch(self, found: "Derived | None") -> "ServedModel":
        phase = Phases(self._phases)
        with lean.imports():
            from app.start import candidates

        phase.ended("import")
        model = candidates.load(self._settings, found, self._phases)
        # The module that was converted has cycles, and would stay for good.
        _tidy_up()
        if model.engine.device == "cuda":
            import torch

            # What the module, first runs and the engines that were tried took is free for others on the device.
            torch.cuda.empty_cache()
        return model
