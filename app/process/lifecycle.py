"""The life of the process: loading, ready, draining, and the ways it ends."""

import enum
import time

EXIT_OK = 0
EXIT_SETTINGS = 64
EXIT_BUNDLE = 65
EXIT_DEVICE = 70
# Not seen from outside: the process begins again in the same place.
EXIT_AGAIN = 75

# Long enough for a health check to see the failure before the process is gone.
DEVICE_LOST_GRACE_SECONDS = 2.0
# A draining process leaves once nobody has asked for anything this long.
QUIET_SECONDS = 1.0


class State(enum.StrEnum):
    """What the process is doing, as /health/ready calls it."""

    LOADING = "loading"
    READY = "ready"
    DRAINING = "draining"
    GPU_REQUIRED = "gpu_required"
    DEVICE_LOST = "device_lost"
    FAILED = "failed"


class Lifecycle:
    """The state of the process and when it is to end."""

    def __init__(self, drain_seconds: float) -> None:
        self.state = State.LOADING
        self.detail = "The model is being loaded."
        # The state, or why there is no model.
        self.code = str(State.LOADING)
        self.exit_code = EXIT_OK
        self.in_flight = 0
        self._drain_seconds = drain_seconds
        self._last_request = 0.0
        self._exit_at: float | None = None

    def model_loaded(self) -> None:
        """Become ready, unless the process already ends."""
        if self.state is State.LOADING:
            self._enter(State.READY, "")

    def gpu_missing(self, detail: str) -> None:
        """Stay alive without ever becoming ready."""
        if self.state is State.LOADING:
            self._enter(State.GPU_REQUIRED, detail)

    def bundle_refused(self, code: str, detail: str) -> None:
        """End at once: a restart with the same bundle would fail as well."""
        self._enter(State.FAILED, detail, code)
        self._end(EXIT_BUNDLE, after=0)

    def device_lost(self, detail: str) -> None:
        """Fail the health checks, then end, so that the restart policy acts."""
        if self.state is not State.DEVICE_LOST:
            self._enter(State.DEVICE_LOST, detail)
            self._end(EXIT_DEVICE, after=DEVICE_LOST_GRACE_SECONDS)

    def begin_again(self, code: str, detail: str) -> None:
        """End at once, still loading: what takes the process's place leaves out what failed."""
        if self.state is State.LOADING:
            self._enter(State.LOADING, detail, code)
            self._end(EXIT_AGAIN, after=0)

    def drain(self) -> None:
        """Stop being ready; requests that still arrive are answered until nobody asks any more."""
        if self.state not in (State.DRAINING, State.DEVICE_LOST, State.FAILED):
            served = self.state is State.READY
            self._enter(State.DRAINING, "The service is stopping.")
            self._last_request = time.monotonic() if served else 0.0
            self._end(EXIT_OK, after=self._drain_seconds)

    def request_started(self) -> None:
        """Note a request that a drain must wait for."""
        self.in_flight += 1
        self._last_request = time.monotonic()

    def request_ended(self) -> None:
        """Note its end."""
        self.in_flight -= 1

    @property
    def alive(self) -> bool:
        """Whether /health/live says so."""
        return self.state not in (State.DEVICE_LOST, State.FAILED)

    @property
    def draining(self) -> bool:
        """Whether the process was told to stop."""
        return self.state is State.DRAINING

    def remaining(self) -> float:
        """Seconds until the process has to end."""
        return 0.0 if self._exit_at is None else max(0.0, self._exit_at - time.monotonic())

    def finished(self) -> bool:
        """Whether the server should stop now."""
        if self._exit_at is None:
            return False
        if self.state is State.DRAINING and not self.in_flight:
            return time.monotonic() - self._last_request > QUIET_SECONDS or self.remaining() == 0
        return self.remaining() == 0

    def _enter(self, state: State, detail: str, code: str = "") -> None:
        self.state = state
        self.detail = detail
        self.code = code or str(state)

    def _end(self, exit_code: int, after: float) -> None:
        self.exit_code = exit_code
        self._exit_at = time.monotonic() + after
