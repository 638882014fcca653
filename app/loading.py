"""Loading the model in a thread that begins before HTTP does: importing torch takes as long as everything after it."""

import gc
import sys
import threading
import time
from concurrent.futures import Future
from typing import TYPE_CHECKING

from app import lean
from app.settings import Settings

if TYPE_CHECKING:
    from app.serving import ServedModel


# A model's thread asks for the interpreter between two operators, some hundred times in a forward. By default it would
# wait 5 ms each time for a thread that imports or parses.
_SWITCH_SECONDS = 0.0005


class Loading:
    """One model on its way; `model` is its future."""

    def __init__(self, settings: Settings) -> None:
        self.model: Future[ServedModel] = Future()
        self._settings = settings
        self._begun = False
        self._computing = threading.Event()

    def begin(self) -> None:
        """Start the thread, unless it runs already."""
        if not self._begun:
            self._begun = True
            threading.Thread(target=self._run, name="loader", daemon=True).start()

    def wait_until_computing(self) -> None:
        """Return once the thread leaves the interpreter to others: imports beside its own would only slow both."""
        self._computing.wait()

    def _run(self) -> None:
        started = time.perf_counter()
        # What is imported stays for good, so looking for garbage in between finds none.
        gc.disable()
        sys.setswitchinterval(_SWITCH_SECONDS)
        try:
            with lean.imports():
                from app import serving

            phases = {"import": time.perf_counter() - started}
            model = serving.load(self._settings, phases, self._computing.set)
            # Nor need the collector walk through it between requests.
            gc.freeze()
        except Exception as error:  # it belongs to whoever waits for the model
            self.model.set_exception(error)
        else:
            self.model.set_result(model)
        finally:
            gc.enable()
            self._computing.set()
