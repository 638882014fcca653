"""`python -m app.derive`: make of a bundle what a CPU computes, and keep it, so that starts need not.

It reads the same settings as the service; the result is in API_DERIVED_PATH.
"""

import fcntl
import json
import logging
import os
import shutil
import signal
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path

from app import settings
from app.bundle import manifest as manifests
from app.errors import BundleError, ServiceError, SettingsError
from app.process import lean, logs
from app.settings import Settings
from app.start import derived
from app.start.derived import Choice

# What the name of a folder begins with that is not complete yet.
_UNFINISHED = ".unfinished-"


def main() -> int:
    """Make what is not there; its description is one JSON object on stdout, a failure one line on stderr and exit 1."""
    # What ends it in the middle is said, too, and nothing half made is left.
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    try:
        configured = settings.load()
        logs.configure("error")
        result = derive(configured)
    except (SettingsError, BundleError, ServiceError) as error:
        sys.stderr.write(f"error[{error.code}]: {error.detail}\n")
        return 1
    except OSError as error:
        sys.stderr.write(f"error[storage]: {error.strerror or error}: {error.filename or configured.derived_path}.\n")
        return 1
    except KeyboardInterrupt:
        sys.stderr.write("error[ended]: It was ended before the model was made. Give it more time or CPUs.\n")
        return 1
    sys.stdout.write(json.dumps(result, ensure_ascii=False) + "\n")
    return 0


def derive(configured: Settings) -> dict[str, object]:
    """Make the derived model, unless it is there in good order."""
    root, directory = configured.derived_path, configured.bundle_path
    if root is None or directory is None or configured.device != "cpu":
        raise SettingsError(
            "no_derived_path",
            "A model is derived of a bundle, for a CPU: set API_BUNDLE_PATH, API_DERIVED_PATH, and API_DEVICE to cpu.",
        )
    sha256 = manifests.read(directory)[1]
    folder = derived.place(root, sha256, configured)
    descriptor = os.open(root, os.O_RDONLY)
    try:
        # Another process that makes it is waited for.
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        choice, made = _kept(folder, sha256), False
        if choice is None:
            choice, made = _make(configured, folder, sha256), True
    finally:
        os.close(descriptor)
    return {
        "made": made,
        "path": str(folder),
        "engine": choice.engine,
        "precision": choice.precision,
        "reason": choice.reason,
        "bytes": sum(entry.bytes for entry in choice.files),
    }


def _kept(folder: Path, sha256: str) -> Choice | None:
    try:
        return derived.read(folder, sha256)
    except (OSError, ValueError):  # nothing, or what is damaged
        return None


def _make(configured: Settings, folder: Path, sha256: str) -> Choice:
    with lean.imports():
        import torch

        from app.start import candidates

    # What a run left that was ended here; what else lies there is somebody's own.
    for unfinished in folder.parent.glob(f"{_UNFINISHED}*"):
        if unfinished.is_dir() and not unfinished.is_symlink():
            shutil.rmtree(unfinished)
    builder, source = candidates.prepare(configured)
    selected = candidates.choose(configured, builder, source)
    staging = Path(tempfile.mkdtemp(prefix=_UNFINISHED, dir=folder.parent))
    try:
        if selected.engine.runtime == "openvino":
            import openvino

            openvino.save_model(builder.converted(), staging / derived.MODEL, compress_to_fp16=False)
        choice = Choice(
            bundle_sha256=sha256,
            engine=selected.engine.runtime,
            precision=selected.engine.precision,
            seconds=selected.seconds,
            reason=selected.reason,
            trials=selected.trials,
            torch_version=torch.__version__,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
            files=tuple(manifests.describe(path, staging) for path in sorted(staging.iterdir())),
        )
        (staging / derived.FILE_NAME).write_text(choice.model_dump_json(indent=2) + "\n", encoding="utf-8")
        # The service is another user.
        for path in (staging, *staging.iterdir()):
            path.chmod(0o755 if path.is_dir() else 0o644)
    except BaseException:
        shutil.rmtree(staging)
        raise
    if folder.exists():
        folder.rename(staging.with_name(f"{staging.name}.damaged"))
        shutil.rmtree(staging.with_name(f"{staging.name}.damaged"))
    staging.rename(folder)
    return choice


if __name__ == "__main__":
    code = main()
    logging.shutdown()
    sys.stdout.flush()
    # Threads of the engines that were tried may still be inside a library.
    os._exit(code)
